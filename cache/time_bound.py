"""Whether a text asks for what is true today and may not be tomorrow: weather, prices, news, office-holders, dates.

English, German, French, Spanish, and the commonest words of Chinese and Japanese. Where in doubt it is bound by time:
that costs a hit, the opposite a wrong answer. First a look for single words, where nearly every text is done with;
patterns after that."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SPACES = b"\t\n\r .,;:!?()[]{}<>\"'`*_/\\|=+~&@#^%$-"
_UPPER = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_PLAIN = bytes.maketrans(_UPPER + _SPACES, _UPPER.lower() + b" " * len(_SPACES))

_ALONE_WORDS = """
today tonight yesterday tomorrow nowadays currently latest newest recent recently upcoming weather headlines news
trending
heute heutige heutigen heutiger heutiges gestern übermorgen vorgestern jetzt derzeit momentan gegenwärtig aktuell
aktuelle aktuellen aktueller aktuelles neueste neuesten neuester neuestes neulich kürzlich wetter wettervorhersage
nachrichten aktienkurs wechselkurs
aujourd aujourdhui demain maintenant actuellement actuel actuelle actuels actuelles récemment météo
hoy ayer ahora actualmente recientemente noticias últimas últimos
"""
_CUE_WORDS = """
now current week weeks weekend month months year years quarter season days day hours minutes morning afternoon evening
night monday tuesday wednesday thursday friday saturday sunday summer winter spring autumn moment present date time far
cost worth price prices rate cap president minister ceo cto cfo chancellor king queen pope mayor governor leader
champion richest owner head winning won playing ago open down score standings old until till
since left alive still going happening rates raining snowing rain snow sunny traffic sunrise sunset tide moon next stock
stocks shares bitcoin crypto gold
morgen woche monat jahr wochenende tage tagen stunden preis preise kurs spät uhr präsident präsidentin kanzler
bundeskanzler bundeskanzlerin bürgermeister könig chef papst augenblick zeit zurzeit wochen jahren
hier semaine semaines mois année ans jours nouvelles heure prix cours taux président présidente ministre roi pape maire
mañana semana semanas mes meses año años días horas momento actual clima tiempo hora precio cotización cambio presidente
presidenta ministro ministra rey papa alcalde última último soir matin tarde noche
"""

_ALONE = frozenset(_ALONE_WORDS.encode().split())
"""Words that say enough by themselves."""
_CUES = _ALONE.union(_CUE_WORDS.encode().split())
"""One of them is in whatever the patterns find."""

_HOLDERS = (
    r"president|prime minister|vice president|minister|ceo|cto|cfo|chancellor|king|queen|pope|mayor|governor|leader|"
    r"champion|richest|owner|head"
)
_SPAN = (
    r"weeks?|weekend|months?|years?|quarter|season|days|hours|minutes|morning|afternoon|evening|night|summer|winter|"
    r"spring|autumn|(?:mon|tues|wednes|thurs|fri|satur|sun)day"
)
END_CHARS = 2000
MAX_LOOKS = 24
_REACH = 100
"""Characters: more than any pattern is long."""
_NO_TIME = (
    r"density|directory|working|line|node|element|index|row|iteration|object|item|selection|branch|thread|process|window|"
    r"file|position|scope|context|loop|page|cell|function|flow|through"
)
_CONTESTS = r"game|match|election|race|debate|league|cup|oscar|series|championship|bowl|final|title|lottery"
_SENT = r"(?:cards?|transfers?|money|payments?|transactions?|withdrawals?|refunds?|orders?)\b"
"""What takes as long whenever it is sent."""
_HELD = (
    r"pin|passcode|password|card|one|account|plan|number|phone|address|e-?mail|limit|contract|subscription|employer|job|"
    r"role"
)
_NO_CURRENT = r"(?<!electric )(?<!alternating )(?<!direct )(?<!ocean )(?<!eddy )(?<!leakage )"
_ENGLISH = (
    rf"\bhow (?:long|many (?:day|week|month|hour|year)s) (?:until|till|since|left)\b(?!(?: [\w']+){{0,4}} {_SENT})",
    r"\bhow old (?:is|are|am)\b|\bwhen(?:'s| is| are| does| do| will)(?: the| my| our)? next\b",
    rf"\b(?:is|are) [\w .'-]{{1,40}} still (?:the )?(?:{_HOLDERS}|available|online)\b",
    r"\b(?:is|are) [\w .'-]{1,40} alive\b|\bhow(?:'s| is) (?:the )?traffic\b|\btraffic like\b",
    rf"\bwho won (?:the )?(?:(?!\d)[\w']+ ){{0,3}}(?:{_CONTESTS})\b(?!.{{0,20}}\b(?:1\d|20)\d\d)",
    r"\b(?:will|did|is) it (?:going to )?(?:be )?(?:rain|snow|sunny)",
    r"\b(?:happening|going on) (?:in|at|around) (?!this\b|my\b|the\b|here\b)",
    r"\b(?:what time|when)\b.{0,20}\b(?:sunrise|sunset|tide|moon)",
    r"\bshould i (?:buy|sell)\b.{0,30}\b(?:stocks?|shares|bitcoin|crypto|gold)\b",
    r"\b(?:stocks?|shares|bitcoin|crypto)\b.{0,20}\b(?:doing|down)\b",
    r"\bwhat(?:'s| is)? (?:the )?(?:time|date|day|year|month)(?: is| of)?(?: it| in| now| here|\s*\?|\s*$)",
    r"\bprices? (?:of|for)\b|\b(?:stock|share|gas|oil|gold|house|market) prices?\b|\bexchange rates?\b|\bmarket cap\b",
    r"\bhow much (?:is|does|are|do)\b.{1,40}\b(?:cost|worth)\b",
    rf"\bwho(?:'s| is| are| was elected| runs) (?:[\w'-]+ ){{0,4}}(?:{_HOLDERS})\b",
    r"\bthe (?:president|prime minister|ceo) of\b.{0,40}\?",
    r"\b(?:who|which|what)\b.{0,30}\b(?:winning|playing)\b|\b(?:score|standings)\b.{0,20}\b(?:of|in|game|match)\b",
    r"\b(?:is|are)\b.{1,40}\b(?:open|down)\s*\?",
    rf"\b(?:this|last|next|past|coming|these) (?:few |couple of |two |three |\d+ )?(?:{_SPAN})\b",
    r"\b(?:days?|weeks?|months?|years?|hours?|minutes) ago\b|\bthese days\b|\b(?:at|for) the moment\b|\bat present\b",
    r"\bpresent day\b|\bas of (?:now|\d)|\bso far\b|\b(?:right |just |by |until )now\b",
    r"\bfrom now\b(?! on(?:,| (?:you|i|we|please|always|never|only|answer|reply|use|write|call)\b))",
    r"(?<![.!?] )(?<!^)(?<!from )\bnow\b(?!\(| what\b)(?!(?<=(?:i|e) do now)\s*(?:[?.!]|$))",
    rf"{_NO_CURRENT}(?<!the )(?<!my )(?<!your )\bcurrent\b",
    rf"\bthe current\b(?! (?:{_NO_TIME}|one\b))|\b(?:my|your) current\b(?! (?:{_HELD})\b)",
)
_GERMAN = (
    r"\bwie (?:spät|viel uhr)\b|\bwieviel uhr\b|\bpreise? (?:von|für|der|des)\b|\bkurs (?:von|der|des)\b",
    r"\bwer ist\b.{0,30}(?:präsident|kanzler|bürgermeister|könig|minister|chef|papst)",
    r"(?<!guten )\bmorgen\b",
    r"\b(?:diese|letzte|nächste|kommende|vorige|vergangene)[nrsm]? (?:woche|monat|jahr|wochenende|tage)n?\b",
    r"\bvor (?:\w+ )?(?:tagen|stunden|wochen|jahren)\b|\bim (?:augenblick|moment)\b|\bzur ?zeit\b",
)
_FRENCH = (
    r"\bdernières nouvelles\b|\bquelle heure\b|\btaux de change\b",
    r"\bprix (?:de|du|des|d')|\bcours (?:de l'action|du|de la bourse)",
    r"\bqui est\b.{0,30}(?:président|ministre|maire|roi|pape)",
    r"\b(?:d'|depuis )hier\b|\bhier (?:soir|matin)\b|\bcette (?:semaine|année)\b|\bce (?:mois|soir|matin)\b",
    r"\b(?:semaine|année|mois) (?:prochaine?|dernière?|passée?)\b|\bil y a \w+ (?:jours|mois|ans|semaines)\b",
    r"\ben ce moment\b",
)
_SPANISH = (
    r"\b(?:presidente|presidenta|precio|situación|estado|versión|año|momento) actual\b",
    r"\búltim[oa] (?:noticia|versión|modelo)\b",
    r"\b(?:el|qué) (?:clima|tiempo) (?:en|hace|hará)\b|\bqué hora\b|\bprecio del?\b|\bcotización\b|\btipo de cambio\b",
    r"\bqui[ée]n es\b.{0,30}(?:president|ministr|alcalde|rey|papa)",
    r"\bmañana\b|\besta (?:semana|noche|tarde)\b|\beste (?:mes|año)\b|\b(?:semana|mes|año) (?:que viene|pasad|próxim)",
    r"\bhace \w+ (?:días|semanas|meses|años|horas)\b|\búltim[oa] (?:hora|semana|mes|año)\b|\ben este momento\b",
)
_find = re.compile("|".join((*_ENGLISH, *_GERMAN, *_FRENCH, *_SPANISH))).search
_find_unspaced = re.compile("今天|今日|明天|明日|昨天|昨日|现在|現在|最新|目前|天气|天気|本周|今年|今週|今月").search


def is_time_bound(text: str) -> bool:
    """Whether an answer to it is likely to be another one on another day. Of a long text both ends are read: there it
    says what it asks."""
    if len(text) > 2 * END_CHARS:
        text = f"{text[:END_CHARS]} {text[-END_CHARS:]}"
    if not text.isascii():
        text = text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
        if _find_unspaced(text) is not None:
            return True
    words = text.encode("utf-8", "replace").translate(_PLAIN).split()
    if _CUES.isdisjoint(words):
        return False
    return not _ALONE.isdisjoint(words) or _matches(" ".join(text.lower().split()), _CUES.intersection(words))


def _matches(text: str, cues: Iterable[bytes]) -> bool:
    """Whether a pattern is found around one of the cues; elsewhere none can be."""
    looks = MAX_LOOKS
    for cue in sorted(cues):
        word = cue.decode()
        at = text.find(word)
        while at >= 0 and looks:
            if _find(text, max(0, at - _REACH), at + _REACH) is not None:
                return True
            looks -= 1
            at = text.find(word, at + _REACH)
    return False
