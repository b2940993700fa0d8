"""The benchmarks can be run, measure the same thing twice, and end with what programs read."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from shell import ROOT

from engine import floor
from engine.pools.hardware import snapshot
from engine.records import SpeechOptions
from engine.speech.models import resolve
from engine.speech.weights import encoder_weights
from engine.speech.whisper import Recognizer
from engine.testing.server import Server
from engine.testing.transcriber import make_model

BENCHMARKS = ROOT / "benchmarks"
SPEECH = ROOT.parent / "shared" / "speech"
SCRIPTS = (
    *("accuracy", "hallucination", "folder", "calls", "encoders", "overlap", "replay", "speedup"),
    *("first_batch", "model_shapes", "gpu", "deadline", "overhead", "limits"),
)
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


@pytest.mark.parametrize(("kind", "length"), [("slower", 1 / 0.95), ("noise", 1), ("mp3", 1)])
def test_altered_clip_has_the_same_words_in_other_sound(kind, length, common, tmp_path):
    altered = importlib.import_module("altered")
    heard = common.bundled_clips()[0]
    with common.Audio(str(heard.path), heard.track) as audio:
        samples = audio.read(16_000 * 600)
    speech = tmp_path / "speech"
    speech.mkdir()
    head = ("file", "seconds", "language", "kind", "transcript")
    row = (heard.path.name, str(heard.seconds), "en", "read", heard.reference)
    (speech / "manifest.tsv").write_text("\t".join(head) + "\n" + "\t".join(row) + "\n")
    (speech / "wer.py").write_text("counts")
    shutil.copy(heard.path, speech)
    copies = [tmp_path / "first", tmp_path / "again"]
    for folder in copies:
        folder.mkdir()
        altered.alter(speech, folder, kind)
    (clip,) = common.clips_of(copies[0])
    with common.Audio(str(clip.path)) as audio:
        other = audio.read(16_000 * 600)
    assert clip.reference == heard.reference
    assert len(other) == pytest.approx(len(samples) * length, abs=3000)
    assert not np.allclose(other[:16_000], samples[:16_000], atol=1e-3)
    assert clip.path.read_bytes() == (copies[1] / clip.path.name).read_bytes()
    assert (copies[0] / "wer.py").read_text() == "counts"


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
    with pytest.raises(subprocess.TimeoutExpired):
        common.timed([sys.executable, "-c", "import time; time.sleep(60)"], limit=0.2)


def test_what_is_timed_finds_libraries_where_this_process_does(common, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    common.timed([sys.executable, "-c", "import only_here, engine"])


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
def test_folder_times_whole_processes_and_compares_their_text(tiny_en, tmp_path):
    words = ["--minutes", "0.3", "--rounds", "1", "--only", "ours,two", "--models", "tiny.en"]
    found = document(benchmark("folder", *words, folder=tmp_path, timeout=280))
    ours, peer = found["models"]["tiny.en"]["ours"], found["models"]["tiny.en"]["two"]
    assert ours["cpu"] > 0
    assert len(peer["walls"]) == 1
    assert (ours["error_rate"] is None) == (not (SPEECH / "manifest.tsv").is_file())


@pytest.fixture
def folder(common):
    return importlib.import_module("folder")


def short_clips(common, place):
    """Five clips, of which three are of 3 to 10 s; a clip's file holds its reference."""
    clips = []
    for name, seconds in (("a", 2.9), ("b", 3.0), ("c", 5.5), ("d", 10.0), ("e", 10.1)):
        path = place / f"{name}.flac"
        path.write_text(name)
        clips.append(common.Clip(path, seconds, "en", "read", name))
    return clips


def copied(folder, clips, place, number, seed=1):
    place.mkdir()
    return folder.copy_clips(clips, place, number, seed)


def test_short_clips_come_again_under_other_names_after_all_have_come(common, folder, tmp_path):
    clips = short_clips(common, tmp_path)
    made = copied(folder, clips, tmp_path / "seven", 7)
    assert len({recording.path for recording in made}) == 7
    assert [recording.path.read_text() for recording in made] == [r.reference for r in made]
    said = [recording.reference for recording in made]
    assert sorted(said[:3]) == sorted(said[3:6]) == ["b", "c", "d"]
    assert {r.reference: r.seconds for r in made} == {"b": 3.0, "c": 5.5, "d": 10.0}
    assert len(copied(folder, clips, tmp_path / "two", 2)) == 2
    with pytest.raises(SystemExit, match="--clips"):
        copied(folder, clips[:1], tmp_path / "none", 7)


def test_order_of_short_clips_is_the_same_for_the_same_seed_only(common, folder, tmp_path):
    clips = short_clips(common, tmp_path)
    first, again, other = (
        [r.reference for r in copied(folder, clips, tmp_path / str(number), 12, seed)]
        for number, seed in enumerate([1, 1, 2])
    )
    assert first == again != other


def test_clips_without_a_number_are_200_and_none_is_refused(folder, capsys):
    parse = folder._parser().parse_args
    assert parse([]).clips is None
    assert parse(["--clips", "--models", "base"]).clips == 200
    assert parse(["--clips", "20"]).clips == 20
    with pytest.raises(SystemExit):
        parse(["--clips", "0"])
    assert "--clips" in capsys.readouterr().err


def raced(**walls):
    """Figures of contestants by their wall seconds: nothing else is amiss."""
    same = {"walls": [1.0], "same_text": True, "error_rate": 9.0}
    fills = {"batch_fill": 1.0, "window_fill": 0.8}
    return {key.replace("_", "-"): {"wall": wall, **same, **fills} for key, wall in walls.items()}


@pytest.mark.parametrize(
    ("key", "model", "one", "two"),
    [
        ("ours", "tiny.en", 2.5, 1.15),
        ("ours", "base", 2.5, 1.15),
        ("torch", "tiny.en", 4.0, 2.0),
        ("torch", "base", 4.0, 2.5),
    ],
)
def test_each_contestant_is_judged_by_its_own_targets(folder, key, model, one, two):
    found = raced(**{key: 10.0}, one=10 * one, two=10 * two + 5, two_8=10 * two)
    gates = [gate for gate in folder._gates(model, found) if "times" in gate.name]
    assert [gate.passed for gate in gates] == [True, True]
    wanted = [f"{model}, {folder.WAYS[key].name}: at least {n:g} times as fast" for n in (one, two)]
    assert [gate.name.partition(" as Batched")[0] for gate in gates] == wanted
    assert [gate.detail for gate in gates] == [
        f"{one:.2f} times as fast",
        f"{two:.2f} times as fast",
    ]
    assert "batch 8" in gates[1].name  # the faster of the two
    slower = folder._gates(model, found | raced(**{key: 10.1}))
    assert [gate.passed for gate in slower if "times" in gate.name] == [False, False]


@pytest.mark.parametrize(("fill", "passed"), [(0.99, [True]), (0.98, [False]), (None, [])])
def test_batches_of_ours_have_to_be_full_where_that_is_known(folder, fill, passed):
    found = raced(ours=10.0)
    found["ours"]["batch_fill"] = fill
    gates = [gate for gate in folder._gates("base", found) if "batch fill" in gate.name]
    assert [gate.passed for gate in gates] == passed
    assert all(gate.detail == f"{fill:.3f}" for gate in gates)


def test_table_has_the_fills_of_ours_and_a_dash_for_the_peer(folder, capsys):
    found = raced(ours=10.0, one=30.0)
    found["one"] |= {"batch_fill": None, "window_fill": None}
    for figure in found.values():
        figure |= {"cpu": 1.0, "others": 0.0}
    folder._print("base", found, 60.0)
    lines = capsys.readouterr().out.splitlines()
    head, _, ours, peer = ([c.strip() for c in line.split("|")] for line in lines if "|" in line)
    columns = [head.index("batch fill"), head.index("window fill")]
    assert [ours[column] for column in columns] == ["1.000", "0.800"]
    assert [peer[column] for column in columns] == ["-", "-"]


def test_run_of_ours_takes_the_batch_size_and_tells_its_fills(
    common, folder, samples, monkeypatch, tmp_path
):
    model = resolve(str(make_model(tmp_path / "fake", seconds=0.02)), "cpu")
    monkeypatch.chdir(tmp_path)  # where a model of that name lies
    clip = common.Recording(samples / "bad_heist.mkv", 60.0, "")
    given = folder._parser().parse_args(["--batch-size", "1", "--only", "ours", "--rounds", "1"])
    monkeypatch.setattr(folder, "ATTEMPTS", 1)
    [run] = folder._race(model, [clip], tmp_path, given)["ours"]
    assert run.texts[0]
    assert run.batch_fill == 1  # there are not windows enough for a larger batch to be counted
    assert 0 < run.window_fill < 1


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


def module(name, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, loaded)  # its dataclasses look it up
    spec.loader.exec_module(loaded)
    return loaded


# speedup


@pytest.mark.slow
def test_speedup_measures_given_files_and_draws(samples, tmp_path):
    make_model(tmp_path / "fake", seconds=0.4)
    words = [samples / "bad_heist.mkv", "--model", tmp_path / "fake", "--slots", "1,2"]
    words += ["--rounds", "1", "--plot", tmp_path / "scaling.svg"]
    found = document(benchmark("speedup", *words, folder=tmp_path))
    assert [m["slots"] for m in found["measurements"]] == [1, 2]
    assert found["measurements"][0]["speed_up"] == 1
    assert 0 <= found["serial_share"] <= 1
    assert (tmp_path / "scaling.svg").read_text("utf-8").startswith("<svg")


# replay


def test_replay_meets_its_gates_and_beats_a_pool_of_whole_videos(tmp_path):
    found = document(benchmark("replay", folder=tmp_path))
    assert all(gate["passed"] for gate in found["gates"])
    assert len(found["gates"]) == 4
    many = found["efficiency"]["64"]
    assert many["ours"] > many["whole_videos_at_best"] >= many["longest_first"]
    assert found["fill_per_video"] < found["fill"]["1"]["fill"] <= 1


def test_replayed_folder_is_the_same_for_the_same_seed_only(monkeypatch):
    replay = module("replay", monkeypatch)
    assert replay.draw(5, 20, 1.0) == replay.draw(5, 20, 1.0)
    assert replay.draw(5, 20, 1.0) != replay.draw(6, 20, 1.0)


def test_pool_of_whole_videos_is_timed_as_a_pool_works(monkeypatch):
    replay = module("replay", monkeypatch)
    assert replay.pool_seconds([1, 1, 2], 2) == 3
    assert replay.pool_seconds([2, 1, 1], 2) == 2
    assert replay.per_video_fill([16, 4]) == 20 / 32


# first_batch


def test_film_is_as_long_as_asked_and_the_same_for_the_same_seed(common, tmp_path):
    clips = common.bundled_clips()
    first, again, other = (
        common.join_film(clips, tmp_path / f"{n}.wav", 8, seed) for n, seed in enumerate([3, 3, 4])
    )
    assert 480 <= first.seconds < 480 + max(clip.seconds for clip in clips) + 2
    assert first.path.stat().st_size == 44 + 2 * round(first.seconds * 16_000)
    assert first.path.read_bytes() == again.path.read_bytes() != other.path.read_bytes()


def test_peak_memory_is_that_of_the_past_too(monkeypatch):
    first_batch = module("first_batch", monkeypatch)
    before = first_batch.peak_memory(os.getpid())
    if before is None:
        pytest.skip("needs /proc")
    taken = b"x" * (200 << 20)  # written, so resident
    del taken
    assert first_batch.peak_memory(os.getpid()) >= 200
    assert first_batch.peak_memory(2**30) is None


@pytest.mark.slow
def test_first_batch_times_ours_and_the_peer_and_prepares_the_whole_film(tiny_en, tmp_path):
    words = ["--minutes", "3", "--rounds", "1", "--scratch", tmp_path]
    found = document(benchmark("first_batch", *words, folder=tmp_path, timeout=280))
    ours, peer = found["seconds"]["ours"], found["seconds"]["BatchedInferencePipeline"]
    assert 0 <= ours["sent"] < ours["text"]
    assert 0 < peer["sent"] < peer["text"]
    assert all(peak > 10 for peak in found["memory_mib"].values() if peak is not None)
    assert not list(tmp_path.iterdir())


# model_shapes


@pytest.fixture
def shapes(monkeypatch):
    return module("shapes", monkeypatch)


def test_made_shapes_have_the_floor_of_the_models_they_are_like(shapes):
    peak = shapes.Peak(790e12, 4.5e12)
    for name, shape in shapes.SHAPES.items():
        expected = floor.window_seconds(floor.SHAPES[name], peak, 32, 100)
        assert shape.floor(peak, 32, 100) == pytest.approx(expected, rel=0.001)


def test_share_of_the_floor_is_unknown_where_the_device_is(shapes, monkeypatch):
    cost = module("model_shapes", monkeypatch).Cost
    assert cost(8, 0.1, 0.1, 100, None).share is None
    assert cost(8, 0.1, 0.1, 100, 0.05).share == pytest.approx(0.25)
    assert shapes.known_peak("cpu", ["NVIDIA H200"]) is None
    assert shapes.known_peak("cuda", ["Something New"]) is None
    assert shapes.known_peak("cuda", ["NVIDIA H200"]) == shapes.PEAKS["NVIDIA H200"]
    assert shapes.given_peak(100.0, None) is None
    assert shapes.given_peak(100.0, 2.0) == shapes.Peak(1e14, 2e12)


def test_vocabulary_has_whispers_layout(shapes):
    for name, size in (("tiny", 51_865), ("large-v3", 51_866)):
        words, tokenizer = shapes._vocabulary(shapes.SHAPES[name])
        assert len(words) == len(set(words)) == shapes.SHAPES[name].vocabulary == size
        assert words.index("<|endoftext|>") == tokenizer.token_to_id("<|endoftext|>") == 50_257
        assert tokenizer.token_to_id("<|notimestamps|>") == words.index("<|0.00|>") - 1
        assert tokenizer.decode(tokenizer.encode("naïve ♪ talk").ids) == "naïve ♪ talk"


def test_every_window_of_a_made_model_has_the_tokens_that_were_asked_for(shapes, tmp_path):
    folder = shapes.make_shape(tmp_path / "tiny", shapes.SHAPES["tiny"], tokens=12)
    recognizer = Recognizer(folder, "cpu", "int8", 1)
    assert (recognizer.multilingual, recognizer.mels) == (True, 80)
    chance = np.random.default_rng(5)
    rows = [chance.standard_normal((80, 3000), np.float32) * scale for scale in (0.1, 2.0)]
    states = recognizer.encode(rows)
    for beam in (1, 5):
        options = SpeechOptions(
            "batched", "en", "transcribe", None, None, beam, False, True, None, "int8", False
        )
        for result in recognizer.decode(states, [0, 1], [30.0] * 2, ["en", "de"], options):
            [piece] = result.pieces
            assert len(piece.tokens) == 12
            assert piece.tokens[0] >= 50_364 <= piece.tokens[-1]
            assert all(token < 50_257 for token in piece.tokens[1:-1])
            assert piece.text.strip()


def test_model_shapes_refuses_lengths_that_no_window_has(shapes, tmp_path):
    with pytest.raises(SystemExit, match="2 tokens"):
        shapes.make_shape(tmp_path / "short", shapes.SHAPES["tiny"], tokens=2)
    done = benchmark("model_shapes", "--models", "huge", folder=tmp_path)
    assert done.returncode == 2
    assert "large-v3-turbo" in done.stderr


@pytest.mark.slow
def test_model_shapes_times_both_halves(tmp_path):
    words = ["--models", "tiny", "--device", "cpu", "--tokens", "8", "--batches", "1,2"]
    words += ["--rounds", "1", "--tera-flops", "0.1", "--tera-bytes", "0.02"]
    found = document(benchmark("model_shapes", *words, folder=tmp_path))
    one, two = found["models"]["tiny"]
    assert (one["batch"], two["batch"]) == (1, 2)
    assert one["tokens"] == two["tokens"] == 8
    assert one["encode"] > 0 < one["decode"]
    assert one["share_of_floor"] > 0


# gpu


GPU_COMMANDS = ["branches", "canary", "model", "slots", "preparation", "folder"]


@pytest.mark.parametrize("command", GPU_COMMANDS)
def test_gpu_without_a_gpu_says_so_and_is_no_failure(command, tmp_path):
    if snapshot().gpus:
        pytest.skip("there is a GPU")
    done = benchmark("gpu", command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = document(done)
    assert (found["command"], found["state"]) == (command, "skipped")
    assert len([line for line in done.stdout.splitlines() if line.startswith("skipped:")]) == 1


def test_a_step_that_fails_is_named_and_the_next_one_is_done(shapes, monkeypatch):
    gpu = module("gpu", monkeypatch)
    steps = gpu.Steps(100.0)

    def fails():
        raise SystemExit("too hot")

    assert steps.do("one", fails) is None
    assert steps.do("two", lambda: 2) == 2
    assert steps.missing == {"one": "SystemExit: too hot"}


def test_no_step_begins_that_would_not_end_in_time(shapes, monkeypatch):
    gpu = module("gpu", monkeypatch)
    clock = [0.0]
    monkeypatch.setattr(gpu.time, "monotonic", lambda: clock[0])
    steps = gpu.Steps(100.0)
    for name in ("one", "two", "three"):
        steps.do(name, lambda: clock.__setitem__(0, clock[0] + 40.0))
    assert clock == [80.0]
    assert list(steps.missing) == ["three"]


def test_a_made_model_is_one_that_torchs_encoder_reads(shapes, tmp_path):
    folder = shapes.make_shape(tmp_path / "tiny", shapes.SHAPES["tiny"], tokens=4)
    assert len(encoder_weights(folder).layers) == 4


def test_time_under_way_counts_overlapping_batches_once(shapes, monkeypatch):
    gpu = module("gpu", monkeypatch)
    assert gpu.covered([(0, 2), (1, 3), (5, 6), (5.2, 5.5)]) == 4
    assert gpu.covered([]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("command", GPU_COMMANDS)
def test_gpu_goes_through_its_steps_on_a_cpu(command, tmp_path):
    words = [command, "--device", "cpu", "--model", "tiny", "--tokens", "4", "--minutes", "0.2"]
    words += ["--rounds", "1", "--batches", "1", "--beam-size", "1", "--scratch", tmp_path]
    done = benchmark("gpu", *words, folder=tmp_path, timeout=280)
    found = document(done)
    assert done.returncode == 0, done.stderr
    assert found["state"] == "measured"
    figures = found["figures"]
    if command == "slots":
        assert list(figures["slots"]) == ["1", "2", "4", "6"]
        assert all(0 < one["busy"] <= 1 for one in figures["slots"].values())
    if command == "folder":
        assert figures["ours"]["windows"] > 0 < figures["peer_seconds"]
        assert figures["times_as_fast"] > 0
    assert not list(tmp_path.iterdir())


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


# calls


def passed(gates):
    return {gate.name: gate.passed for gate in gates}


@pytest.mark.slow
def test_calls_compares_ours_and_two_peers_over_the_same_calls(tmp_path):
    words = ["--threads", "1,4", "--calls", "5", "--median", "0.02", "--plot", tmp_path / "it.svg"]
    found = document(benchmark("calls", *words, folder=tmp_path))
    alone, many = found["threads"]["1"], found["threads"]["4"]
    assert set(alone) == set(many) == {"ours", "asyncio", "threads"}
    for ways, calls in ((alone, 2), (many, 20)):
        for figures in ways.values():
            assert (figures["calls"], figures["failed"]) == (calls, 0)
            assert figures["seconds"] >= figures["bound_seconds"] > 0
            assert figures["cpu_ms_a_call"] > 0
    assert 0 < many["ours"]["in_commits"] < 1
    assert (tmp_path / "it.svg").read_text("utf-8").startswith("<svg")


def test_films_ask_the_same_in_a_run_and_by_a_peer(monkeypatch, tmp_path):
    side = module("llm_side", monkeypatch)
    films = side.make_films(tmp_path / "films", 2, 3)
    asked = []
    with Server() as server:
        for ask in (
            lambda: side.run_ours(films, server.url, 2, tmp_path),
            lambda: side.run_peer(films, server.url, "threads", 2, tmp_path),
        ):
            told = ask()
            assert told["states"] == {"done": films.calls}
            bodies, server.requests = server.requests, []
            asked.append(sorted(json.dumps(r.body, sort_keys=True) for r in bodies))
    assert asked[0] == asked[1]
    assert len(set(asked[0])) == films.calls == 6


def test_calls_in_order_are_timed_as_a_pool_works(monkeypatch):
    calls = module("calls", monkeypatch)
    assert calls.in_order([1, 1, 2], 2) == 3
    assert calls.in_order([2, 1, 1], 2) == 2
    assert calls.in_order([1, 2, 3], 1) == 6


def test_calls_fails_what_is_slow_and_says_where_the_processor_binds(monkeypatch):
    calls = module("calls", monkeypatch)
    good = {
        "share_of_bound": 0.5,
        "share_of_speed_up": 0.98,
        "seconds": 10.0,
        "failed": 0,
        "core_busy": 0.3,
    }
    good |= {"server_core_busy": 0.1, "cpu_ms_a_call": 2.0}
    bad = good | {"share_of_speed_up": 0.95, "seconds": 10.5, "failed": 1, "core_busy": 0.9}
    assert all(passed(calls._gates({"8": {"ours": good, "asyncio": good}})).values())
    assert not any(passed(calls._gates({"8": {"ours": bad, "asyncio": good}})).values())
    assert not calls._binding({"8": {"ours": good}}, 2)
    assert "0.9 of it with 2.00 ms" in calls._binding({"8": {"ours": bad}}, 2)[0]


# deadline


@pytest.mark.slow
def test_deadline_shows_that_ours_ends_and_leaves_nothing_behind(tmp_path):
    words = ["--calls", "40", "--many", "40", "--plot", tmp_path / "late.svg"]
    found = document(benchmark("deadline", *words, folder=tmp_path))
    ours, bare = found["ours"], found["bare"]["stuck"]
    assert ours["endings"] == {"CallTimeout": 32, "OversizeError": 8}
    assert ours["before"] == ours["after"]
    assert ours["overruns"] == 0
    assert (bare["dripped headers"], bare["dripped body"], bare["hang"]) == (8, 8, 0)
    assert found["nested"]["returned"] >= 4
    assert found["memory"]["timed_out"] >= 4
    assert len(found["gates"]) == 13
    assert found["timer"]["late_ms"]["max"] > 0
    assert len(found["timer"]["stops_ms"]) < found["timer"]["ticks"]
    without = found["timer"]["overshoot_ms_without"]
    assert 0 < without["p99"] <= ours["overshoot_ms"]["p99"]
    assert (tmp_path / "late.svg").read_text("utf-8").startswith("<svg")


def test_deadline_fails_what_is_late_lost_or_left_behind(monkeypatch):
    deadline = module("deadline", monkeypatch)
    standing = {"threads": 2, "descriptors": 5, "children": 0}
    good = {
        "overshoot_ms": {"p99": 4.9},
        "back_ms": {"p99": 49},
        "lag_ms": {"p99": 49},
        "endings": {"CallTimeout": 4, "OversizeError": 1},
        "overruns": 0,
        "before": standing,
        "after": standing,
        "exit_seconds": 0.9,
    }
    bad = good | {
        "overshoot_ms": {"p99": 5.1},
        "back_ms": {"p99": 51},
        "lag_ms": {"p99": 51},
        "endings": {"CallTimeout": 4, "done": 1},
        "overruns": 1,
        "after": {"threads": 3, "descriptors": 6, "children": 1},
        "exit_seconds": 1.1,
    }
    assert all(passed(deadline._gates_of_ours(good)).values())
    assert not any(passed(deadline._gates_of_ours(bad)).values())
    memory = {"calls": 1000, "growth_mib": 5.1, "timed_out": 300}
    assert not any(passed(deadline._gates({"memory": memory})).values())


def test_bare_timer_counts_every_tick_that_a_stop_makes_late(monkeypatch):
    hosttime = module("hosttime", monkeypatch)
    began = time.monotonic()
    with hosttime.beside() as timer:
        [process] = [p for p in psutil.Process().children() if hosttime.__file__ in p.cmdline()]
        time.sleep(0.5)  # it is there and waits
        process.suspend()
        time.sleep(0.2)
        process.resume()
        time.sleep(0.1)
    assert began < timer.first < began + 0.5  # the same clock in both processes
    assert len(timer.late) * hosttime.TICK == pytest.approx(time.monotonic() - timer.first, abs=0.1)
    assert sum(seconds > 0.1 for seconds in timer.late) >= 0.1 / hosttime.TICK - 1
    found = hosttime.spread(timer.late)
    assert found["p50"] < 100 < found["p99"] <= found["max"]
    assert max(until - since for since, until in timer.stops(0.1)) > 0.15


def test_overshoot_is_told_without_the_times_in_which_the_timer_stood_still(monkeypatch):
    deadline = module("deadline", monkeypatch)
    late = [0.0] * 100
    late[20:24] = [0.020, 0.015, 0.010, 0.005]  # one stop, at 10.1 s
    late[60] = 0.0049
    ours = {
        "span": [10.048, 10.498],
        "ends": [[10.11, 10.123], [10.119, 10.16], [10.2, 10.204], [10.3, 10.307]],
    }
    found = deadline._beside(ours, deadline.Timer(10.0, late))
    assert (found["ticks"], found["late_ms"]["max"]) == (90, 20.0)
    assert (found["stops_ms"], found["calls_in_stops"]) == ([20.0], 2)
    assert found["overshoot_ms_without"] == {"p50": 7.0, "p99": 40.0, "max": 40.0}
    assert not ours  # thousands of moments are no figures


# overhead


def test_overhead_costs_three_ways(tmp_path):
    words = ["--jobs", "200", "--rounds", "1", "--plot", tmp_path / "cost.svg"]
    found = document(benchmark("overhead", *words, folder=tmp_path))
    costs = found["microseconds"]
    assert set(costs) == {"ours", "plain", "nested"}
    assert costs["nested"]["cpu"] > costs["plain"]["cpu"] > 0 < costs["ours"]["cpu"]
    assert (tmp_path / "cost.svg").read_text("utf-8").count('class="bar"') == 3


def test_overhead_fails_above_its_target(monkeypatch, common, capsys):
    overhead = module("overhead", monkeypatch)
    given, facts = overhead._parser().parse_args([]), common.machine()
    for cpu, code in ((15.9, 0), (16.1, 1)):
        costs = {way: [{"cpu": 10.0, "wall": 20.0}] for way in overhead.WAYS}
        costs["ours"] = [{"cpu": cpu, "wall": 20.0}]
        assert overhead._tell(given, facts, costs) == code
    assert "FAIL" in capsys.readouterr().out


# limits


@pytest.mark.slow
def test_limits_follows_ours_and_a_pool_through_the_phases(tmp_path):
    words = ["--phases", "600:-,300:-", "--seconds", "2", "--only", "ours,retries 10"]
    words += ["--plot", tmp_path / "limits.svg"]
    found = document(benchmark("limits", *words, folder=tmp_path))
    contestants = found["contestants"]
    assert len(contestants) == 5
    assert contestants["ours"]["lost"] == contestants["ours, no headers"]["lost"] == 0
    assert all(figures["let_in"] > 0 for figures in contestants.values())
    assert len(found["gates"]) == 5
    assert (tmp_path / "limits.svg").read_text("utf-8").startswith("<svg")


def test_limits_counts_what_the_server_lets_in_at_most(monkeypatch):
    limits = module("limits", monkeypatch)
    phases = limits._phases("600:-,1200:6000", 10)
    # a bucket of 10 and 10 s of 10 a second; then the tokens' bucket of 1 and 10 s of 1 a second
    assert limits.most_calls(phases, 100) == pytest.approx(10 + 10 * 10 + 1 + 10 * 1, abs=3)


def test_limits_judges_use_refusals_and_how_soon_it_goes_well_again(monkeypatch):
    limits = module("limits", monkeypatch)
    phases = limits._phases("600:-,1200:-", 10)
    steady = [(n / 10, 200, 5) for n in range(100)]
    at_once = [*steady, *((10 + n / 20, 200, 5) for n in range(200))]
    late = [*steady, *((14 + n / 20, 200, 5) for n in range(120)), *((14.0, 429, 5),) * 9]
    good, bad = limits.judge(at_once, phases), limits.judge(sorted(late), phases)
    assert good["adapted_seconds"] == [0]
    assert good["refused"] == 0
    assert good["used"] == pytest.approx(300 / limits.most_calls(phases, 5), abs=0.001)
    assert bad["adapted_seconds"] == [pytest.approx(4, abs=0.3)]
    assert bad["refused"] == pytest.approx(9 / 229, abs=0.001)
    never = limits.judge(steady, phases)
    assert never["adapted_seconds"] == [None]
    failed = limits._gates_of("ours", never | {"refused": 0.02, "lost": 1}, told=True)
    assert not any(passed(failed).values())
    met = limits._gates_of("ours", good | {"used": 0.98, "lost": 0}, told=True)
    assert all(passed(met).values())
    untold = limits._gates_of("ours", never | {"refused": 0.02, "lost": 1}, told=False)
    assert list(passed(untold).values()) == [False]


# overlap


@pytest.mark.slow
def test_overlap_times_stages_and_both(samples, tmp_path):
    make_model(tmp_path / "fake", seconds=0.1)
    words = ["--speech", tmp_path, "--minutes", "0.5", "--model", tmp_path / "fake"]
    words += ["--median", "0.1", "--plot", tmp_path / "overlap.svg"]
    found = document(benchmark("overlap", *words, folder=tmp_path))
    assert set(found["seconds"]) == {"speech", "analysis", "both"}
    assert 0 < found["fill"] < found["seconds"]["both"]
    assert len(found["gates"]) == 3
    assert found["gates"][-1]["passed"] and found["calls"][0][0] > 0
    assert (tmp_path / "overlap.svg").read_text("utf-8").count('class="bar"') == 4


def test_overlap_is_nothing_stage_by_stage_and_one_if_the_shorter_is_free(monkeypatch):
    overlap = module("overlap", monkeypatch)
    assert overlap.judge({"speech": 10, "analysis": 4, "both": 14}, 0) == (0, 1.4)
    assert overlap.judge({"speech": 4, "analysis": 10, "both": 10}, 0) == (1, 1)
    assert overlap.judge({"speech": 10, "analysis": 4, "both": 11}, 1) == (0.75, 1)
