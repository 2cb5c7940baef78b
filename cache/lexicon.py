"""English words as far as telling two questions apart needs them: what carries no meaning, what means the same, what
means the opposite, numbers and units. Words are given in their base form; `cache.meaning` strips endings."""

from __future__ import annotations

_STOP = """
turn a an the this that these those it its i me my mine we us our ours you your yours he him his she her hers they
them their theirs one ones myself yourself itself am is are was were be been being do does did done doing have has had
having will would shall should can could may might must ought to of in on at by for with about as into from up upon
onto and so then than if whether when while there here what which who whom whose how why where what's whats how's hows
i'm i've i'd i'll you're it's that's isn't don't let lets please thanks thank hi hello hey dear kindly also too very
really quite just actually basically simply exactly well ok okay anyway etc like need want wish would like tell
explain describe show give know understand help someone somebody anyone anybody people person everyone everybody thing
things stuff something anything way ways step steps process procedure method methods approach technique guide
instruction instructions tip tips advice information info detail details idea ideas question answer able possible
possibly best good properly correctly right proper recommended better suitable make made get got gotten go going take
took taken happen happens happening s t d ll re ve m us using use used via through during there's am trying try
looking wondering wonder curious question quick quickly mean means meaning definition define thought regarding
concerning work works working indeed somehow fact in need's per come came certain particular specific main major kind
kinds type types some such again own effective effectively easiest simplest easily easy simple
"""

_SAME = """
meter metre, liter litre, theater theatre, ship shipping shipment delivery deliver,
fix repair solve resolve troubleshoot remedy mend correct rectify, buy purchase acquire order,
begin start commence initiate, end finish conclude terminate stop halt quit cease,
build construct create develop generate produce write compose craft draft design,
delete remove erase eliminate discard wipe clear drop uninstall, change modify alter adjust edit update amend switch,
show display view, find locate discover search lookup identify detect spot, big large huge great enormous massive,
small little tiny minor compact, fast quick rapid speedy swift, slow sluggish laggy,
improve enhance boost better optimize optimise strengthen upgrade,
reduce decrease lower lessen diminish cut minimize minimise shrink,
increase raise grow rise gain boost maximize maximise,
error issue problem bug fault failure trouble glitch exception fail crash, cause reason factor,
effect impact consequence result influence outcome affect, benefit advantage pro upside perk,
drawback disadvantage con downside, difference differ distinguish distinction contrast compare comparison versus vs,
important crucial essential vital significant key critical importance, kid child children toddler,
car automobile vehicle auto, house home residence, job employment occupation position career profession,
doctor physician, movie film picture, picture image photo photograph, cheap inexpensive affordable budget,
expensive costly pricey, cost price fee charge expense pricing rate, pay payment paid, money cash fund,
salary wage income earn earning pay, smart intelligent clever bright, happy glad joyful cheerful,
sad unhappy depressed upset, scared afraid frightened fearful, angry mad furious, rich wealthy affluent,
poor impoverished, ill sick unwell, illness disease sickness condition disorder, symptom sign indication,
medicine medication drug, cure treat treatment therapy heal, begin starter beginner novice newbie, learn study,
student pupil learner, teacher instructor educator tutor, school college university,
company firm business corporation enterprise organization organisation, boss manager supervisor, employee worker staff,
customer client, user member, phone smartphone cellphone mobile cell telephone, computer pc laptop, email mail e-mail,
password passcode passphrase, login log sign signin logon, reset recover restore retrieve regain,
forget forgot lose lost misplace, account profile, cancel annul revoke, subscription membership plan,
return refund reimburse reimbursement, send transfer submit, receive obtain accept,
install setup set configure configuration, connect link attach join pair, program software application app,
function method routine, folder directory, file document, dictionary dict hashmap map, parameter argument, database db,
javascript js ecmascript, typescript ts, python py, kubernetes k8s, postgres postgresql, repository repo,
environment env, run execute launch, verify check validate confirm test ensure, allow permit enable let,
prevent avoid stop, forbid ban prohibit disallow, protect secure safeguard, safe secure safety,
dangerous hazardous unsafe risky harmful danger risk hazard, convert transform translate,
combine merge join concatenate, split divide separate, sort arrange, copy duplicate clone replicate,
save store keep preserve, contact reach call, speak talk chat, explain clarify, handle manage deal cope,
choose select pick decide, suggest recommend recommendation suggestion,
require requirement need necessary prerequisite mandatory required, lot many much numerous multiple several,
often frequently regularly, usual typical normal common standard ordinary average, begin commencement, weight mass,
fat obesity, thin slim skinny, exercise workout train training, diet nutrition, eat consume, meal dish food,
cook prepare bake, recipe cook, bread loaf, water hydrate, dog puppy canine, cat kitten feline, holiday vacation,
trip travel journey visit, flight plane airplane aircraft, airport terminal, hotel accommodation lodging, city town,
country nation, capital seat, uk britain, usa us america states american, eu europe european, city municipality,
law legal legislation lawful, illegal unlawful, rule regulation policy, tax taxation, contract agreement,
lawyer attorney, court tribunal, insurance coverage cover, loan credit lend, debt owe, invest investment investor,
stock share equity, retire retirement pension, bank banking, withdraw withdrawal, born birth birthday,
die death dead decease, marry marriage wedding married, divorce separation, friend buddy pal,
relationship partner dating, sleep rest, tired fatigue exhausted sleepy, pain ache hurt sore, head headache migraine,
vaccine vaccination shot, inventor invent invented, author writer wrote written, discover discoverer,
founder found founded establish established, painter paint painted, tall height high, long length duration, deep depth,
wide width, heavy weigh, old age, distance far, speed velocity pace, hot warm, begin origin, happen occur occurrence,
history background, purpose goal aim objective point, function role, part component element piece,
example sample instance, summary summarize summarise overview recap, translate translation,
review feedback critique evaluate assessment assess rate, plan strategy roadmap schedule, team group squad,
meeting conference, project initiative, goal target, skill ability capability, strong powerful robust, weak feeble,
hard difficult tough challenging, beautiful pretty attractive, clean wash tidy, dirty stain,
broken break broke damaged damage, noise sound, light lamp, battery charge power, screen display monitor,
internet wifi wi-fi web online network, website site webpage page, browser chrome, button key, server host,
deploy deployment release publish launch rollout, monitor track observe watch, log logging, memory ram,
disk storage drive, performance speed, request query call, response reply respond answer, message text,
notify notification alert, permission access privilege authorization, authenticate authentication, encrypt encryption,
decrypt decryption, loop iterate iteration, string text, integer int, float decimal, empty blank null none,
unique distinct, reverse invert backward, calculate compute determine calculation figure, sum total add,
count number amount quantity, mean average, random arbitrary, big-o complexity, plant grow, flower bloom, sun solar,
moon lunar, earth planet world globe, space universe, energy power, climate weather, rain rainfall, temperature heat,
begin introduce introduction intro, lose loss shed, write writing, read reading, speak speaking, drive driving,
apply application apply, resume cv, hire recruit recruiting hiring employ, fire dismiss,
extend extension prolong lengthen, renew renewal, expire expiration expiry, close shut, activate activation enable on,
deactivate disable off, block ban, unblock unban, invite invitation, participate attend, win victory,
fight battle war conflict, famous popular known renowned, favorite favourite, color colour, center centre,
behavior behaviour, program programme, book reserve reservation booking, tire tyre, raw uncooked,
invoice bill receipt billing, plan tier package, warranty guarantee,
discount coupon promo voucher promotion deal rebate, cart basket, store shop outlet,
item product goods merchandise article, exchange swap replace replacement substitute, damaged defective faulty,
courier carrier, quote quotation estimate, appointment slot, reschedule rebook postpone delay, technician mechanic,
outage downtime, late overdue delayed, support helpdesk assistance, agent representative rep advisor adviser,
hour hours, available availability, size dimension, allergy allergic, pregnant pregnancy expecting,
baby infant newborn toddler, teenager teen adolescent, elderly senior old, pet animal, shoe footwear sneaker,
clothes clothing apparel garment, sofa couch, fridge refrigerator, stove oven, tv television, flat apartment,
lift elevator, petrol gas gasoline fuel, truck lorry, subway metro underground, luggage baggage suitcase, ticket pass,
passenger traveler traveller, map directions, nearby near close, entire complete whole, total overall, part portion,
allowed permitted legal, assist aid, attempt effort, aware conscious, blog post, calm relax soothe, careful cautious,
cheat scam fraud, chance probability likelihood odds, citizen national, comfortable cozy, complain complaint,
concentrate focus, contain include comprise, consider regard count, cut chop slice, decline refuse reject,
defend protect, demand require, depart leave exit, desk table, disappear vanish, donate contribute donation,
doubt suspicion, drunk intoxicated, dry arid, educate education, elect vote election, emotion feeling feel,
enough sufficient adequate, evidence proof, exam examination quiz, excited enthusiastic,
expert specialist professional, explode burst, fake counterfeit bogus, fall autumn, fear phobia, fill populate,
foreign abroad overseas, forecast predict prediction, garbage trash rubbish waste bin, gather collect, gift present,
glue adhesive, grade mark, ground soil, guess estimate, healthy nutritious, hide conceal, hint clue, holy sacred,
honest truthful, hurry rush, idea concept, infect infection, injure injury wound, insect bug, intend plan,
invade invasion, jump leap, kill murder slay, language tongue, leader head chief, lie falsehood, link url hyperlink,
luck fortune, magazine journal, measure measurement, medal award prize, melt thaw, mistake error, mix blend stir,
mobile portable, monitor supervise, mountain peak, naked nude, name call title, narrow slim,
nervous anxious anxiety worried worry stressed stress, obvious apparent, ocean sea, odor smell scent, opinion view,
opportunity chance, origin source, overcome beat defeat, own possess, peaceful quiet, persuade convince, policy rule,
pollute pollution contaminate, powder flour, practice rehearse, praise compliment, pregnancy gestation,
pressure stress, previous former, proud pride, pull drag, quality grade, quote cite, rare uncommon, react reaction,
regular ordinary, relative kin, religion faith, remain stay, rent lease, repeat redo, report statement, rescue save,
respect admire, rob steal theft, rock stone, rude impolite, scientist researcher, section paragraph, selfish greedy,
serious severe, shape form, shiny glossy, shout yell scream, shy timid, silence mute, singer vocalist, skin dermis,
smooth even, snack treat, soil dirt, song track, spicy hot, stomach belly abdomen tummy, street road,
stubborn obstinate, stupid dumb foolish, suggest propose, surgery operation, surprise amaze, sweat perspire,
taste flavor flavour, terrible awful horrible, throw toss, tool utility, town village, trust rely, truth fact,
try attempt, ugly unattractive, vaccinate immunize, value worth, voice vocal, volunteer unpaid, wait await,
walk stroll, war warfare, warn warning alert, wedding marriage, well healthy, wild untamed, win triumph, wise sage,
word term, wrong incorrect inaccurate false, yearly annual annually, monthly per-month, daily everyday,
weekly per-week, abbreviation acronym, debug troubleshoot, refactor restructure, terminal shell console,
crash hang freeze, bandwidth throughput, latency delay lag, container image, cluster fleet, schema structure,
thread concurrency, library package module dependency, constructor initializer, exception error, compile build,
argument parameter option flag, setting preference, backup back-up, router modem, copy duplicate, paste insert,
font typeface, spreadsheet excel, slide presentation powerpoint, essay paper, letter note, speech talk, poem verse,
story tale narrative, joke pun, outline structure, paraphrase rephrase reword, proofread edit, headline title,
slogan tagline, tweet post
"""

_OPPOSITE = """
high lower, secure insecure, increase reduce, good bad, best worst, better worse, big small, fast slow, hot cold,
warm cool, high low, tall short, long short, old young, old new, early late, easy hard, cheap expensive, rich poor,
strong weak, light heavy, light dark, thick thin, fat thin, wide narrow, deep shallow, near far, open close, start end,
begin end, first last, before after, all none, all some, always never, often rarely, more less, more few, most least,
maximum minimum, max min, above below, over under, inside outside, internal external, inner outer, front back,
left right, top bottom, up down, north south, east west, import export, upload download, encrypt decrypt,
encode decode, compress decompress, enable disable, activate deactivate, allow forbid, allow block, accept reject,
approve deny, grant revoke, add remove, add delete, insert delete, add subtract, multiply divide, create delete,
install uninstall, connect disconnect, attach detach, lock unlock, block unblock, follow unfollow,
subscribe unsubscribe, mute unmute, hide show, push pull, push pop, send receive, give receive, buy sell, lend borrow,
rent own, rent buy, lease buy, win lose, gain lose, find lose, save spend, save delete, earn spend, deposit withdraw,
debit credit, profit loss, asset liability, income expense, revenue cost, supply demand, hire fire, employer employee,
teach learn, teacher student, doctor patient, landlord tenant, buyer seller, parent child, male female, man woman,
men women, boy girl, husband wife, mother father, brother sister, son daughter, king queen, uncle aunt, arrive depart,
arrival departure, come leave, enter exit, enter leave, inbound outbound, incoming outgoing, input output, read write,
client server, frontend backend, host guest, public private, local remote, local global, static dynamic, sync async,
synchronous asynchronous, horizontal vertical, row column, ascend descend, ascending descending, serial parallel,
positive negative, true false, pass fail, success failure, succeed fail, safe dangerous, legal illegal,
benefit drawback, advantage disadvantage, strength weakness, cause effect, cause prevent, cause cure, symptom cure,
symptom cause, symptom treatment, include exclude, include except, with without, only all, everyone nobody,
everything nothing, single married, single multiple, single double, one-way round-trip, domestic international,
national international, federal state, urban rural, indoor outdoor, adult child, adult kid, beginner advanced,
beginner expert, amateur professional, junior senior, temporary permanent, short-term long-term, free paid,
free premium, full partial, full empty, whole part, raw cooked, fresh frozen, dry wet, sweet sour, soft hard,
clean dirty, loud quiet, alive dead, birth death, born die, marry divorce, love hate, like dislike, friend enemy,
happy sad, optimistic pessimistic, active passive, active inactive, present absent, past future, ancient modern,
day night, morning evening, am pm, summer winter, spring autumn, weekday weekend, war peace, attack defend,
defense offense, victory defeat, strict lenient, manual automatic, mandatory optional, required optional,
required forbidden, primary secondary, primary backup, major minor, majority minority, upgrade downgrade,
promote demote, inflate deflate, inflation deflation, expand contract, stretch shrink, lengthen shorten, rise fall,
ascent descent, forward backward, vegetarian meat, vegan meat, hypertension hypotension, hyperglycemia hypoglycemia,
hyperthyroidism hypothyroidism, acid base, liquid solid, plaintiff defendant, prosecution defense, guilty innocent,
liberal conservative, democrat republican, theory practice, question answer, problem solution, wholesale retail,
gross net, fixed variable, simple complex, simple compound, qualitative quantitative, inductive deductive,
introvert extrovert, left-handed right-handed, same different, similar different, equal different, plus minus, on off,
in out, stay leave, keep discard, remember forget, wake sleep
"""

SCOPES = {
    word: group
    for group, words in {
        "only": "only solely exclusively merely alone",
        "all": "all every each entire whole everyone everybody everything any anyone anywhere everywhere",
        "none": "none nobody nothing nowhere neither nor",
        "some": "some few several partially partly",
        "except": "except excluding exclude besides unless but other",
        "before": "before prior preceding until till",
        "after": "after following afterwards once post since",
        "during": "during while",
        "always": "always forever permanently",
        "sometimes": "sometimes occasionally temporarily",
        "first": "first initial earliest oldest original",
        "last": "last final latest newest",
        "more": "more greater above over exceed exceeding",
        "less": "less fewer below under",
        "most": "most maximum max",
        "least": "least minimum min",
        "both": "both together simultaneously",
        "either": "either or",
        "again": "again anymore still",
        "instead": "instead rather",
        "become": "become becoming became",
        "without": "without lacking minus",
        "inside": "inside within internal",
        "outside": "outside external beyond",
    }.items()
    for word in words.split()
}
"""Words that say of what, of how much of it, or when something holds."""

_NEGATIONS = """
not no never without cannot cant can't don't dont doesn't doesnt didn't didnt isn't isnt aren't arent wasn't wasnt
weren't werent won't wont wouldn't wouldnt shouldn't shouldnt couldn't couldnt haven't havent hasn't hasnt hadn't
mustn't needn't ain't neither nor nothing nobody none hardly unable
nicht kein keine keinen keinem keiner nie niemals ohne pas jamais sans aucun aucune nunca jamás ningún ninguna
"""

NUMBER_WORDS = {
    "zero": 0.0, "two": 2.0, "three": 3.0, "four": 4.0, "five": 5.0, "six": 6.0, "seven": 7.0, "eight": 8.0,
    "nine": 9.0, "ten": 10.0, "eleven": 11.0, "twelve": 12.0, "fifteen": 15.0, "twenty": 20.0, "thirty": 30.0,
    "forty": 40.0, "fifty": 50.0, "sixty": 60.0, "ninety": 90.0, "hundred": 100.0, "thousand": 1e3, "million": 1e6,
    "billion": 1e9, "dozen": 12.0, "half": 0.5, "twice": 2.0, "double": 2.0, "triple": 3.0, "third": 3.0,
    "fourth": 4.0, "fifth": 5.0,
    "sixth": 6.0, "seventh": 7.0, "eighth": 8.0, "ninth": 9.0, "tenth": 10.0, "second": 2.0,
}  # fmt: skip

MULTIPLES = {"k": 1e3, "hundred": 1e2, "thousand": 1e3, "million": 1e6, "mio": 1e6, "billion": 1e9, "bn": 1e9}

UNITS = {
    name: (factor, base)
    for base, units in {
        "s": {"s sec secs second seconds": 1.0, "ms millisecond milliseconds": 1e-3, "min mins minute minutes": 60.0,
              "h hr hrs hour hours": 3600.0, "day days": 86400.0, "week weeks": 604800.0, "fortnight": 1209600.0},
        "month": {"month months": 1.0, "year years yr yrs": 12.0, "decade decades": 120.0},
        "m": {"m meter meters metre metres": 1.0, "cm": 0.01, "mm": 1e-3, "km kilometer kilometers kilometre kms": 1e3,
              "mile miles": 1609.344,
              "ft foot feet": 0.3048, "inch inches": 0.0254, "yard yards": 0.9144},
        "g": {"g gram grams": 1.0, "mg": 1e-3,
              "kg kgs kilo kilos kilogram kilograms": 1e3, "lb lbs": 453.592, "pound pounds": 453.592,
              "oz ounce ounces": 28.3495, "ton tons tonne": 1e6},
        "l": {"l liter liters litre litres": 1.0, "ml": 1e-3, "cup cups": 0.2366, "gallon gallons": 3.7854},
        "b": {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12},
        "%": {"% percent": 1.0},
        "$": {"dollar dollars usd bucks": 1.0},
        "eur": {"euro euros eur": 1.0},
        "gbp": {"gbp": 1.0},
        "c": {"celsius": 1.0},
        "f": {"fahrenheit": 1.0},
    }.items()
    for names, factor in units.items()
    for name in names.split()
}  # fmt: skip
"""Each as a factor and the unit that it is a factor of."""

_MONTHS = (
    "january jan|february feb|march|april apr|-|june jun|july jul|august aug|september sept sep|october oct|"
    "november nov|december dec"
)
DATES = {
    word: f"{kind}{at}"
    for kind, words in (
        ("month", _MONTHS),
        ("weekday", "monday|tuesday|wednesday|thursday|friday|saturday|sunday"),
        ("season", "winter|spring|summer|autumn"),
        ("feast", "christmas|easter|thanksgiving|halloween|ramadan|diwali"),
    )
    for at, names in enumerate(words.split("|"), 1)
    for word in names.split()
}  # fmt: skip


def _lines(groups: str) -> list[list[str]]:
    return [line.split() for line in groups.split(",")]


def _groups() -> dict[str, str]:
    """The first group that names a word is its own."""
    groups: dict[str, str] = {}
    for first, *others in _lines(_SAME):
        for word in (first, *others):
            groups.setdefault(word, groups.get(first, first))
    return groups


STOP = frozenset(_STOP.split())
NEGATIONS = frozenset(_NEGATIONS.split())
GROUPS = _groups()
SAME = _lines(_SAME)
OPPOSITE = _lines(_OPPOSITE)
