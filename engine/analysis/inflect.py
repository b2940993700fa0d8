"""English word forms, as far as the phrasebook needs them.

In: a verb or a noun in its base form. Out: the set of its written forms, lower case.
Knows nothing about phrases, texts or files. Rules are generous where they cannot hurt: a form that
no one writes ("hitted") matches nothing, a missing one loses a hit.
"""

from __future__ import annotations

from functools import cache

VOWELS = "aeiou"


@cache
def verb_forms(base: str) -> frozenset[str]:
    """All forms of a verb: base, -s, past, participle, -ing, and for "be" its short forms."""
    if base == "be":
        return _BE
    forms = {base, _with_s(base), _with_ing(base)} | past_forms(base)
    if base == "have":
        forms |= {"'ve", "got", "hasn't", "haven't", "hadn't"}  # "I've got a point"
    if base == "do":
        forms |= {"don't", "doesn't", "didn't"}
    return frozenset(forms)


@cache
def past_forms(base: str) -> frozenset[str]:
    """Past tense and past participle together: they share most forms and most uses."""
    if base in _IRREGULAR:
        return _IRREGULAR[base]
    for prefix in ("over", "under", "out", "up", "re", "mis", "baby"):
        rest = base.removeprefix(prefix)
        if rest != base and rest in _IRREGULAR:
            return frozenset(prefix + form for form in _IRREGULAR[rest])
    if base.endswith("e"):
        return frozenset({base + "d"})
    if base.endswith("y") and base[-2:-1] not in VOWELS:
        return frozenset({base[:-1] + "ied"})
    return frozenset({_stem(base) + "ed", base + "ed"})


@cache
def noun_forms(base: str) -> frozenset[str]:
    """Singular and plural of a noun."""
    return frozenset({base, _PLURALS.get(base) or _with_s(base)})


def word_set(text: str) -> frozenset[str]:
    """Words written with blanks between them, as a set."""
    return frozenset(text.split())


def _with_s(base: str) -> str:
    if base in {"have", "do", "go"}:
        return {"have": "has", "do": "does", "go": "goes"}[base]
    if base.endswith(("s", "x", "z", "ch", "sh")):
        return base + "es"
    if base.endswith("y") and base[-2:-1] not in VOWELS:
        return base[:-1] + "ies"
    return base + "s"


def _with_ing(base: str) -> str:
    if base.endswith("ie"):
        return base[:-2] + "ying"
    if base.endswith("e") and not base.endswith(("ee", "oe", "ye")):
        return base[:-1] + "ing"
    return _stem(base) + "ing"


def _stem(base: str) -> str:
    """The base before -ed and -ing, its last consonant doubled where English doubles it."""
    if base in _DOUBLING:
        return base + base[-1]
    short = sum(letter in VOWELS for letter in base.replace("qu", "q")) == 1
    if short and len(base) > 2 and base[-2] in VOWELS and base[-1] not in VOWELS + "wxy":
        return base + base[-1]
    if base.endswith("ic"):
        return base + "k"
    return base


_BE = word_set("be am is are was were been being 's 're 'm isn't aren't wasn't weren't ain't")
_DOUBLING = word_set(
    "admit begin commit forget regret prefer refer occur quit equip unwrap kidnap format program"
    " outwit rebel travel"
)
_PLURALS = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "person": "people",
    "foot": "feet",
    "tooth": "teeth",
    "goose": "geese",
    "mouse": "mice",
    "life": "lives",
    "wife": "wives",
    "knife": "knives",
    "half": "halves",
    "leaf": "leaves",
    "loaf": "loaves",
    "thief": "thieves",
    "wolf": "wolves",
    "shelf": "shelves",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "hero": "heroes",
    "echo": "echoes",
    "veto": "vetoes",
}
# One verb a group: base, then past and participle forms, both spellings where two are in use.
_IRREGULAR_TEXT = """
arise arose arisen; awake awoke awoken; bear bore borne born; beat beat beaten;
become became become; begin began begun; bend bent; bet bet betted; bid bid bade bidden;
bind bound; bite bit bitten; bleed bled; blow blew blown; break broke broken; breed bred;
bring brought; build built; burn burned burnt; burst burst; buy bought; cast cast;
catch caught; choose chose chosen; cling clung; come came come; cost cost; creep crept;
cut cut; deal dealt; dig dug; dive dived dove; do did done; draw drew drawn;
dream dreamed dreamt; drink drank drunk; drive drove driven; eat ate eaten; fall fell fallen;
feed fed; feel felt; fight fought; find found; fit fit fitted; flee fled; fling flung;
fly flew flown; forbid forbade forbidden; forget forgot forgotten; forgive forgave forgiven;
freeze froze frozen; get got gotten; give gave given; go went gone; grind ground;
grow grew grown; hang hung hanged; have had; hear heard; hide hid hidden; hit hit; hold held;
hurt hurt; keep kept; kneel knelt kneeled; knit knit knitted; know knew known; lay laid;
lead led; lean leaned leant; leap leaped leapt; learn learned learnt; leave left; lend lent;
let let; lie lay lain lied; light lit lighted; lose lost; make made; mean meant; meet met;
mistake mistook mistaken; pay paid; plead pleaded pled; prove proved proven; put put;
quit quit; read read; rend rent; rid rid; ride rode ridden; ring rang rung; rise rose risen;
run ran run; saw sawed sawn; say said; see saw seen; seek sought; sell sold; send sent;
set set; sew sewed sewn; shake shook shaken; shed shed; shine shone shined;
shit shit shat; shoot shot; show showed shown; shrink shrank shrunk; shut shut;
sing sang sung; sink sank sunk; sit sat; sleep slept; slide slid; sling slung; slit slit;
smell smelled smelt; sneak sneaked snuck; sow sowed sown; speak spoke spoken;
speed sped speeded; spell spelled spelt; spend spent; spill spilled spilt; spin spun;
spit spat spit; split split; spoil spoiled spoilt; spread spread; spring sprang sprung;
stand stood; steal stole stolen; stick stuck; sting stung; stink stank stunk;
strike struck stricken; string strung; swear swore sworn; sweat sweat sweated;
sweep swept; swell swelled swollen; swim swam swum; swing swung; take took taken;
teach taught; tear tore torn; tell told; think thought; throw threw thrown; thrust thrust;
tread trod trodden; understand understood; wake woke woken waked; wear wore worn;
weave wove woven; weep wept; wet wet wetted; win won; wind wound; wring wrung;
write wrote written; withdraw withdrew withdrawn; withhold withheld; withstand withstood
"""
_IRREGULAR = {
    words[0]: frozenset(words[1:])
    for words in (group.split() for group in _IRREGULAR_TEXT.split(";"))
}
