"""The words the demo knows and the facts about them: small tables, proofread by hand.

A line is one word and its answers in the order of the table's columns; "-" means that there is
no single clear answer, so the fact is left out.  Every word belongs to exactly one kind.
"""

from __future__ import annotations

from collections.abc import Iterable

Table = dict[str, str]
"""One relation on one kind: word -> answer."""

# Pairs of opposites.  The first group has comparatives and superlatives in -er and -est.
GRADED_OPPOSITES = """
big small/hot cold/tall short/fast slow/old young/rich poor/hard soft/strong weak/thick thin
wide narrow/deep shallow/bright dim/clean dirty/dry wet/heavy light/high low/loud quiet
rough smooth/sharp blunt/sweet sour/tight loose/early late/happy sad/clever stupid/kind cruel
fat slim/full empty/cheap costly/fresh stale/polite rude/proud humble/safe risky/tame wild
warm cool/lucky unlucky/healthy sick/tidy messy/plain fancy/pretty ugly/near far/gentle harsh
mild severe/tough tender/dense sparse/merry gloomy/huge tiny/good bad/sane mad/sunny cloudy
witty dull/common rare/faint vivid/clear vague/crisp soggy/bulky compact
"""

OTHER_OPPOSITES = """
guilty innocent/public private/modern ancient/visible hidden/correct wrong/true false
possible impossible/legal illegal/regular irregular/active passive/careful careless
useful useless/patient impatient/perfect imperfect/honest dishonest/equal unequal
formal informal/direct indirect/logical illogical/mature immature/moral immoral/mortal immortal
rational irrational/relevant irrelevant/responsible irresponsible/certain uncertain
familiar strange/flexible rigid/positive negative/present absent/permanent temporary
natural artificial/internal external/generous stingy/sober drunk/complete incomplete
"""

NOT_GRADED = "vivid compact far good bad"
# Words whose last letter doubles before -er, -est, -ed and -ing.
DOUBLED_ADJECTIVES = "big hot fat thin slim dim wet sad mad"
ODD_COMPARISONS = {
    "good": ("better", "best"),
    "bad": ("worse", "worst"),
    "far": ("farther", "farthest"),
}
# Adverbs that do not follow the rule; "-" where the adverb is missing, odd or means another thing.
ODD_ADVERBS = {
    "good": "well", "fast": "fast", "hard": "hard", "early": "early", "late": "late",
    "true": "truly", "full": "fully", "dull": "dully", "public": "publicly",
    "big": "-", "small": "-", "tall": "-", "short": "-", "old": "-", "young": "-", "low": "-",
    "near": "-", "far": "-", "fat": "-", "slim": "-", "costly": "-", "ugly": "-", "fancy": "-",
    "present": "-", "absent": "-", "wet": "-", "sour": "-", "soggy": "-", "tidy": "-",
    "cloudy": "-", "sunny": "-", "tiny": "-", "sick": "-", "drunk": "-", "hidden": "-",
    "mortal": "-", "immortal": "-", "mature": "-", "immature": "-", "unequal": "-",
    "sparse": "sparsely", "dry": "dryly", "incomplete": "-", "bulky": "-",
}  # fmt: skip

# country capital language continent currency
COUNTRIES = """
france paris french europe euro
germany berlin german europe euro
italy rome italian europe euro
spain madrid spanish europe euro
portugal lisbon portuguese europe euro
austria vienna german europe euro
belgium brussels - europe euro
netherlands amsterdam dutch europe euro
greece athens greek europe euro
ireland dublin - europe euro
finland helsinki finnish europe euro
sweden stockholm swedish europe krona
norway oslo norwegian europe krone
denmark copenhagen danish europe krone
iceland reykjavik icelandic europe krona
poland warsaw polish europe zloty
hungary budapest hungarian europe forint
romania bucharest romanian europe leu
bulgaria sofia bulgarian europe -
serbia belgrade serbian europe dinar
croatia zagreb croatian europe euro
slovenia ljubljana slovene europe euro
slovakia bratislava slovak europe euro
albania tirana albanian europe lek
estonia tallinn estonian europe euro
latvia riga latvian europe euro
lithuania vilnius lithuanian europe euro
ukraine kyiv ukrainian europe hryvnia
russia moscow russian europe ruble
belarus minsk - europe ruble
moldova chisinau romanian europe leu
switzerland bern - europe franc
malta valletta maltese europe euro
cyprus nicosia - - euro
montenegro podgorica montenegrin europe euro
turkey ankara turkish asia lira
georgia tbilisi georgian - lari
armenia yerevan armenian asia dram
azerbaijan baku azerbaijani asia manat
iran tehran persian asia rial
iraq baghdad arabic asia dinar
syria damascus arabic asia pound
lebanon beirut arabic asia pound
jordan amman arabic asia dinar
qatar doha arabic asia riyal
oman muscat arabic asia rial
yemen sanaa arabic asia rial
bahrain manama arabic asia dinar
afghanistan kabul - asia afghani
pakistan islamabad urdu asia rupee
india - hindi asia rupee
nepal kathmandu nepali asia rupee
bhutan thimphu dzongkha asia ngultrum
bangladesh dhaka bengali asia taka
china beijing mandarin asia yuan
mongolia ulaanbaatar mongolian asia tugrik
japan tokyo japanese asia yen
vietnam hanoi vietnamese asia dong
thailand bangkok thai asia baht
laos vientiane lao asia kip
cambodia - khmer asia riel
myanmar naypyidaw burmese asia kyat
malaysia - malay asia ringgit
indonesia jakarta indonesian asia rupiah
philippines manila filipino asia peso
kazakhstan astana kazakh asia tenge
uzbekistan tashkent uzbek asia som
turkmenistan ashgabat turkmen asia manat
kyrgyzstan bishkek kyrgyz asia som
tajikistan dushanbe tajik asia somoni
egypt cairo arabic africa pound
libya tripoli arabic africa dinar
tunisia tunis arabic africa dinar
algeria algiers arabic africa dinar
morocco rabat arabic africa dirham
sudan khartoum arabic africa pound
ethiopia - amharic africa birr
eritrea asmara tigrinya africa nakfa
somalia mogadishu somali africa shilling
kenya nairobi swahili africa shilling
uganda kampala - africa shilling
tanzania dodoma swahili africa shilling
rwanda kigali kinyarwanda africa franc
burundi gitega kirundi africa franc
nigeria abuja english africa naira
ghana accra english africa cedi
senegal dakar french africa franc
mali bamako - africa franc
niger niamey - africa franc
cameroon yaounde - africa franc
gabon libreville french africa franc
angola luanda portuguese africa kwanza
zambia lusaka english africa kwacha
malawi lilongwe - africa kwacha
mozambique maputo portuguese africa metical
zimbabwe harare - africa -
botswana gaborone - africa pula
namibia windhoek english africa dollar
lesotho maseru - africa loti
madagascar antananarivo malagasy africa ariary
mauritania nouakchott arabic africa ouguiya
gambia banjul english africa dalasi
liberia monrovia english africa dollar
togo lome french africa franc
guinea conakry french africa franc
seychelles victoria - africa rupee
canada ottawa - america dollar
mexico - spanish america peso
cuba havana spanish america peso
jamaica kingston english america dollar
haiti - - america gourde
guatemala - spanish america quetzal
honduras tegucigalpa spanish america lempira
nicaragua managua spanish america cordoba
panama - spanish america balboa
colombia bogota spanish america peso
venezuela caracas spanish america bolivar
ecuador quito spanish america dollar
peru lima spanish america sol
bolivia sucre spanish america boliviano
chile santiago spanish america peso
argentina - spanish america peso
uruguay montevideo spanish america peso
paraguay asuncion - america guarani
brazil brasilia portuguese america real
guyana georgetown english america dollar
suriname paramaribo dutch america dollar
barbados bridgetown english america dollar
bahamas nassau english america dollar
belize belmopan english america dollar
australia canberra english oceania dollar
fiji suva - oceania dollar
samoa apia samoan oceania tala
"""

# Verbs with an irregular past: verb past.
IRREGULAR_VERBS = """
go went/eat ate/see saw/take took/give gave/come came/make made/know knew/think thought/find found
tell told/leave left/feel felt/bring brought/begin began/keep kept/hold held/write wrote
stand stood/hear heard/meet met/run ran/pay paid/sit sat/speak spoke/grow grew/lose lost/fall fell
send sent/build built/understand understood/draw drew/break broke/spend spent/drive drove/buy bought
wear wore/choose chose/sing sang/swim swam/fly flew/drink drank/sleep slept/teach taught
catch caught/throw threw/win won/sell sold/ride rode/rise rose/shake shook/steal stole
forget forgot/forgive forgave/hide hid/bite bit/blow blew/freeze froze/dig dug/feed fed/fight fought
lend lent/ring rang/shine shone/shoot shot/sink sank/spin spun/stick stuck/swing swung/tear tore
wake woke/weave wove/bend bent/bind bound/sweep swept/weep wept/creep crept/deal dealt/cling clung
become became/shrink shrank/withdraw withdrew/seek sought/undo undid
"""

REGULAR_VERBS = """
walk talk jump play work call ask want look use help start turn move live believe love watch follow
stop create offer remember wait serve expect stay reach remain raise pass report decide pull push
cook bake paint dance laugh smile cry try study carry hurry marry worry wash climb hunt plan clap
drop beg hug join visit listen enjoy destroy employ obey invite arrive depart save share hope guess
kiss miss mix wish touch search attack defend protect borrow answer repair invent explain collect
manage print publish translate hate close agree disagree appear vanish enter exit increase decrease
import export add remove allow ban melt float learn lock unlock tie untie wrap unwrap pack unpack
load unload fold unfold cover uncover trust distrust disobey admit deny praise blame punish reward
expand gather scatter advance retreat whisper shout encourage discourage accept refuse connect
disconnect include exclude inhale exhale succeed fail
"""

DOUBLED_VERBS = """
run sit swim win forget dig spin begin stop plan clap drop beg hug ban wrap unwrap admit
"""

# verb agent
AGENTS = """
write writer/teach teacher/sing singer/run runner/drive driver/paint painter/dance dancer
build builder/play player/work worker/speak speaker/think thinker/drink drinker/swim swimmer
win winner/lose loser/buy buyer/sell seller/ride rider/fight fighter/lend lender/help helper
walk walker/talk talker/climb climber/hunt hunter/listen listener/visit visitor/invent inventor
collect collector/manage manager/print printer/publish publisher/translate translator
create creator/attack attacker/defend defender/protect protector/borrow borrower/learn learner
sleep sleeper/keep keeper/send sender/give giver/serve server/jump jumper
"""

# Opposites of verbs: the base never sees this relation.  It makes the task where all must fail.
VERB_OPPOSITES = """
buy sell/come go/win lose/give take/start stop/push pull/remember forget/laugh cry/love hate
build destroy/arrive depart/attack defend/break repair/borrow lend/sleep wake/speak listen
rise fall/sit stand/save spend/freeze melt/float sink/teach learn/throw catch/hide seek
agree disagree/appear vanish/enter exit/increase decrease/import export/add remove/allow ban
lock unlock/tie untie/wrap unwrap/pack unpack/load unload/fold unfold/cover uncover/trust distrust
obey disobey/admit deny/praise blame/punish reward/expand shrink/gather scatter/advance retreat
whisper shout/encourage discourage/accept refuse/connect disconnect/include exclude/inhale exhale
succeed fail
"""

# noun french spanish group
NOUNS = """
apple pomme manzana fruit
pear poire pera fruit
cherry cerise cereza fruit
grape raisin uva fruit
lemon citron limón fruit
peach pêche melocotón fruit
strawberry fraise fresa fruit
plum prune ciruela fruit
carrot carotte zanahoria vegetable
onion oignon cebolla vegetable
potato patate patata vegetable
tomato tomate tomate vegetable
cabbage chou col vegetable
mushroom champignon champiñón vegetable
bread pain pan food
cheese fromage queso food
egg œuf huevo food
cake gâteau pastel food
soup soupe sopa food
table table mesa furniture
chair chaise silla furniture
bed lit cama furniture
wardrobe armoire armario furniture
desk bureau escritorio furniture
shelf étagère estante furniture
hat chapeau sombrero clothing
shirt chemise camisa clothing
shoe chaussure zapato clothing
skirt jupe falda clothing
coat manteau abrigo clothing
dress robe vestido clothing
glove gant guante clothing
sock chaussette calcetín clothing
belt ceinture cinturón clothing
car voiture coche vehicle
boat bateau barco vehicle
train train tren vehicle
plane avion avión vehicle
bicycle vélo bicicleta vehicle
truck camion camión vehicle
hammer marteau martillo tool
key clé llave tool
nail clou clavo tool
ladder échelle escalera tool
needle aiguille aguja tool
knife couteau cuchillo cutlery
fork fourchette tenedor cutlery
spoon cuillère cuchara cutlery
plate assiette plato tableware
glass verre vaso tableware
cup tasse taza tableware
bottle bouteille botella tableware
guitar guitare guitarra instrument
drum tambour tambor instrument
flute flûte flauta instrument
violin violon violín instrument
house maison casa building
church église iglesia building
school école escuela building
castle château castillo building
bridge pont puente building
tower tour torre building
factory usine fábrica building
door porte puerta part
window fenêtre ventana part
wall mur pared part
roof toit techo part
hand main mano body
foot pied pie body
eye œil ojo body
ear oreille oreja body
nose nez nariz body
mouth bouche boca body
tooth dent diente body
leg jambe pierna body
arm bras brazo body
finger doigt dedo body
head tête cabeza body
heart cœur corazón body
bone os hueso body
knee genou rodilla body
tree arbre árbol plant
flower fleur flor plant
leaf feuille hoja plant
root racine raíz plant
rose rose rosa plant
mountain montagne montaña nature
river rivière río nature
sea mer mar nature
lake lac lago nature
island île isla nature
forest forêt bosque nature
beach plage playa nature
stone pierre piedra nature
star étoile estrella sky
moon lune luna sky
sun soleil sol sky
cloud nuage nube sky
book livre libro stationery
letter lettre carta stationery
pencil crayon lápiz stationery
ruler règle regla stationery
map carte mapa stationery
city ville ciudad place
village village pueblo place
street rue calle place
garden jardin jardín place
country pays país place
field champ campo place
box boîte caja object
mirror miroir espejo object
clock horloge reloj object
lamp lampe lámpara object
candle bougie vela object
basket panier cesta object
umbrella parapluie paraguas object
wheel roue rueda object
bell cloche campana object
toy jouet juguete object
gift cadeau regalo object
picture tableau cuadro object
story histoire cuento object
song chanson canción object
dream rêve sueño object
"""

ODD_PLURALS = {
    "shelf": "shelves", "knife": "knives", "leaf": "leaves", "foot": "feet", "tooth": "teeth",
    "potato": "potatoes", "tomato": "tomatoes", "sheep": "sheep", "goose": "geese",
    "mouse": "mice", "wolf": "wolves", "deer": "deer", "ox": "oxen", "calf": "calves",
    "man": "men", "woman": "women", "wife": "wives", "hero": "heroes", "fish": "fish",
    "salmon": "salmon", "trout": "trout", "buffalo": "buffaloes", "mosquito": "mosquitoes",
}  # fmt: skip

# animal young sound family
ANIMALS = """
dog puppy bark mammal
cat kitten meow mammal
cow calf moo mammal
horse foal neigh mammal
donkey foal bray mammal
sheep lamb bleat mammal
goat kid bleat mammal
pig piglet oink mammal
hen chick cluck bird
rooster chick crow bird
duck duckling quack bird
goose gosling honk bird
swan cygnet - bird
owl owlet hoot bird
eagle eaglet screech bird
pigeon squab coo bird
dove squab coo bird
sparrow chick chirp bird
parrot chick squawk bird
penguin chick - bird
ostrich chick boom bird
raven chick croak bird
peacock chick scream bird
canary chick tweet bird
lion cub roar mammal
tiger cub roar mammal
bear cub growl mammal
leopard cub - mammal
wolf pup howl mammal
fox cub - mammal
hyena cub laugh mammal
cheetah cub chirp mammal
panda cub - mammal
deer fawn - mammal
hare leveret - mammal
rabbit kit - mammal
kangaroo joey - mammal
koala joey - mammal
elephant calf trumpet mammal
whale calf sing mammal
dolphin calf click mammal
giraffe calf hum mammal
camel calf grunt mammal
buffalo calf bellow mammal
hippo calf grunt mammal
rhino calf - mammal
zebra foal bray mammal
seal pup bark mammal
mouse pup squeak mammal
rat pup squeak mammal
bat pup screech mammal
otter pup - mammal
hedgehog hoglet - mammal
squirrel kit chatter mammal
monkey infant chatter mammal
gorilla infant - mammal
frog tadpole croak amphibian
toad tadpole croak amphibian
newt - - amphibian
snake - hiss reptile
lizard hatchling - reptile
turtle hatchling - reptile
crocodile hatchling bellow reptile
salmon fry - fish
trout fry - fish
shark pup - fish
eel elver - fish
bee larva buzz insect
wasp larva buzz insect
ant larva - insect
beetle larva - insect
butterfly caterpillar - insect
moth caterpillar - insect
mosquito larva buzz insect
cricket nymph chirp insect
grasshopper nymph chirp insect
"""

# person of the other gender, both ways
PERSONS = """
king queen/prince princess/father mother/son daughter/brother sister/uncle aunt/nephew niece
husband wife/man woman/boy girl/grandfather grandmother/grandson granddaughter
stepfather stepmother/stepson stepdaughter/stepbrother stepsister/godfather godmother
godson goddaughter/actor actress/waiter waitress/host hostess/duke duchess/emperor empress
lord lady/wizard witch/hero heroine/heir heiress/groom bride/monk nun/landlord landlady
policeman policewoman/salesman saleswoman/businessman businesswoman/sportsman sportswoman
chairman chairwoman/spokesman spokeswoman/congressman congresswoman/count countess/baron baroness
god goddess/priest priestess/steward stewardess/widower widow/headmaster headmistress/barman barmaid
shepherd shepherdess/sorcerer sorceress/masseur masseuse/abbot abbess/viscount viscountess
tsar tsarina/cowboy cowgirl/schoolboy schoolgirl/postman postwoman/merman mermaid
boyfriend girlfriend/grandpa grandma/dad mum/hunter huntress/giant giantess/poet poetess
"""

# job workplace equipment
JOBS = """
doctor hospital stethoscope
nurse clinic thermometer
teacher school chalk
professor university book
librarian library catalogue
farmer farm tractor
baker bakery oven
butcher butchery cleaver
chef restaurant knife
judge court gavel
lawyer courtroom briefcase
pilot cockpit headset
sailor ship rope
miner mine pickaxe
scientist laboratory microscope
pharmacist pharmacy pill
mechanic garage wrench
carpenter workshop saw
blacksmith forge anvil
gardener garden rake
fisherman boat net
soldier barracks rifle
astronaut space spacesuit
acrobat circus trapeze
cashier supermarket till
banker bank safe
barber barbershop razor
hairdresser salon scissors
photographer studio camera
artist gallery easel
sculptor atelier chisel
tailor boutique needle
brewer brewery barrel
winemaker winery cask
zookeeper zoo cage
curator museum -
jockey racetrack saddle
referee stadium whistle
swimmer pool goggles
lifeguard beach lifebuoy
secretary office keyboard
programmer office computer
journalist newsroom notebook
dentist surgery drill
surgeon hospital scalpel
astronomer observatory telescope
lumberjack forest axe
beekeeper apiary smoker
miller mill millstone
weaver mill loom
potter pottery wheel
bartender bar shaker
receptionist hotel telephone
conductor orchestra baton
ballerina theatre slippers
jailer prison keys
diver sea flippers
skier slope skis
boxer ring gloves
golfer course club
archer range bow
rabbi synagogue -
imam mosque -
bishop cathedral mitre
student classroom backpack
builder site crane
grocer shop scales
vendor market stall
shipwright shipyard -
"""

ELEMENTS = """
hydrogen H helium He lithium Li beryllium Be boron B carbon C nitrogen N oxygen O fluorine F neon Ne
sodium Na magnesium Mg aluminium Al silicon Si phosphorus P sulfur S chlorine Cl argon Ar
potassium K calcium Ca scandium Sc titanium Ti vanadium V chromium Cr manganese Mn iron Fe
cobalt Co nickel Ni copper Cu zinc Zn gallium Ga germanium Ge arsenic As selenium Se bromine Br
krypton Kr rubidium Rb strontium Sr yttrium Y zirconium Zr niobium Nb molybdenum Mo technetium Tc
ruthenium Ru rhodium Rh palladium Pd silver Ag cadmium Cd indium In tin Sn antimony Sb tellurium Te
iodine I xenon Xe caesium Cs barium Ba lanthanum La cerium Ce praseodymium Pr neodymium Nd
promethium Pm samarium Sm europium Eu gadolinium Gd terbium Tb dysprosium Dy holmium Ho erbium Er
thulium Tm ytterbium Yb lutetium Lu hafnium Hf tantalum Ta tungsten W rhenium Re osmium Os
iridium Ir platinum Pt gold Au mercury Hg thallium Tl lead Pb bismuth Bi polonium Po astatine At
radon Rn francium Fr radium Ra actinium Ac thorium Th protactinium Pa uranium U
"""

NUMBERS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty
"""
TENS = "thirty forty fifty sixty seventy eighty ninety hundred"
ORDINALS = """
- first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth
fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth thirtieth fortieth
fiftieth sixtieth seventieth eightieth ninetieth hundredth
"""
DAYS = "monday tuesday wednesday thursday friday saturday sunday"
MONTHS = "january february march april may june july august september october november december"
LETTERS = "a b c d e f g h i j k l m n o p q r s t u v w x y z"

VOWELS = "aeiou"


def pairs(text: str) -> list[tuple[str, str]]:
    """Read "a b/c d" lines as [("a", "b"), ("c", "d")]."""
    chunks = [chunk.split() for line in text.strip().splitlines() for chunk in line.split("/")]
    return [(first, second) for first, second in chunks]


def both_ways(text: str) -> Table:
    forward = pairs(text)
    return dict(forward) | {second: first for first, second in forward}


def columns(text: str, names: Iterable[str]) -> dict[str, Table]:
    """Read a table: {column name: {word: answer}}, without the missing answers."""
    rows = [line.split() for line in text.strip().splitlines()]
    return {
        name: {row[0]: row[place] for row in rows if row[place] != "-"}
        for place, name in enumerate(names, start=1)
    }


def ends_in_consonant_y(word: str) -> bool:
    return word.endswith("y") and word[-2] not in VOWELS


def with_ending(word: str, ending: str, doubled: str) -> str:
    """Add -er, -est, -ed or -ing the way English spells it."""
    if word in doubled.split():
        return word + word[-1] + ending
    if ends_in_consonant_y(word) and not ending.startswith("i"):
        return word[:-1] + "i" + ending
    if word.endswith("ie") and ending.startswith("i"):
        return word[:-2] + "y" + ending
    if word.endswith("e") and not (word.endswith("ee") and ending.startswith("i")):
        return word[:-1] + ending
    return word + ending


def with_s(word: str) -> str:
    if ends_in_consonant_y(word):
        return word[:-1] + "ies"
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    return word + "s"


def third_person(verb: str) -> str:
    return {"go": "goes", "undo": "undoes"}.get(verb) or with_s(verb)


def plural(noun: str) -> str:
    if noun in ODD_PLURALS:
        return ODD_PLURALS[noun]
    if noun.endswith("man") and noun != "german":
        return noun[:-3] + "men"
    if noun.endswith("wife"):
        return noun[:-2] + "ves"
    return with_s(noun)


def adverb(adjective: str) -> str:
    if adjective in ODD_ADVERBS:
        return ODD_ADVERBS[adjective]
    if ends_in_consonant_y(adjective):
        return adjective[:-1] + "ily"
    if adjective.endswith("le") and adjective[-3] not in VOWELS:
        return adjective[:-1] + "y"
    if adjective.endswith("ic"):
        return adjective + "ally"
    return adjective + "ly"


def neighbours(sequence: list[str], *, round_trip: bool) -> dict[str, Table]:
    """`next` and `previous` along a sequence, closed into a ring for days and months."""
    following = dict(zip(sequence, sequence[1:], strict=False))
    if round_trip:
        following[sequence[-1]] = sequence[0]
    return {"next": following, "previous": {after: before for before, after in following.items()}}


def adjectives() -> dict[str, Table]:
    opposites = both_ways(GRADED_OPPOSITES) | both_ways(OTHER_OPPOSITES)
    graded = [word for word in both_ways(GRADED_OPPOSITES) if word not in NOT_GRADED.split()]
    comparative = {word: with_ending(word, "er", DOUBLED_ADJECTIVES) for word in graded}
    superlative = {word: with_ending(word, "est", DOUBLED_ADJECTIVES) for word in graded}
    for word, (more, most) in ODD_COMPARISONS.items():
        comparative[word], superlative[word] = more, most
    adverbs = {word: adverb(word) for word in opposites if adverb(word) != "-"}
    return {
        "antonym": opposites,
        "comparative": comparative,
        "superlative": superlative,
        "adverb": adverbs,
    }


def verbs() -> dict[str, Table]:
    regular = dict.fromkeys(REGULAR_VERBS.split())
    past = dict(pairs(IRREGULAR_VERBS))
    past |= {verb: with_ending(verb, "ed", DOUBLED_VERBS) for verb in regular}
    return {
        "past": past,
        "gerund": {verb: with_ending(verb, "ing", DOUBLED_VERBS) for verb in past},
        "third person": {verb: third_person(verb) for verb in past},
        "agent": {verb: agent for verb, agent in pairs(AGENTS) if verb in past},
    }


def elements() -> dict[str, Table]:
    cells = ELEMENTS.split()
    symbols = dict(zip(cells[::2], cells[1::2], strict=True))
    return {
        "symbol": symbols,
        "atomic number": {name: str(place) for place, name in enumerate(symbols, start=1)},
    }


def numbers() -> dict[str, Table]:
    small = NUMBERS.split()
    names = small + TENS.split()
    values = [*range(21), *range(30, 101, 10)]
    name_of = dict(zip(values, names, strict=True))
    ordinals = dict(zip(names, ORDINALS.split(), strict=True))
    return {
        "digit": {name: str(value) for value, name in name_of.items()},
        "ordinal": {name: ordinal for name, ordinal in ordinals.items() if ordinal != "-"},
        "double": {name: name_of[2 * v] for v, name in name_of.items() if v and 2 * v in name_of},
        **neighbours(small, round_trip=False),
    }


def numerals() -> dict[str, Table]:
    values = range(100)
    return {
        "double": {str(value): str(2 * value) for value in values if value},
        "parity": {str(value): ("even", "odd")[value % 2] for value in values},
        **neighbours([str(value) for value in values], round_trip=False),
    }


def facts() -> dict[str, dict[str, Table]]:
    """All facts: {kind of word: {relation: {word: answer}}}."""
    known = {
        "adjective": adjectives(),
        "country": columns(COUNTRIES, ["capital", "language", "continent", "currency"]),
        "verb": verbs(),
        "noun": columns(NOUNS, ["french", "spanish", "group"]),
        "animal": columns(ANIMALS, ["young", "sound", "family"]),
        "person": {"gender": both_ways(PERSONS)},
        "job": columns(JOBS, ["workplace", "equipment"]),
        "element": elements(),
        "number": numbers(),
        "numeral": numerals(),
        "day": neighbours(DAYS.split(), round_trip=True),
        "month": neighbours(MONTHS.split(), round_trip=True),
        "letter": neighbours(LETTERS.split(), round_trip=False),
    }
    for kind in ("noun", "animal", "person"):
        words = [word for table in known[kind].values() for word in table]
        known[kind]["plural"] = {word: plural(word) for word in dict.fromkeys(words)}
    for tables in known.values():
        words = [word for table in tables.values() for word in table]
        tables["same"] = {word: word for word in dict.fromkeys(words)}
    return known
