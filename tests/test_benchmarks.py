"""The benchmarks can be run, measure the same thing twice, and end with what programs read."""

import importlib
import json
import subprocess
import sys

import pytest
from shell import ROOT

BENCHMARKS = ROOT / "benchmarks"
SPEECH = ROOT.parent / "shared" / "speech"
SCRIPTS = ("accuracy", "folder", "calls", "hallucination")
needs_speech = pytest.mark.skipif(
    not (SPEECH / "manifest.tsv").is_file(), reason="needs ../shared/speech beside the checkout"
)


def benchmark(name, *words, folder, timeout=120):
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *map(str, words)]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False
    )


def document(done):
    """The last line of a benchmark that has ended, whether or not its gates passed."""
    assert done.returncode in {0, 1}, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == (not all(gate["passed"] for gate in found["gates"]))
    return found


@pytest.fixture
def common(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "path", list(sys.path))  # what the module adds goes away again
    return importlib.import_module("common")


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_explains_itself_anywhere(name, tmp_path):
    done = benchmark(name, "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"python benchmarks/{name}.py" in done.stdout
    assert not list(tmp_path.iterdir())


def joined(common, folder, minutes=1.5, seed=7):
    folder.mkdir()
    return common.join_clips(common.bundled_clips(), folder, minutes, seed)


def test_joined_files_are_the_same_for_the_same_seed_only(common, tmp_path):
    first = joined(common, tmp_path / "first")
    again = joined(common, tmp_path / "again")
    other = joined(common, tmp_path / "other", seed=8)
    assert [r.path.read_bytes() for r in first] == [r.path.read_bytes() for r in again]
    assert [r.reference for r in first] == [r.reference for r in again]
    assert [r.path.read_bytes() for r in first] != [r.path.read_bytes() for r in other]


def test_joined_files_use_every_clip_before_one_comes_again(common, tmp_path):
    clips = common.bundled_clips()
    recordings = joined(common, tmp_path / "long", minutes=8)
    said = " ".join(recording.reference for recording in recordings)
    counts = [said.count(clip.reference) for clip in clips]
    assert min(counts) >= 1
    assert max(counts) - min(counts) <= 1
    for recording in recordings:
        assert recording.path.stat().st_size == 44 + 2 * round(recording.seconds * 16_000)


def test_lengths_spread_from_seconds_to_minutes_with_one_longer(common, monkeypatch, tmp_path):
    clip = common.Clip(tmp_path / "one", 5.0, "en", "read", "Hello.")
    lengths = []

    def count(path, parts):
        lengths.append(sum(clip.seconds + pause for clip, pause in parts))
        return common.Recording(path, lengths[-1], "")

    monkeypatch.setattr(common, "_write", count)
    common.join_clips([clip] * 50, tmp_path, 60, 1)
    long, *others = lengths
    assert 1190 <= long <= 1205
    assert min(others) < 30
    assert 120 < max(others) <= 310
    assert sum(lengths) == pytest.approx(3600, rel=0.1)


def test_turns_go_forth_and_back(common):
    assert list(common.turns("AB", 3)) == ["A", "B", "B", "A", "A", "B"]


def test_last_line_is_one_json_document_and_a_failed_gate_the_exit_code(common, capsys):
    good = common.Gate("speed", True, "2.10 times")
    bad = common.Gate("errors", False, "9.30 % and 9.10 %")
    facts = common.machine()
    assert common.conclude("example", facts, [good], rounds=3) == 0
    assert common.conclude("example", facts, [good, bad], rounds=3) == 1
    *_, told, last = capsys.readouterr().out.splitlines()
    assert told == "FAIL  errors: 9.30 % and 9.10 %"
    found = json.loads(last)
    assert found["machine"] == facts
    assert [gate["passed"] for gate in found["gates"]] == [True, False]
    assert found["rounds"] == 3


def test_time_of_children_counts_and_their_failure_ends_the_benchmark(common):
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    spent = common.timed([sys.executable, "-c", busy])
    assert spent.cpu >= 0.3
    assert spent.wall >= 0.3
    with pytest.raises(SystemExit, match="no luck"):
        common.timed([sys.executable, "-c", "raise SystemExit('no luck')"])


@pytest.mark.parametrize("name", ["accuracy", "hallucination"])
def test_without_speech_a_benchmark_says_so_and_is_no_failure(name, tmp_path):
    done = benchmark(name, "--speech", tmp_path, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "nothing to measure" in done.stdout
    assert document(done)["skipped"]


def test_unknown_contestant_is_refused_before_anything_runs(tmp_path):
    done = benchmark("folder", "--only", "ours,theirs", folder=tmp_path)
    assert done.returncode == 2
    assert "theirs" in done.stderr


@needs_speech
def test_errors_are_counted_in_normalised_words(common):
    counter = common.WordErrors(SPEECH)
    assert counter.count("Mr. Smith has 21 cats.", "mister smith has twenty-one cats", "en") == (
        0,
        6,
    )
    assert counter.count("he said hello", "he said hallo there", "en") == (2, 3)
    assert counter.words("One, two.") == 2


@needs_speech
def test_clips_have_their_files_and_languages(common):
    clips = common.clips_of(SPEECH)
    assert all(clip.path.is_file() for clip in clips)
    assert {clip.language for clip in clips if clip.kind == "nonspeech"} == {None}
    assert all(clip.language == "en" for clip in clips if clip.kind in {"read", "noisy"})


@pytest.mark.slow
def test_calls_measures_the_engine_against_the_bound(tiny_en, samples, tmp_path):
    words = [samples / "moving_house.wav", "--threads", "1,16", "--rounds", "1", "--median", "0.05"]
    found = document(benchmark("calls", *words, folder=tmp_path))
    alone, many = found["threads"]["1"], found["threads"]["16"]
    assert found["calls"] > 4
    assert alone["seconds"] >= alone["bound_seconds"]
    assert many["seconds"] < alone["seconds"]


@pytest.mark.slow
def test_folder_times_whole_processes_and_compares_their_text(tiny_en, tmp_path):
    words = ["--minutes", "0.3", "--rounds", "1", "--only", "ours,two", "--models", "tiny.en"]
    found = document(benchmark("folder", *words, folder=tmp_path, timeout=280))
    ours, peer = found["models"]["tiny.en"]["ours"], found["models"]["tiny.en"]["two"]
    assert ours["cpu"] > 0
    assert len(peer["walls"]) == 1
    assert (ours["error_rate"] is None) == (not (SPEECH / "manifest.tsv").is_file())


@needs_speech
@pytest.mark.slow
def test_accuracy_reads_the_engines_own_files(tiny_en, tmp_path):
    texts = tmp_path / "texts.tsv"
    words = ["--limit", "1", "--models", "tiny.en", "--texts", texts]
    found = document(benchmark("accuracy", *words, folder=tmp_path, timeout=280))
    errors = found["models"]["tiny.en"]["errors"]
    assert errors["ours, sequential"] == errors["faster-whisper"]
    rows = [line.split("\t") for line in texts.read_text("utf-8").splitlines()]
    assert {row[1] for row in rows} == set(errors)
    assert all(row[4] for row in rows if row[2].startswith("read_"))


@pytest.fixture
def hallucination(common):
    return importlib.import_module("hallucination")


@needs_speech
def test_triggers_are_the_same_for_the_same_seed_only(common, hallucination, tmp_path):
    def made(name, seed):
        (tmp_path / name).mkdir()
        triggers = hallucination.make_triggers(common.clips_of(SPEECH), tmp_path / name, seed)
        return [t.path.read_bytes() for t in triggers if t.path.parent == tmp_path / name]

    first = made("first", 1)
    assert len(first) == 12
    assert made("again", 1) == first
    assert made("other", 2) != first


@needs_speech
def test_only_what_nobody_said_is_invented_or_repeated(common, hallucination, tmp_path):
    counter = common.WordErrors(SPEECH)
    silent = hallucination.Trigger(tmp_path, "noise")
    twice = hallucination.Trigger(tmp_path, "phrase", "come in now come in now", 1)

    def count(trigger, *segments):
        found = hallucination.count_of(trigger, segments, counter)
        return found.invented, found.repeated, found.missing

    assert count(silent) == (0, 0, 0)
    assert count(silent, " Thank you.", " Thank you.") == (4, 1, 0)
    assert count(twice, " Come in now.", " Come in now!") == (0, 0, 0)
    assert count(twice, " Come in now.", " Come in now.", " Come in now.") == (3, 1, 0)
    assert count(twice, " Come in now.") == (0, 0, 3)
    assert count(silent, " so" * 60)[1] == 1


@needs_speech
@pytest.mark.slow
def test_hallucination_counts_every_way_on_every_kind(tiny_en, tmp_path):
    words = ["--models", "tiny.en", "--kinds", "clips without speech"]
    found = document(benchmark("hallucination", *words, folder=tmp_path, timeout=280))
    ways = found["models"]["tiny.en"]
    assert len(ways) == 5
    assert all(set(kinds) == {"clips without speech", "all"} for kinds in ways.values())
