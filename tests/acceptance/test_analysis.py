"""What is found in transcripts while they grow: nothing lost, nothing twice, nothing invented."""

import csv
import difflib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from shell import Reelmine, analysis, attempts, last_run, measured, reelmine_in, result
from speech import FILES

from engine import events
from engine.analysis.phrasebook import Phrasebook
from engine.speech.models import find_models_folder
from engine.testing.answers import parse_prompt
from engine.testing.server import Request, Server
from engine.testing.transcriber import make_model

Item = tuple[str, tuple[int, ...], str]  # phrase, cues, quote


def names(eight: Any) -> list[str]:
    return [video.stem for video in eight.videos]


def cue_lines(output: Path, name: str) -> dict[int, str]:
    """The cues as a prompt shows them."""
    return {s["id"]: " ".join(s["text"].split()) for s in result(output, name)["segments"]}


def video_of(request: Request, lines: dict[str, dict[int, str]]) -> str:
    """Whose chunk a request was about: its cues stand in one transcript only."""
    asked = {cue.id: cue.text for cue in parse_prompt(request.body["messages"]).cues}
    (name,) = [name for name, said in lines.items() if asked.items() <= said.items()]
    return name


def asked_by_video(eight: Any) -> dict[str, list[Request]]:
    """The requests of a run, by video, in order of their cues."""
    lines = {name: cue_lines(eight.output, name) for name in names(eight)}
    requests: dict[str, list[Request]] = {name: [] for name in lines}
    for request in eight.requests:
        requests[video_of(request, lines)].append(request)
    return {name: sorted(some, key=lambda r: r.cues) for name, some in requests.items()}


def answered(request: Request, book: Phrasebook) -> list[Item]:
    """What the server finds in a chunk, worked out again by the phrasebook alone."""
    prompt = parse_prompt(request.body["messages"])
    cues = (*prompt.context, *prompt.cues)
    return [
        (match.entry.phrase, tuple(cues[n].id for n in match.cues), match.quote)
        for match in book.find([cue.text for cue in cues])
        if match.cues[-1] >= len(prompt.context)
    ]


def found(output: Path, name: str, recipe: str) -> list[dict[str, Any]]:
    """The grounded items."""
    items: list[dict[str, Any]] = analysis(output, name, recipe)["items"]
    return items


@pytest.fixture(scope="session")
def book() -> Phrasebook:
    return Phrasebook.load(find_models_folder() / "phrasebook-en")


# One run of eight videos


def test_eight_videos_are_all_done(eight: Any) -> None:
    assert eight.report.exit_code == 0
    assert [video.state for video in eight.report.videos] == ["done"] * 8
    assert all(len(requests) > 1 for requests in asked_by_video(eight).values())


def test_every_cue_is_asked_about_once(eight: Any) -> None:
    for name, requests in asked_by_video(eight).items():
        cues = [cue for request in requests for cue in request.cues]
        assert cues == list(range(len(result(eight.output, name)["segments"])))
        for request in requests:
            first = request.cues[0]
            assert request.context == tuple(range(max(0, first - 2), first))


def test_analysis_is_the_union_of_what_the_chunks_gave(eight: Any, book: Phrasebook) -> None:
    total = 0
    for name, requests in asked_by_video(eight).items():
        wanted = Counter(item for request in requests for item in answered(request, book))
        ours = analysis(eight.output, name, "finds")
        got = Counter(
            (item["fields"]["phrase"], tuple(item["cues"]), item["quote"])
            for item in (*ours["items"], *ours["ungrounded"])
        )
        # one cue may say the same twice; an item that is equal in everything is one item
        assert got == Counter(wanted.keys())
        assert (ours["state"], ours["chunks"], ours["failed"]) == ("done", len(requests), [])
        assert ours["dropped"] == 0
        assert ours["ungrounded"] == []
        total += len(ours["items"])
    assert total > 200


def test_items_are_in_order_of_time_and_inside_their_cues(eight: Any) -> None:
    for name in names(eight):
        cues = {s["id"]: s for s in result(eight.output, name)["segments"]}
        items = found(eight.output, name, "finds")
        assert [item["start"] for item in items] == sorted(item["start"] for item in items)
        for item in items:
            assert cues[item["cues"][0]]["start"] <= item["start"]
            assert item["start"] < item["end"] <= cues[item["cues"][-1]]["end"]


def test_table_has_a_row_for_every_item_of_every_video(eight: Any) -> None:
    with (eight.output / "analysis.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    listed = Counter((row["video"], row["phrase"], row["cues"], row["quote"]) for row in rows)
    wanted = Counter(
        (name, item["fields"]["phrase"], " ".join(map(str, item["cues"])), item["quote"])
        for name in names(eight)
        for item in found(eight.output, name, "finds")
    )
    assert listed == wanted


def test_calls_start_while_the_longest_video_is_still_being_transcribed(eight: Any) -> None:
    def first(wanted: Any) -> int:
        return next(number for number, event in enumerate(eight.events) if wanted(event))

    longest = "the_longest"
    whole = result(eight.output, longest)["reelmine"]["duration"]
    assert whole == max(result(eight.output, n)["reelmine"]["duration"] for n in names(eight))
    own_call = first(
        lambda e: isinstance(e, events.CallStarted) and e.video.name == longest and e.chunk == 0
    )
    sealed = first(
        lambda e: (
            isinstance(e, events.VideoProgress)
            and e.video.name == longest
            and e.seconds_done == pytest.approx(whole, abs=0.01)
        )
    )
    assert own_call < sealed
    # the same, as the ledger tells it later
    calls = [call for call in attempts(eight.output, "call") if call["video"] == longest]
    decoded = attempts(eight.output, "batch")
    assert min(call["began"] for call in calls) < max(batch["ended"] for batch in decoded)
    assert any(row["calls"] and row["slots_busy"] for row in measured(eight.output))


# The phrasebook on what tiny.en heard


@pytest.fixture(scope="module")
def offline(eight: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same transcripts, analysed without a server."""
    folder = tmp_path_factory.mktemp("offline")
    eight.copied(folder / "out")
    words = ("-o", "out", "--model", "tiny.en", "--device", "cpu")
    done = reelmine_in(folder)("run", *eight.videos, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert attempts(folder / "out", "open") == []
    return folder / "out"


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower().replace("’", "'"))


def test_every_item_found_offline_is_in_its_cues(eight: Any, offline: Path) -> None:
    for name in names(eight):
        texts = {s["id"]: s["text"] for s in result(offline, name)["segments"]}
        ours = analysis(offline, name, "expressions")
        assert (ours["analyst"], ours["state"]) == ("phrasebook-en", "done")
        assert ours["ungrounded"] == []
        for item in ours["items"]:
            said = " ".join(" ".join(texts[cue].split()) for cue in item["cues"])
            assert item["quote"] in said
            assert item["grounding"] == "exact" and item["score"] == 1


def places(quote: list[str], said: list[str]) -> list[range]:
    """Where the words stand in a row."""
    size = len(quote)
    return [range(n, n + size) for n in range(len(said) - size + 1) if said[n : n + size] == quote]


def heard(track: dict[str, Any], said: list[str]) -> list[tuple[str, str, range]]:
    """The gold expressions whose words are all in the transcript, with their place in it."""
    reference = words_of(track["transcript"])
    blocks = difflib.SequenceMatcher(None, reference, said, autojunk=False).get_matching_blocks()
    there = {block.a + n: block.b + n for block in blocks for n in range(block.size)}
    right, after = [], 0
    for gold in sorted(track["expressions"], key=lambda gold: gold["start"]):
        place = next(p for p in places(words_of(gold["quote"]), reference) if p[0] >= after)
        after = place[0] + 1
        at = [there.get(word, -1) for word in place]
        if at[0] >= 0 and at == list(range(at[0], at[0] + len(at))):
            right.append((gold["phrase"], gold["quote"], range(at[0], at[-1] + 1)))
    return right


def test_expression_whose_words_are_right_is_never_missed(
    eight: Any, offline: Path, samples: Path
) -> None:
    """`finds` keeps every occurrence; `expressions` the first of each, which must be there too."""
    references = json.loads((samples / "references.json").read_text("utf-8"))["files"]
    missed, looked_at = [], 0
    for file in references:
        name = Path(file["file"]).stem
        segments = result(eight.output, name)["segments"]
        said = words_of(" ".join(segment["text"] for segment in segments))
        begins, count = {}, 0
        for segment in segments:
            begins[segment["id"]] = count
            count += len(words_of(segment["text"]))
        covered = set()
        for item in found(eight.output, name, "finds"):
            quote, low = words_of(item["quote"]), begins[item["cues"][0]]
            high = begins.get(item["cues"][-1] + 1, count)
            assert places(quote, said[low:high])
            covered |= {low + n for place in places(quote, said[low:high]) for n in place}
        once = {item["fields"]["phrase"] for item in found(offline, name, "expressions")}
        assert once == {i["fields"]["phrase"] for i in found(eight.output, name, "finds")}
        for phrase, quote, place in heard(file["tracks"][0], said):
            looked_at += 1
            if not covered & set(place):
                missed.append((name, phrase, quote))
    assert looked_at > 150
    assert missed == []


def test_offline_items_are_each_phrase_once_where_it_is_said_first(
    eight: Any, offline: Path
) -> None:
    for name in names(eight):
        all_of_them = found(eight.output, name, "finds")
        first: dict[str, float] = {}
        for item in all_of_them:
            first.setdefault(item["fields"]["phrase"], item["start"])
        ours = {i["fields"]["phrase"]: i["start"] for i in found(offline, name, "expressions")}
        assert ours == first


# Languages, recipes


def test_transcript_in_another_language_is_left_out_with_the_reason(
    reelmine: Reelmine, tmp_path: Path, samples: Path
) -> None:
    model = make_model(
        tmp_path / "german", language="de", text="Das ist ja die Höhe.", seconds=0.02
    )
    words = ("run", samples / "moving_house.wav", "-o", "out", "--model", model)
    done = reelmine(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not in English (de)" in done.stdout and "--llm-model" in done.stdout
    ours = analysis(tmp_path / "out", "moving_house", "expressions")
    assert (ours["state"], ours["problem"]["code"]) == ("skipped", "E_LANGUAGE")
    assert result(tmp_path / "out", "moving_house")["reelmine"]["state"] == "done"
    assert last_run(tmp_path / "out")["exit_code"] == 0
    again = reelmine(*words)
    assert again.returncode == 0
    assert last_run(tmp_path / "out")["resumed"] == 1


def test_a_language_model_is_asked_about_any_language(
    reelmine: Reelmine, tmp_path: Path, samples: Path
) -> None:
    model = make_model(
        tmp_path / "german", language="de", text="Das ist ja die Höhe.", seconds=0.02
    )
    with Server() as server:
        done = reelmine(
            *("run", samples / "moving_house.wav", "-o", "out", "--model", model),
            *("--llm-model", "phrasebook", "--llm-base-url", server.url, "--recipe", "summary"),
        )
        assert len(server.requests) == 1
    assert done.returncode == 0, done.stdout + done.stderr
    (item,) = found(tmp_path / "out", "moving_house", "summary")
    assert item["quote"].strip() == "Das ist ja die Höhe."


JOKES = """\
name = "jokes"
prompt = "Find the jokes."
merge = "dedupe"
key = "punchline"
times = "cues"
[fields.punchline]
type = "string"
[fields.funny]
type = "integer"
minimum = 1
[fields.tags]
type = "array"
items = { type = "string" }
"""


def test_recipes_are_answered_together_and_kept_apart(
    eight: Any, reelmine: Reelmine, tmp_path: Path
) -> None:
    output = eight.copied(tmp_path / "out")
    (tmp_path / "jokes.toml").write_text(JOKES)
    recipes = ("--recipe", "summary,chapters", "--recipe", "jokes.toml")
    with Server() as server:
        endpoint = ("--llm-model", "phrasebook", "--llm-base-url", server.url)
        words = ("-o", "out", "--model", "tiny.en", "--device", "cpu", *recipes, *endpoint)
        done = reelmine("run", *eight.videos, *words)
        asked = len(server.requests)
    assert done.returncode == 0, done.stdout + done.stderr
    assert attempts(output, "open") == []
    chunks = 0
    for name in names(eight):
        segments = result(output, name)["segments"]
        analyses = result(output, name)["reelmine"]["analyses"]
        assert [ours["recipe"] for ours in analyses] == ["summary", "chapters", "jokes"]
        for ours in analyses:
            assert (ours["state"], ours["ungrounded"]) == ("done", [])
            assert 1 <= len(ours["items"]) <= ours["chunks"]
            chunks += ours["chunks"]
            item = ours["items"][0]
            assert item["cues"] == [0] and item["quote"].split() == segments[0]["text"].split()
            assert (item["start"], item["end"]) == (segments[0]["start"], segments[0]["end"])
        assert analyses[2]["items"][0]["fields"].keys() == {"punchline", "funny", "tags"}
    assert asked == chunks
    with (output / "analysis.csv").open(newline="", encoding="utf-8") as table:
        assert {row["recipe"] for row in csv.DictReader(table)} == {"summary", "chapters", "jokes"}


def test_reply_that_was_paid_for_is_not_asked_for_again(
    reelmine: Reelmine, tmp_path: Path, samples: Path, fake: Path
) -> None:
    words = ("run", samples / "moving_house.wav", "-o", "out", "--model", fake)
    asked = []
    with Server() as server:
        endpoint = ("--llm-model", "phrasebook", "--llm-base-url", server.url)
        for recipes in ("summary", "expressions", "summary", "summary,expressions"):
            done = reelmine(*words, *endpoint, "--recipe", recipes)
            assert done.returncode == 0, done.stdout + done.stderr
            asked.append(len(server.requests))
    assert asked == [1, 2, 2, 2]
    analyses = result(tmp_path / "out", "moving_house")["reelmine"]["analyses"]
    assert [ours["recipe"] for ours in analyses] == ["summary", "expressions"]
    with Server() as server:  # another model is another answer, and the address is none
        moved = ("--llm-base-url", server.url, "--recipe", "summary")
        assert reelmine(*words, "--llm-model", "phrasebook", *moved).returncode == 0
        assert server.requests == []
        assert reelmine(*words, "--llm-model", "another", *moved).returncode == 0
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("threads", "script", "wanted"),  # the others wait, or begin in the same turn
    [
        (1, "", 1),
        pytest.param(8, "", 1, marks=pytest.mark.slow),
        (3, "refusal", 2),
        pytest.param(8, "refusal, 401, ...", 2, marks=pytest.mark.slow),
    ],
)
def test_chunks_that_say_the_same_are_asked_about_once(
    reelmine: Reelmine,
    tmp_path: Path,
    samples: Path,
    fake: Path,
    threads: int,
    script: str,
    wanted: int,
) -> None:
    names = ["a", "b", "c", "d"]
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / "in" / f"{name}.wav").symlink_to(samples / "moving_house.wav")
    words = ("run", "in", "-o", "out", "--model", fake)
    assert reelmine(*words, "--no-analysis").returncode == 0
    with Server(script=script, latency=0.2) as server:
        words += ("--llm-threads", threads)
        endpoint = ("--llm-model", "phrasebook", "--llm-base-url", server.url)
        done = reelmine(*words, *endpoint, "--recipe", "summary")
        assert len(server.requests) == wanted
    ours = [analysis(tmp_path / "out", name, "summary") for name in names]
    # the one whose call failed; the others are asked for anew, unless the endpoint is of no use
    failed = 4 if "401" in script else wanted - 1
    assert done.returncode == min(failed, 1)
    assert sorted(one["state"] for one in ours) == ["done"] * (4 - failed) + ["failed"] * failed
    assert len({json.dumps(one["items"]) for one in ours}) == 1 + (0 < failed < 4)


@pytest.mark.parametrize("recipe", ["summary", "chapters", "jokes.toml"])
def test_recipe_that_nobody_here_can_answer_is_refused(
    reelmine: Reelmine, tmp_path: Path, samples: Path, fake: Path, recipe: str
) -> None:
    (tmp_path / "jokes.toml").write_text(JOKES)
    words = ("run", samples / "moving_house.wav", "-o", "out", "--model", fake)
    done = reelmine(*words, "--recipe", recipe)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert recipe.removesuffix(".toml") in done.stderr and "--llm-model" in done.stderr
    assert not (tmp_path / "out" / "moving_house.json").exists()


def test_sample_names_are_those_of_the_references(samples: Path) -> None:
    references = json.loads((samples / "references.json").read_text("utf-8"))["files"]
    assert {file["file"] for file in references} == set(FILES)
