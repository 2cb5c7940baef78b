"""Whether a text tells what happened to something of the caller's own, and asks about that: "I topped up my card
yesterday, why is it still pending?" The day is part of the story, and the right answer is the same on any other.

Only where all of it is understood: a thing such as a card, an order or an account; sentences that tell; questions that
have a rule or a procedure for an answer. Everything else stays bound by time, which costs a hit."""

from __future__ import annotations

import re
from collections.abc import Callable

MOST_CHARS = 600
"""What is longer is hardly one story, and to read it takes milliseconds."""
_THINGS = (
    r"cards?|accounts?|payments?|transfers?|transferred|transactions?|top(?:ped)?[ -]?ups?|topped|topping|pin|passcode|"
    r"passwords?|orders?|ordered|purchased?|purchases|refund(?:s|ed)?|charged?|charges|overcharged|withdrawals?|"
    r"withdrew|withdraw|atm|deposit(?:s|ed)?|cheque|debit|subscription|invoice|parcel|package|login|"
    r"karten?|konto|zahlung|überweisung|bestellung|bestellt|rechnung|passwort|"
    r"carte|compte|paiement|virement|commande|commandé|facture|"
    r"tarjeta|cuenta|pago|transferencia|pedido|factura|contraseña"
)
_WORLD = (
    r"open(?:s|ing)?|close[sd]?|closing|hours of|branch|store|shops?|office|markets?|stocks?|shares?|portfolio|crypto|"
    r"bitcoin|election|games?|teams?|match|flight|train|bus|weather|rain|snow|inflation|calendar|schedule|meetings?|"
    r"dates?|days? (?:is|was|are)|in time|(?:by|before|until|till|on) (?:the )?(?:\d|may\b|end)|working day|weekdays?|"
    r"weekends?|(?:bank |public )holidays?|christmas|easter|new year|birthday|january|february|march|april|june|july|"
    r"august|september|october|november|december|(?<!last )(?<!this )(?:mon|tues|wednes|thurs|fri|satur|sun)days?|"
    r"geöffnet|offen|ferm[eé]e?s?|ouverte?s?|abiert[oa]s?|cerrad[oa]s?"
)
"""With one of these, it may be about more than the thing."""
_OWN = (
    r"i|i'?m|i'?ve|i'?d|my|mine|me|we|our|us|ich|meine?[nmrs]?|mir|mich|wir|unsere?[nmrs]?|je|mon|ma|mes|nous|nos|notre|"
    r"yo|mis?|nuestr[oa]s?"
)
_RECORDS = (
    r"lists?|statements?|reports?|summary|overview|details|history|transactions|payments|charges|orders|balance|"
    r"receipts?"
)
_SPANS = r"minutes?|hours?|days?|nights?|weeks?|months?|years?|(?:mon|tues|wednes|thurs|fri|satur|sun)day"
_OPENING = (
    r"(?:(?:hi|hello|hey|please|so|and|but|ok|okay|sorry|also|well|hallo|bitte|und|bonjour|et|hola|y|pero|help|dude|sir|"
    r"there|good (?:morning|afternoon|evening))\b[ ,.!]*)*"
)
_WHEN = (
    r"(?:(?:earlier )?(?:today|yesterday|tonight|recently|just now)|"
    r"(?:earlier |over |in |during |for )?(?:the |this |last |past |next )+(?:few |couple of |two |three )?"
    rf"(?:morning|afternoon|evening|{_SPANS})|(?:\w+ ){{0,3}}\w+ (?:{_SPANS}) ago|heute|gestern|neulich|hier|ayer|hoy)"
)
_WHO = (
    r"(?:(?:i|we|it|they|he|she|you|there|someone|somebody|something|nothing|im|ive|ich|wir|es|je|il|nous|yo|me)"
    r"(?:'\w+)?\b|j')"
)
_DOES = (
    r"(?:is|are|was|were|has|had|have|will|would|does|do|did|can|could|should|must|\w+n'?t|cannot|keeps?|kept|got|went|"
    r"came|failed|stopped|expires?|wurde|ist|war|hat|a été|est|fue|está)"
)

_has_thing = re.compile(rf"\b(?:{_THINGS})\b").search
_has_world = re.compile(rf"\b(?:{_WORLD})\b").search
_is_own = re.compile(rf"\b(?:{_OWN})\b|\bj'").search
_split = re.compile(
    r"(?<=[.!?])[\s\"')]*(?=\S)|\s*[;¿¡]\s*|,\s+(?=(?:(?:why|what now|can (?:you|i)|could you|please)\b|"
    r"how (?:do|can) i\b|what (?:can|should|do) i\b|what(?:'s| is) (?:wrong|going on)))"
).split
_asks = re.compile(
    rf"{_OPENING}(?:wh(?:o|at|ich|ere|en(?! (?:i|we) )|y|ose)|how|"
    r"(?:is|are|was|were|do|does|did|ca|could|wo|would|should|has|have|had)n'?t|"
    r"is|are|am|was|were|do|does|did|can|could|may|might|will|would|should|has|have|had|shall|tell|give|show|list|"
    r"find|get|write|make|summari[sz]e|explain|describe|name|say|check|look|calculate|count|remind|read|"
    r"compare|translate|let|cancel|fix|refund|stop|freeze|remove|"
    r"wer|was|wie|wo|wann|warum|wieso|welche[nmrs]?|kann|könnt?en?|darf|ist|sind|hat|zeige?|sag|gib|nenne?|"
    r"qui|que|quel|quelle|quand|quoi|comment|pourquoi|où|est|combien|puis|peux|pouvez|dis|donne|montre|"
    r"qué|quién|cuál|cuándo|cuánto|cómo|por qué|dónde|puedo|puede|dime|dame|muestra)\b"
).match
_tells = re.compile(
    rf"{_OPENING}(?:{_WHO}|{_WHEN},? (?:{_WHO}|my |the |wurde |habe |ha |pagué )|"
    r"when (?:i|we) [^,]{3,80}, |(?:as|since|after|if|because|although) |"
    r"(?:my|our|the|a|an|this|that|one|money|cash|mein\w*|die|der|das|ma|mon|la|le|mi|el) "
    rf"(?:(?!i\b|that\b|which\b|who\b|from\b|we\b)[\w'-]+ ){{0,5}}?{_DOES}\b)"
).match
"""A whole sentence: "my transactions today" is a question."""
_wants_to_know = re.compile(
    r"\b(?:to|please|can|could|us|let) (?:know|see|view|list|show|tell|find out|learn|check)\b|"
    r"\b(?:tell|show|give|send|list|remind) (?:me|us)\b|\bwonder|\bcurious\b|"
    rf"\b(?:want|need|like|get|receive|looking for|wish for)(?: (?!to\b)[\w']+){{0,4}} (?:{_RECORDS})\b"
).search
_has_rule = re.compile(
    rf"{_OPENING}(?:(?:why|how (?:come|to|(?:do|can|could|should|would) (?:i|we))|"
    r"how (?:long|much longer)(?! until| till| ago)|what now|"
    r"(?:cancel|fix|refund|stop|freeze|unfreeze|block|unblock|delete|remove|replace|activate|reactivate|reverse)|"
    r"what (?:can|could|do|should|must) (?:i|we) (?:need to )?do\b(?! with| in| at| on| to(?:day|night|morrow)| this)|"
    r"what(?:'s| is) (?:wrong|up with|the (?:problem|issue|reason))|"
    r"warum|wieso|weshalb|wie (?:kann|soll|muss) ich|was (?:kann|soll|muss) ich|"
    r"pourquoi|comment (?:puis-je|faire|dois-je)|que (?:puis-je|dois-je|faire)|"
    r"por qué|cómo (?:puedo|hago|debo)|qué (?:puedo|debo|hago|tengo que))\b|"
    r"what(?:(?:'s| is)? (?:going on|happening)|(?: has)? happened)(?: here)?\W*$)"
).match
_pleads = re.compile(
    rf"{_OPENING}(?:(?:can|could|may|might|would) (?:i|we|you|someone|anyone)|(?:can|could) (?:it|this|that) be|"
    r"do i (?:need|have) to|is (?:it|this|that|there|something|anything) (?:possible|ok|okay|normal|too late|fine|"
    r"allowed|safe|(?:(?:any|an?|some)(?:thing)? )?(?:wrong|way|problem|issue|error|mistake|reason|fee))|"
    r"where(?:'s| is)|shouldn'?t|"
    r"kann ich|könnte ich|darf ich|können \w+|puis-je|pouvez-vous|est-ce que je peux|puedo|pueden|podría)\b"
).match
_is_past = re.compile(
    r"\b(?:yesterday|ago|recent|recently|latest|just now|until now|by now|so far|this morning|earlier|last|past|"
    r"gestern|neulich|kürzlich|hier|récemment|ayer|hace|recientemente)\b"
).search
_is_ahead = re.compile(
    r"\b(?:now|today|tonight|tomorrow|next|coming|currently|current|heute|jetzt|morgen|demain|maintenant|hoy|ahora|"
    r"mañana)\b"
).search


def is_story(text: str, has_moment: Callable[[str], bool]) -> bool:
    """text: in lower case. has_moment: whether a sentence speaks of a moment."""
    if len(text) > MOST_CHARS or _has_thing(text) is None or _has_world(text) is not None:
        return False
    return all(_is_timeless(sentence, has_moment) for sentence in _split(text) if sentence)


def _is_timeless(sentence: str, has_moment: Callable[[str], bool]) -> bool:
    asks = sentence.endswith("?") or _asks(sentence) is not None
    thing, rule = _has_thing(sentence) is not None, _has_rule(sentence) is not None
    if not has_moment(sentence):
        return not asks or rule or thing or _pleads(sentence) is not None
    if _is_own(sentence) is None:
        return False
    if rule:
        return thing
    if _wants_to_know(sentence) is not None:
        return False
    if not asks:
        return _tells(sentence) is not None
    return _pleads(sentence) is not None and _is_past(sentence) is not None and _is_ahead(sentence) is None
