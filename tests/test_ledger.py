"""The ledger: real SQLite files, killed writers, damaged bytes."""

import json
import signal
import sqlite3
import subprocess
import sys
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shell import environment

from engine.errors import OutputError
from engine.records import Piece, Problem, Recorded, Reply, Spent, State, WindowResult, Word
from engine.speech.quality import Flaw
from engine.store import ledger as module
from engine.store.ledger import FILE, Ledger, Row
from engine.store.status import read_status
from engine.summary import status_lines

ROW = Row("/v/talk.mp4", "f", State.FAILED, "s", None, Problem("E_SHORT", 'half "gone"\n'), 12)


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path)
    yield ledger
    ledger.close()


def test_rows_come_back_whole_with_any_name_and_reason(ledger):
    name = "bad\udcff/it's \n"
    ledger.save_video(name, ROW)
    assert ledger.videos() == {name: ROW}


def test_uncommitted_work_is_not_there_after_a_kill_and_committed_work_is(tmp_path):
    script = """
import os, sys
from pathlib import Path
from engine.records import Reply
from engine.store.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
ledger.add_reply("kept", Reply("[]"), "m", "summary")
ledger.commit()
ledger.add_reply("lost", Reply("[]"), "m", "summary")
print("ready", flush=True)
sys.stdin.read()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdin.close()
    child.stdout.close()
    ledger = Ledger(tmp_path)
    assert ledger.reply("kept") == Reply("[]")
    assert ledger.reply("lost") is None
    ledger.close()


def test_what_was_spent_comes_back_by_model(ledger, tmp_path):
    ledger.save_spent("m", Spent(1, 20, 3, 1))
    ledger.save_spent("n", Spent(1, 2, 3))
    ledger.save_spent("m", Spent(2, 40, 6, 1))
    ledger.commit()
    assert ledger.spent() == {"m": Spent(2, 40, 6, 1), "n": Spent(1, 2, 3)}
    assert read_status(tmp_path)["spent"]["m"] == {
        "exchanges": 2,
        "prompt_tokens": 40,
        "completion_tokens": 6,
        "uncounted": 1,
    }


def test_replies_are_listed_by_key_with_who_gave_them(ledger):
    ledger.add_reply("b", Reply("[]", prompt_tokens=3), "m", "summary")
    ledger.add_reply("a", Reply("[]"), "n", "chapters")
    assert list(ledger.replies()) == [
        Recorded("a", "n", "chapters", Reply("[]")),
        Recorded("b", "m", "summary", Reply("[]", prompt_tokens=3)),
    ]
    assert ledger.unnamed_replies == 0


def test_ledger_from_before_replies_had_a_name_goes_on(tmp_path):
    (tmp_path / ".reelmine").mkdir()
    with sqlite3.connect(tmp_path / FILE) as old:
        old.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
        old.execute("INSERT INTO meta VALUES ('version', '1')")
        old.execute(
            "CREATE TABLE replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL,"
            " created REAL NOT NULL) WITHOUT ROWID"
        )
        reply = json.dumps(asdict(Reply("[]")))
        old.execute("INSERT INTO replies VALUES ('old', ?, 1.0)", (reply,))
        old.execute("CREATE TABLE videos (name TEXT PRIMARY KEY, path, state) WITHOUT ROWID")
        old.execute("INSERT INTO videos VALUES ('\"talk\"', '\"talk.mp4\"', 'done')")
    old.close()
    status = read_status(tmp_path)
    assert (status["spent"], status["videos"], status["note"]) == ({}, {}, None)
    for look in (True, False):
        ledger = Ledger(tmp_path, look=look)
        assert ledger.notice is None
        assert ledger.reply("old") == Reply("[]")
        assert (list(ledger.replies()), ledger.unnamed_replies) == ([], 1)
        ledger.add_reply("new", Reply("[]"), "m", "summary")
        assert [entry.key for entry in ledger.replies()] == ["new"]
        assert ledger.videos() == {}  # they are found again in their files
        ledger.close()
    assert Ledger(tmp_path).reply("new") == Reply("[]")


@pytest.mark.parametrize("look", [True, False])
def test_ledger_of_a_newer_version_is_left_alone(tmp_path, look):
    ledger = Ledger(tmp_path)
    ledger.set("version", "3")
    ledger.close()
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(OutputError, match="newer reelmine .*: update reelmine, or name another"):
        Ledger(tmp_path, look=look)
    assert (tmp_path / FILE).read_bytes() == before


def test_status_of_a_damaged_ledger_says_so(tmp_path):
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).write_bytes(b"no database" * 999)
    status = read_status(tmp_path)
    assert "cannot be read (file is not a database)" in status["note"]
    assert any(status["note"] in line for line in status_lines(status))


results = st.builds(
    WindowResult,
    position=st.integers(0, 9999),
    language=st.sampled_from(["en", "ja"]),
    language_probability=st.none() | st.floats(0, 1),
    avg_logprob=st.floats(-10, 0),
    no_speech_prob=st.floats(0, 1),
    pieces=st.lists(
        st.builds(
            Piece,
            start=st.floats(0, 30),
            end=st.floats(0, 30),
            text=st.text(),
            tokens=st.lists(st.integers(0, 51864)).map(tuple),
            compression_ratio=st.floats(0, 10),
            words=st.lists(
                st.builds(Word, st.floats(0, 30), st.floats(0, 30), st.text(), st.floats(0, 1)),
                max_size=2,
            ).map(tuple),
        ),
        max_size=3,
    ).map(tuple),
    word_median=st.floats(0, 0.7),
    fallback=st.none() | st.just("int8_float16"),
    suspect=st.none() | st.sampled_from(Flaw),
    decodings=st.integers(1, 9),
)


@given(st.lists(results, unique_by=lambda r: r.position, max_size=3))
def test_windows_come_back_exactly(tmp_path_factory, found):
    ledger = Ledger(tmp_path_factory.mktemp("ledger"))
    for result in found:
        ledger.add_window("key", result)
    assert ledger.windows("key") == {result.position: result for result in found}
    assert ledger.windows("other") == {}
    ledger.drop_windows("key")
    assert ledger.windows("key") == {}
    ledger.close()


def test_damaged_ledger_is_moved_aside_and_the_run_is_told(tmp_path):
    (tmp_path / ".reelmine").mkdir()
    (tmp_path / FILE).write_bytes(b"this is not a database, but long enough to look like one" * 40)
    ledger = Ledger(tmp_path)
    assert ledger.notice is not None
    assert "rebuilt from the result files" in ledger.notice
    assert ledger.videos() == {}
    ledger.close()
    assert len(list((tmp_path / ".reelmine").glob("ledger.damaged-*"))) == 1


def test_network_file_system_gets_a_rollback_journal(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "on_network", lambda folder: True)
    ledger = Ledger(tmp_path)
    assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    ledger.close()


def test_local_disk_gets_a_write_ahead_log(ledger):
    assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_looking_writes_nothing(tmp_path):
    ledger = Ledger(tmp_path, look=True)
    ledger.save_video("talk", ROW)
    assert ledger.videos() == {"talk": ROW}
    ledger.close()
    assert list(tmp_path.iterdir()) == []


def test_looking_sees_what_a_running_run_has_committed(ledger, tmp_path):
    ledger.save_video("talk", ROW)
    ledger.commit()
    other = Ledger(tmp_path, look=True)
    assert other.videos() == {"talk": ROW}
    other.close()


def test_status_counts_states_and_names_failures_while_a_run_writes(ledger, tmp_path):
    ledger.begin_run()
    ledger.save_video("talk", ROW)
    ledger.save_video("fine", Row("/v/fine.mp4", "f", State.DONE, "s", "a"))
    ledger.commit()
    status = read_status(tmp_path)
    assert status["videos"] == {"done": 1, "failed": 1}
    assert status["failures"] == [
        {"video": "talk", "state": "failed", "code": "E_SHORT", "message": 'half "gone"\n'}
    ]
    assert status["last_run"]["exit_code"] is None
    assert json.dumps(status)


def test_status_of_a_folder_without_a_run_is_empty(tmp_path):
    assert read_status(tmp_path)["videos"] == {}
    assert list(tmp_path.iterdir()) == []


def test_second_commit_without_changes_costs_nothing(ledger, tmp_path):
    ledger.set("a", "b")
    assert ledger.changed
    ledger.commit()
    assert not ledger.changed
    before = ledger._db.total_changes
    ledger.commit()
    assert ledger._db.total_changes == before
    with sqlite3.connect(tmp_path / FILE) as other:
        assert other.execute("SELECT value FROM meta WHERE key = 'a'").fetchone() == ("b",)
    other.close()
