"""Recordings: the same replies make the same file, and a broken one is named by its line."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.analysis import recipes
from engine.analysis.analysts import question_key, result
from engine.analysis.recorded import RecordedAnalyst
from engine.errors import EXIT_USAGE, DiskError, NotRecordedError, UsageError
from engine.records import Chunk, Recorded, Reply, Segment, State
from engine.store.recording import Recording, read_recording, write_recording

SUMMARY = recipes.load("summary")
ITEMS = '[{"cues":[1],"quote":"said — so","sentence":"x"}]'
REPLIES = [
    Recorded("b", "m", "summary", Reply(ITEMS, 1, 2, 300, 40)),
    Recorded("a", "m", "summary", Reply("[]")),
    Recorded("c", "n", "chapters", Reply("[]", attempts=0)),
]


def test_replies_come_back_by_model(tmp_path: Path) -> None:
    path = tmp_path / "new" / "replies.jsonl"
    write_recording(path, REPLIES)
    recording = read_recording(path, "m")
    assert recording.model == "m"
    assert recording.replies == {"a": REPLIES[1].reply, "b": REPLIES[0].reply}
    assert read_recording(path, "n").replies == {"c": REPLIES[2].reply}


def test_equal_replies_make_equal_files_whatever_their_order(tmp_path: Path) -> None:
    write_recording(tmp_path / "one", REPLIES)
    write_recording(tmp_path / "two", reversed(REPLIES))
    content = (tmp_path / "one").read_bytes()
    assert content == (tmp_path / "two").read_bytes()
    header, *lines = content.decode("ascii").splitlines()
    assert json.loads(header) == {"format": "reelmine replies", "version": 1}
    assert [json.loads(line)["key"] for line in lines] == ["a", "b", "c"]


def test_a_file_of_one_model_needs_no_name(tmp_path: Path) -> None:
    write_recording(tmp_path / "one", REPLIES[:2])
    assert read_recording(tmp_path / "one", None).model == "m"


def test_a_recording_of_nothing_answers_nothing(tmp_path: Path) -> None:
    write_recording(tmp_path / "none", [])
    assert read_recording(tmp_path / "none", "m").replies == {}
    with pytest.raises(UsageError, match="replies of no model: name one with --llm-model"):
        read_recording(tmp_path / "none", None)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (None, "has replies of m, n: name one with --llm-model."),
        ("o", "has replies of m, n, none of --llm-model o."),
    ],
)
def test_model_that_is_not_clear_is_asked_for(tmp_path: Path, model: str | None, said: str) -> None:
    write_recording(tmp_path / "two", REPLIES)
    with pytest.raises(UsageError, match=said):
        read_recording(tmp_path / "two", model)


HEADER = '{"format": "reelmine replies", "version": 1}\n'
ENTRY: dict[str, Any] = {
    "key": "k", "model": "m", "recipe": "r",
    "reply": {
        "items": "[]", "dropped": 0, "attempts": 1, "prompt_tokens": None,
        "completion_tokens": 3,
    },
}  # fmt: skip


def entry(**changed: Any) -> str:
    return HEADER + json.dumps({**ENTRY, **changed})


def reply(**changed: Any) -> str:
    return entry(reply={**ENTRY["reply"], **changed})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "line 1: it is not JSON"),
        (b"{}\n", "is no recording: make one with run --record FILE"),
        (b"[]\n", "line 1: it is no JSON object"),
        (b"\xff\n", "cannot be read: it is no text"),
        (b'{"format": "reelmine replies", "version": 2}\n', "has version 2"),
        (HEADER + "{", "line 2: it is not JSON"),
        (HEADER + json.dumps(ENTRY) + "\n3\n", "line 3: it is no JSON object"),
        (entry(key=3), "line 2: key, model, recipe or reply is missing"),
        (entry(reply=None), "line 2: key, model, recipe or reply is missing"),
        (reply(more=1), "line 2: its reply has other fields"),
        (reply(attempts=None), "line 2: its attempts is no count"),
        (reply(completion_tokens=-1), "line 2: its completion_tokens is no count"),
        (reply(items=[]), "line 2: its items are not JSON"),
        (reply(items="{}"), "line 2: its items have no cues and quote"),
        (reply(items='[{"cues": [1]}]'), "line 2: its items have no cues and quote"),
        (reply(items='[{"cues": ["1"], "quote": ""}]'), "line 2: its items have no cues and quote"),
    ],
)
def test_broken_recording_is_named_by_its_line(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    path = tmp_path / "replies.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError) as caught:
        read_recording(path, "m")
    assert caught.value.exit_code == EXIT_USAGE
    assert str(path) in str(caught.value) and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_recording_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none cannot be read: No such file"):
        read_recording(tmp_path / "none", None)


def test_recording_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="could not be written"):
        write_recording(tmp_path / "file" / "replies", REPLIES)


# who answers out of it


def chunk(text: str) -> Chunk:
    return Chunk(0, (), (Segment(1, 0, 0.0, 2.0, text, (), 0.0, 0.0, 1.0, 0.0),))


def test_recorded_question_is_answered_and_another_one_is_named() -> None:
    asked = chunk(" He said — so.")
    key = question_key("m", SUMMARY, asked)
    analyst = RecordedAnalyst(Recording(Path("replies.jsonl"), "m", {key: Reply(ITEMS)}))
    assert (analyst.name, analyst.hosts, analyst.key(SUMMARY, asked)) == ("m", (), key)
    found = result(SUMMARY, asked, analyst.call(SUMMARY, asked))
    assert (found.state, found.items[0].quote) == (State.DONE, "said — so")
    with pytest.raises(NotRecordedError, match=r"replies.jsonl holds no reply of m .* summary"):
        analyst.call(SUMMARY, chunk(" He said nothing."))
    assert analyst.call(SUMMARY, chunk(" ")) == Reply("[]", attempts=0)
