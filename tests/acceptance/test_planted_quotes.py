"""A model that lies: 200 quotes that were said and 200 that were not, planted by the server.

What was said is known to the test word for word, so whether a quote is true is decided here by
other means than grounding's own: a quote is a list of words, and either stands in the chunk or not.
"""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shell import analysis, last_run, result
from speech import write_wav

import engine
from engine.records import SAMPLE_RATE
from engine.testing.server import Canned, Request, Server
from engine.testing.transcriber import make_model

CUES, WORDS, PER_CHUNK = 30, 20, 3  # cues in all, words in a cue, cues in a chunk
EACH = 20  # true ones, and false ones, in a chunk
EXAMPLE = "she has a chip on her shoulder about money"
RECIPE = f"""
name = "marks"
prompt = "Quote what is remarkable, as in '{EXAMPLE}'."
min_words = {WORDS * PER_CHUNK}
max_words = {WORDS * PER_CHUNK}
[fields.mark]
type = "string"
"""
SPOKEN = """
about after again air all almost already always another answer any apple around arrive ask autumn
away baby back bad bank be beach bed before begin behind believe below best better between big bird
blue boat body book both box boy bread break bridge bring brother build bus business buy cake call
can't car card carry case change child city clean clear close coffee cold colour come corner could
country couldn't cut dark daughter day dead deep didn't different dinner do doctor doesn't dog don't
door down draw dream dress drink drive dry during each early earth east easy eat eight empty end
enough evening ever every eye face fact fall family far farm fast father feel few field fight fill
find fine finger finish fire first fish five floor flower follow food foot forest forget four free
friend from front full funny game garden girl give glass go gold good grass great green ground grow
guess half hand happy hard hat have he's head hear heart heavy help here high hill hold home hope
horse hot hour house hundred I'd I'll I'm ice idea if important in inside isn't it's job just keep
key kind king kitchen know lake land large last late laugh learn leave left leg less let letter life
light like line list listen little live long look lose lot love low lunch make man many map market
may mean meet middle mile milk mind minute money month moon more morning most mother mountain mouth
move much music must name near neck need never new next nice night nine no north nose not note
nothing now number of off office often old on once one only open or orange order other our out over
own page pain paper park part party pass pay people perhaps phone picture piece place plan play
please point poor power put question quick quiet quite rain reach read ready real red remember rest
rich ride right river road rock room round run sad safe same sand save say school sea season seat
second see sell send seven shall she'll shop short should shoulder show sick side sign sing sister
sit six sky sleep slow small smile snow so some son song soon south speak spend spring stand star
start stay still stone stop story street strong sugar summer sun sure sweet swim table take talk
tall tea teach tell ten than thank that's their then there they've thing think third thirty this
three through time tired today together tomorrow tonight too town train travel tree true try turn
twelve twenty two uncle under until up us use very voice wait walk wall want warm wash wasn't watch
water way we're week well-known west what's wheel when where white who wide wife wild wind window
wine winter wish with without woman won't wonder wood word work world worry write wrong year yellow
yes yesterday you you're young your 12 13 1984 250
""".split()
UNSPOKEN = "zebra quartz ominous velvet bureaucrat lagoon trombone nimbus gargoyle paprika".split()


def spoken() -> list[list[str]]:
    """The words of each cue; no word twice, so that nothing is said in two places by chance."""
    draw = random.Random(17)
    words = draw.sample([*SPOKEN, *(f"{word}ish" for word in SPOKEN)], CUES * WORDS)
    return [words[n * WORDS : (n + 1) * WORDS] for n in range(CUES)]


SAID = spoken()


def sentence(words: Sequence[str]) -> str:
    """As a transcript has it, with signs in between."""
    first, second = " ".join(words[:9]), " ".join(words[9:])
    return f"{first[0].upper()}{first[1:]}, {second}."


Planted = tuple[str, list[str], list[int]]  # kind, words, cues cited


class Liar:
    """A script whose answers hold true and false quotes, each marked; `planted` by their marks."""

    def __init__(self) -> None:
        self.planted: dict[str, Planted] = {}

    def __call__(self, request: Request) -> Canned:
        draw = random.Random(request.cues[0])
        items = []
        for number in range(EACH):
            for kinds, name in ((TRUE, "true"), (FALSE, "false")):
                kind = kinds[number % len(kinds)]
                words, cited = kind(draw, request.cues)
                mark = f"{name} {request.cues[0]} {number} {kind.__name__}"
                self.planted[mark] = kind.__name__, words, cited
                items.append({"mark": mark, "quote": written(draw, words), "cues": cited})
        draw.shuffle(items)
        message = {"role": "assistant", "content": json.dumps({"items": items})}
        return Canned({"choices": [{"message": message, "finish_reason": "stop"}]})


def written(draw: random.Random, words: Sequence[str]) -> str:
    """The same words in some other dress."""
    text = " ".join(words)
    dress: Sequence[Callable[[str], str]] = (
        str,
        str.upper,
        str.title,
        lambda t: f"\u201c{t}\u201d",
        lambda t: t.replace("'", "\u2019"),
        lambda t: t.replace(" ", ", ", 1) + "...",
        lambda t: t.replace(" ", "\n", 1).replace(" ", "\u00a0", 1),
        lambda t: f"\u00ab{t}\u00bb!",
    )
    return draw.choice(dress)(text)


def stretch(draw: random.Random, cue: int, least: int = 3) -> list[str]:
    size = draw.randrange(least, 16)
    start = draw.randrange(WORDS - size + 1)
    return SAID[cue][start : start + size]


# true ones: words, and the cues that are cited


def exact(draw: random.Random, cues: Sequence[int]) -> tuple[list[str], list[int]]:
    cue = draw.choice(cues)
    return stretch(draw, cue), [cue]


def one_word(draw: random.Random, cues: Sequence[int]) -> tuple[list[str], list[int]]:
    cue = draw.choice(cues)
    return [draw.choice(SAID[cue])], [cue]


def across_a_border(draw: random.Random, cues: Sequence[int]) -> tuple[list[str], list[int]]:
    cue = draw.choice(cues[:-1])
    before, after = draw.randrange(1, WORDS), draw.randrange(1, WORDS)
    return SAID[cue][-before:] + SAID[cue + 1][:after], [cue, cue + 1]


def cited_elsewhere(draw: random.Random, cues: Sequence[int]) -> tuple[list[str], list[int]]:
    return stretch(draw, draw.choice(cues)), [draw.choice(cues), 9_999, -1]


# false ones


def never_said(draw: random.Random, cues: Sequence[int]) -> tuple[list[str], list[int]]:
    return draw.sample(UNSPOKEN, draw.randrange(1, 9)), [draw.choice(cues)]


def swapped(draw: random.Random, cues: Sequence[int]) -> tuple[list[str], list[int]]:
    """A word is another one: one that is said in the same chunk, or one that nobody says."""
    words, cited = exact(draw, cues)
    others = [word for cue in cues for word in SAID[cue] if word not in words]
    changed = [*words]
    changed[draw.randrange(len(words))] = draw.choice([*others, *UNSPOKEN])
    return changed, cited


def swapped_in_a_long_one(draw: random.Random, cues: Sequence[int]) -> tuple[list[str], list[int]]:
    first, second, _ = cues
    words = [*SAID[first], *SAID[second]]
    words[draw.randrange(len(words))] = draw.choice(UNSPOKEN)
    return words, [first, second]


def added(draw: random.Random, cues: Sequence[int]) -> tuple[list[str], list[int]]:
    words, cited = exact(draw, cues)
    changed = [*words]
    changed.insert(draw.randrange(1, len(words)), draw.choice([*UNSPOKEN, "not"]))
    return changed, cited


def turned_round(draw: random.Random, cues: Sequence[int]) -> tuple[list[str], list[int]]:
    words, cited = exact(draw, cues)
    place = draw.randrange(len(words) - 1)
    changed = [*words]
    changed[place], changed[place + 1] = words[place + 1], words[place]
    return changed, cited


def glued(draw: random.Random, cues: Sequence[int]) -> tuple[list[str], list[int]]:
    """The beginning of one cue and the end of another."""
    first, _, last = cues
    return SAID[first][:5] + SAID[last][-5:], [first, last]


def of_another_chunk(draw: random.Random, cues: Sequence[int]) -> tuple[list[str], list[int]]:
    near = range(cues[0] - 2, cues[-1] + 1)  # the two cues before are shown with the chunk
    cue = draw.choice([cue for cue in range(CUES) if cue not in near])
    return stretch(draw, cue), [draw.choice((cue, *cues))]


def the_prompts_example(draw: random.Random, cues: Sequence[int]) -> tuple[list[str], list[int]]:
    return EXAMPLE.split(), [draw.choice(cues)]


def no_such_cue(draw: random.Random, cues: Sequence[int]) -> tuple[list[str], list[int]]:
    return draw.sample(UNSPOKEN, 4), [9_999, -1, 10**20]


TRUE = (exact, exact, one_word, across_a_border, across_a_border, cited_elsewhere)
FALSE = (never_said, swapped, swapped_in_a_long_one, added, turned_round, glued, of_another_chunk,
         the_prompts_example, no_such_cue, swapped)  # fmt: skip


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Planted]]:
    """An output folder after a run with the liar, and what it had planted."""
    folder = tmp_path_factory.mktemp("planted")
    model = make_model(folder / "model", seconds=0.0, texts=tuple(map(sentence, SAID)))
    silence = np.zeros((CUES * 30 - 1) * SAMPLE_RATE, np.float32)
    video = write_wav(folder / "talk.wav", silence)
    (folder / "marks.toml").write_text(RECIPE)
    liar = Liar()
    with Server(script=liar) as server:
        config = engine.Config(
            output=folder / "out",
            model=str(model),
            device="cpu",
            mode="sequential",
            recipe=(str(folder / "marks.toml"),),
            llm_model="liar",
            llm_base_url=server.url,
        )
        assert engine.run([video], config).exit_code == 0
        assert len(server.requests) == CUES // PER_CHUNK
    return folder / "out", liar.planted


def marks(items: Sequence[dict[str, Any]]) -> set[str]:
    return {item["fields"]["mark"] for item in items}


def is_said(words: Sequence[str], cues: Sequence[int]) -> bool:
    text = [word for cue in cues for word in SAID[cue]]
    return any(text[start : start + len(words)] == list(words) for start in range(len(text)))


def test_planted_quotes_are_what_they_are_called(planted: Any) -> None:
    _, all_planted = planted
    assert len({word for cue in SAID for word in cue}) == CUES * WORDS
    for mark, (_, words, _) in all_planted.items():
        name, first, *_ = mark.split()
        chunk = range(int(first), int(first) + PER_CHUNK)
        assert is_said(words, chunk) == (name == "true"), mark
    true = [mark for mark in all_planted if mark.startswith("true")]
    assert len(true) == len(all_planted) - len(true) == 200
    assert {kind for kind, *_ in all_planted.values()} == {k.__name__ for k in (*TRUE, *FALSE)}


def test_no_false_quote_is_grounded_and_no_true_one_is_lost(planted: Any) -> None:
    output, all_planted = planted
    found = analysis(output, "talk", "marks")
    true = {mark for mark in all_planted if mark.startswith("true")}
    assert marks(found["items"]) == true
    assert marks(found["ungrounded"]) == all_planted.keys() - true
    assert all(item["grounding"] == "exact" for item in found["items"])


def test_true_quotes_have_the_cues_and_times_where_they_were_said(planted: Any) -> None:
    output, all_planted = planted
    times = {cue["id"]: (cue["start"], cue["end"]) for cue in result(output, "talk")["segments"]}
    for item in analysis(output, "talk", "marks")["items"]:
        _, words, _ = all_planted[item["fields"]["mark"]]
        cues = item["cues"]
        assert is_said(words, cues), item
        assert not is_said(words, cues[1:]) and not is_said(words, cues[:-1])
        assert (item["start"], item["end"]) == (times[cues[0]][0], times[cues[-1]][1])


def test_false_quotes_have_no_time_and_are_in_no_table(planted: Any) -> None:
    output, _ = planted
    found = analysis(output, "talk", "marks")["ungrounded"]
    assert all(item["start"] is item["end"] is None for item in found)
    table = (output / "analysis.csv").read_text()
    assert "true 0 0" in table and "false" not in table


def test_end_of_the_run_counts_what_was_said_and_what_was_not(planted: Any) -> None:
    output, _ = planted
    report = last_run(output)
    assert report["items"] == {"exact": 200, "fuzzy": 0, "ungrounded": 200, "dropped": 0}
    assert report["share_grounded"] == 0.5
