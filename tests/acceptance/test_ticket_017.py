"""The ancestor's ticket 017, "analysis of six videos loses results": one test per criterion.

That parallel calls are at least three times as fast as one after the other is measured by
benchmarks/calls.py; here the server counts how many were under way at once.
"""

import asyncio
import contextlib
import json
import os
import shutil
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import psutil
import pytest
from shell import Reelmine, analysis, attempts, last_run, reelmine_in, result
from speech import FILES

import engine
from engine.testing.answers import parse_prompt
from engine.testing.server import Behaviour, Request, Server

NAMES = [Path(name).stem for name in FILES]
TINY = ("--model", "tiny.en", "--device", "cpu")


def asking(server: Server, recipe: Path) -> tuple[str | Path, ...]:
    """The words for a recipe and a server; its answers are all equally late."""
    return ("--recipe", recipe, "--llm-model", "phrasebook", "--llm-base-url", server.url)


def six(samples: Path) -> list[Path]:
    return [samples / name for name in FILES]


def text_of(request: Request) -> str:
    """What a chunk says: no two chunks of the samples say the same."""
    return " ".join(cue.text for cue in parse_prompt(request.body["messages"]).cues)


def chunks(output: Path, requests: list[Request]) -> dict[str, tuple[str, int]]:
    """Text of a chunk -> its video and its number, worked out from what was asked."""
    spoken = {
        name: {s["id"]: " ".join(s["text"].split()) for s in result(output, name)["segments"]}
        for name in NAMES
    }
    found: dict[str, tuple[str, int]] = {}
    for name, cues in spoken.items():
        mine = {
            request.cues: text_of(request)
            for request in requests
            if text_of(request) == " ".join(cues.get(cue, "") for cue in request.cues)
        }
        found |= {mine[asked]: (name, number) for number, asked in enumerate(sorted(mine))}
    assert len(found) == len({text_of(request) for request in requests})
    return found


def files(output: Path) -> dict[str, bytes]:
    """All that a user gets."""
    return {
        path.name: path.read_bytes()
        for path in sorted(output.iterdir())
        if path.name != ".reelmine"
    }


@pytest.fixture(scope="module")
def shelf(eight: Any, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder in which six videos are transcribed, and no reply is known."""
    folder = tmp_path_factory.mktemp("shelf")
    output: Path = eight.copied(folder / "out")
    for name in ("another", "the_longest"):
        for path in output.glob(f"{name}.*"):
            path.unlink()
    (output / ".reelmine" / "ledger.sqlite").unlink()
    words = ("run", *six(samples), "-o", "out", *TINY, "--no-analysis")
    assert reelmine_in(folder)(*words).returncode == 0
    assert attempts(output, "open") == []
    assert all(result(output, name)["reelmine"]["analyses"] == [] for name in NAMES)
    return output


@pytest.fixture(scope="module")
def all_done(
    shelf: Path, samples: Path, finds: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """The files of six videos of which no chunk has failed."""
    folder = tmp_path_factory.mktemp("all_done")
    shutil.copytree(shelf, folder / "out")
    with Server() as server:
        words = ("run", *six(samples), "-o", "out", *TINY, *asking(server, finds))
        assert reelmine_in(folder)(*words).returncode == 0
        assert len(server.requests) > 20
    return files(folder / "out")


@pytest.fixture
def transcribed(shelf: Path, tmp_path: Path) -> Path:
    """The shelf, to be worked on."""
    return Path(shutil.copytree(shelf, tmp_path / "out"))


# Six videos in one batch


def test_failing_chunks_cost_no_other_chunk_and_are_done_by_the_next_run(
    reelmine: Reelmine,
    transcribed: Path,
    samples: Path,
    finds: Path,
    all_done: dict[str, bytes],
) -> None:
    broken = {2, 5, 6, 11}
    with Server(script=lambda request: 418 if request.number in broken else "ok") as server:
        words = ("run", *six(samples), "-o", "out", *TINY)
        first = reelmine(*words, *asking(server, finds))
        requests = list(server.requests)
    assert first.returncode == 1, first.stderr
    assert len(requests) > 20
    of = chunks(transcribed, requests)
    failed = sorted(of[text_of(requests[number])] for number in broken)

    # named in the result files, each with its reason, and in the table at the end
    named = [
        (name, chunk["index"])
        for name in sorted(NAMES)
        for chunk in analysis(transcribed, name, "finds")["failed"]
    ]
    assert named == failed
    for name in {name for name, _ in failed}:
        lost = analysis(transcribed, name, "finds")
        assert all("answered 418" in chunk["problem"]["message"] for chunk in lost["failed"])
        table = f"{len(lost['failed'])} of {lost['chunks']} chunks failed"
        assert any(name in line and table in line for line in first.stdout.splitlines())

    # everything else is there
    for name in NAMES:
        lost_here = {index for video, index in failed if video == name}
        ours = analysis(transcribed, name, "finds")
        assert ours["state"] == ("failed" if lost_here else "done")
        wanted = [
            item
            for item in analysis_in(all_done, name)["items"]
            if chunk_of(item, name, requests, of) not in lost_here
        ]
        assert ours["items"] == wanted
        if not lost_here:
            assert (transcribed / f"{name}.json").read_bytes() == all_done[f"{name}.json"]

    # the same command again does only those
    with Server() as server:
        second = reelmine(*words, *asking(server, finds))
        again = sorted(of[text_of(request)] for request in server.requests)
    assert second.returncode == 0, second.stdout
    assert again == failed
    assert attempts(transcribed, "open") == []
    assert files(transcribed) == all_done


def analysis_in(done: dict[str, bytes], name: str) -> dict[str, Any]:
    (ours,) = json.loads(done[f"{name}.json"])["reelmine"]["analyses"]
    found: dict[str, Any] = ours
    return found


def chunk_of(
    item: dict[str, Any], name: str, requests: list[Request], of: dict[str, tuple[str, int]]
) -> int:
    """The chunk that gave an item: an expression counts where it ends."""
    (index,) = {
        of[text_of(request)][1]
        for request in requests
        if of[text_of(request)][0] == name and item["cues"][-1] in request.cues
    }
    return index


def test_transcription_and_calls_of_six_videos_share_one_run(
    reelmine: Reelmine, tmp_path: Path, samples: Path, finds: Path, fake: Path
) -> None:
    """From nothing: a server that fails every third time costs no transcript and no good reply."""
    with Server(script=lambda request: 418 if request.number % 3 == 2 else "ok") as server:
        words = ("run", *six(samples), "-o", "out", "--model", fake)
        done = reelmine(*words, *asking(server, finds))
        asked = len(server.requests)
    assert done.returncode == 1, done.stderr
    ours = [analysis(tmp_path / "out", name, "finds") for name in NAMES]
    lost = sum(len(found["failed"]) for found in ours)
    assert lost == asked // 3 > 0
    calls = attempts(tmp_path / "out", "call")
    assert sum(call["outcome"] == "done" for call in calls) == asked - lost
    assert all(result(tmp_path / "out", name)["segments"] for name in NAMES)
    assert sum(len(found["items"]) for found in ours) > 0
    with Server() as server:
        assert reelmine(*words, *asking(server, finds)).returncode == 0
        assert len(server.requests) <= lost  # equal chunks of two videos are asked once


def test_one_video_alone(
    reelmine: Reelmine,
    transcribed: Path,
    samples: Path,
    finds: Path,
    all_done: dict[str, bytes],
) -> None:
    with Server() as server:
        words = ("run", samples / "bad_heist.mkv", "-o", "out", *TINY)
        done = reelmine(*words, *asking(server, finds))
        asked = len(server.requests)
    assert done.returncode == 0, done.stdout + done.stderr
    assert asked == analysis(transcribed, "bad_heist", "finds")["chunks"] > 1
    assert (transcribed / "bad_heist.json").read_bytes() == all_done["bad_heist.json"]


# Threads


@pytest.mark.slow
def test_one_thread_gives_the_bytes_of_sixteen(
    reelmine: Reelmine,
    tmp_path: Path,
    shelf: Path,
    samples: Path,
    finds: Path,
    all_done: dict[str, bytes],
) -> None:
    took, at_once = {}, {}
    for threads in ("1", "16"):
        output = tmp_path / threads
        shutil.copytree(shelf, output)
        with Server(latency=0.15) as server:
            words = ("run", *six(samples), "-o", output, *TINY, "--llm-threads", threads)
            done = reelmine(*words, *asking(server, finds))
            assert len(server.requests) > 20
            at_once[threads] = server.most_at_once
        assert done.returncode == 0, done.stdout + done.stderr
        assert files(output) == all_done
        calls = attempts(output, "call")
        took[threads] = max(c["ended"] for c in calls) - min(c["began"] for c in calls)
    assert at_once["1"] == 1
    assert at_once["16"] == 16
    assert took["16"] < took["1"]


# Deadlines


def test_call_over_its_deadline_is_reported_and_the_run_goes_on(
    reelmine: Reelmine,
    transcribed: Path,
    samples: Path,
    finds: Path,
    all_done: dict[str, bytes],
) -> None:
    with Server(script=lambda request: "hang" if request.number == 3 else "ok") as server:
        words = ("run", *six(samples), "-o", "out", *TINY, "--call-timeout", "4")
        began = time.monotonic()
        done = reelmine(*words, *asking(server, finds))
        took = time.monotonic() - began
        requests = list(server.requests)
    assert done.returncode == 1, done.stderr
    assert took < 30
    (late,) = [
        (name, chunk) for name in NAMES for chunk in analysis(transcribed, name, "finds")["failed"]
    ]
    name, chunk = late
    assert chunk["state"] == "timed_out" and chunk["problem"]["code"] == "E_LLM_TIMEOUT"
    assert (name, chunk["index"]) == chunks(transcribed, requests)[text_of(requests[3])]
    assert analysis(transcribed, name, "finds")["state"] == "timed_out"
    (call,) = [c for c in attempts(transcribed, "call") if c["outcome"] == "E_LLM_TIMEOUT"]
    assert 3.5 < call["ended"] - call["began"] < 6  # by its own deadline, not by the outer guard
    assert last_run(transcribed)["call_overruns"] == 0
    assert any(name in line and "timed out" in line for line in done.stdout.splitlines())
    for other in set(NAMES) - {name}:
        assert (transcribed / f"{other}.json").read_bytes() == all_done[f"{other}.json"]


@pytest.mark.parametrize("behaviour", [pytest.param("hang", marks=pytest.mark.slow), "drip"])
def test_server_that_never_ends_an_answer_holds_nobody(
    reelmine: Reelmine, tmp_path: Path, samples: Path, fake: Path, behaviour: Behaviour
) -> None:
    with Server(script=lambda request: behaviour) as server:
        words = ("run", samples / "moving_house.wav", "-o", "out", "--model", fake)
        endpoint = ("--llm-model", "phrasebook", "--llm-base-url", server.url)
        began = time.monotonic()
        done = reelmine(*words, *endpoint, "--call-timeout", "1")
        took = time.monotonic() - began
    assert done.returncode == 1, done.stderr
    assert took < 15
    assert analysis(tmp_path / "out", "moving_house", "expressions")["state"] == "timed_out"
    assert (tmp_path / "out" / "moving_house.srt").exists()


# Nothing is left


def standing() -> tuple[set[str], set[int], int]:
    """Threads, child processes and open files of this process."""
    me = psutil.Process()
    threads = {thread.name for thread in threading.enumerate()}
    return threads, {child.pid for child in me.children(recursive=True)}, me.num_fds()


@pytest.mark.parametrize(
    "ending", ["good", "late", pytest.param("stopped", marks=pytest.mark.slow)]
)
def test_no_thread_process_or_descriptor_is_left(
    tmp_path: Path, samples: Path, fake: Path, ending: str
) -> None:
    def once(output: Path) -> None:
        def script(request: Request) -> Behaviour:
            return "hang" if ending != "good" and len(request.cues) > 6 else "ok"

        with Server(script=script) as server:
            config = engine.Config(
                output=output,
                model=str(fake),
                llm_base_url=server.url,
                llm_model="phrasebook",
                call_timeout=1.0 if ending == "late" else 300.0,
            )
            paths = [samples / "moving_house.wav", samples / "wedding_day.mkv"]
            if ending == "stopped":  # by a consumer that goes away while a call hangs
                stream = engine.stream(paths, config)
                assert next(stream).video.name == "moving_house"
                stream.close()
            else:
                report = engine.run(paths, config)
                assert report.exit_code == (ending == "late")

    once(tmp_path / "warm")  # what Python itself starts once and keeps: its resource tracker
    before = standing()
    once(tmp_path / "out")
    assert standing() == before


def test_no_event_loop_is_needed_or_running_in_any_worker(
    tmp_path: Path, samples: Path, fake: Path
) -> None:
    """Every worker process and every thread is looked at, again and again, while it works."""
    loops: list[str] = []
    seen: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            for child in psutil.Process().children(recursive=True):
                seen.add("process")
                loops.extend(f"process {child.pid}" for _ in polled(child.pid))
            for name, frame in frames_of_threads():
                modules = {
                    str(inner.f_globals.get("__name__")) for inner, _ in traceback.walk_stack(frame)
                }
                seen.update(module for module in modules if module.startswith("engine."))
                loops.extend(f"thread {name}" for m in modules if m.startswith("asyncio"))

    outcome: list[engine.RunReport] = []

    def run() -> None:
        with Server(latency=1.0) as server:
            config = engine.Config(
                output=tmp_path / "out",
                model=str(fake),
                llm_base_url=server.url,
                llm_model="phrasebook",
            )
            outcome.append(engine.run(six(samples), config))

    watcher = threading.Thread(target=watch, name="watcher")
    watcher.start()
    plain = threading.Thread(target=run, name="plain")
    plain.start()
    plain.join()
    ended.set()
    watcher.join()
    assert outcome[0].exit_code == 0
    assert {"process", "engine.loop", "engine.llm.client"} <= seen
    assert loops == []


def frames_of_threads() -> list[tuple[str, Any]]:
    """Name and frame of each thread but the test server's, which is one loop."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames().items()
    return [
        (names[ident], frame)
        for ident, frame in frames
        if names.get(ident, "test-server") != "test-server"
    ]


def polled(pid: int) -> list[str]:
    """Descriptors of a process that only an event loop has: a running asyncio loop holds one."""
    folder = f"/proc/{pid}/fd"
    links = []
    with contextlib.suppress(OSError):  # no such folder: another system, or the process has ended
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):  # closed meanwhile
                links.append(os.readlink(f"{folder}/{name}"))
    return [link for link in links if "eventpoll" in link]


def test_run_works_inside_a_running_event_loop(tmp_path: Path, samples: Path, fake: Path) -> None:
    """As in a notebook, where the ancestor could not start."""

    async def cell() -> int:
        with Server() as server:
            config = engine.Config(
                output=tmp_path, model=str(fake), llm_base_url=server.url, llm_model="phrasebook"
            )
            return engine.run([samples / "moving_house.wav"], config).exit_code

    assert asyncio.run(cell()) == 0
