"""Worker processes on their worst days: killed, hung, half-born, orphaned."""

import os
import signal
import subprocess
import sys
import time
from queue import SimpleQueue

import psutil
import pytest
from shell import ROOT, environment

from engine.errors import MediaError
from engine.pools.local import Outcome, Worker, call_once


@pytest.fixture
def outcomes():
    return SimpleQueue()


@pytest.fixture
def member(outcomes):
    member = Worker("cpu:0", {"OMP_NUM_THREADS": "1", "REELMINE_SEEN": "yes"}, outcomes)
    yield member
    member.kill()
    member.close()


def started(member: Worker, outcomes) -> int:
    member.start()
    outcome = outcomes.get(timeout=60)
    assert outcome.error is None
    member.pid = outcome.value
    return outcome.value


def test_hello_tells_the_pid_and_the_environment_was_there_first(member, outcomes):
    pid = started(member, outcomes)
    assert pid != os.getpid()
    member.submit(os.getenv, "REELMINE_SEEN")
    assert outcomes.get(timeout=60).value == "yes"
    assert "REELMINE_SEEN" not in os.environ
    assert psutil.Process(pid).environ()["OMP_NUM_THREADS"] == "1"


def test_error_comes_back_and_the_worker_lives(member, outcomes):
    started(member, outcomes)
    member.submit(int, "x")
    assert isinstance(outcomes.get(timeout=60).error, ValueError)
    member.submit(int, "7")
    assert outcomes.get(timeout=60).value == 7


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_kill_from_outside_ends_every_submitted_call(member, outcomes, calls):
    pid = started(member, outcomes)
    for _ in range(calls):
        member.submit(time.sleep, 600)
    os.kill(pid, signal.SIGKILL)
    ended = [outcomes.get(timeout=60) for _ in range(calls)]
    assert all(outcome.died for outcome in ended)
    member.forget()
    assert started(member, outcomes) != pid


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_killed_worker_is_forgotten_at_once_and_can_start_again(member, outcomes, calls):
    pid = started(member, outcomes)
    for _ in range(calls):
        member.submit(time.sleep, 600)
    generation = member.generation
    member.kill()
    assert member.generation > generation  # what still comes from that process is stale
    member.start()
    fresh = [outcomes.get(timeout=60)]
    while fresh[-1].generation != member.generation:
        fresh.append(outcomes.get(timeout=60))
    assert fresh[-1].value != pid
    assert all(o.died for o in fresh[:-1])
    member.close()
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_call_to_a_dead_worker_is_an_outcome_not_an_exception(member, outcomes):
    pid = started(member, outcomes)
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    died = False
    while not died and time.monotonic() < deadline:
        member.submit(os.getpid)
        died = outcomes.get(timeout=60).died
    assert died


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_worker_is_deaf_to_signals(member, outcomes, name):
    pid = started(member, outcomes)
    os.kill(pid, getattr(signal, name))
    member.submit(os.getpid)
    assert outcomes.get(timeout=60).value == pid


def test_signal_to_the_half_born_worker_does_not_kill_it(member, outcomes):
    before = set(psutil.Process().children())
    member.start()
    [born] = set(psutil.Process().children()) - before - {_tracker()}
    born.send_signal(signal.SIGINT)
    assert outcomes.get(timeout=60).value == born.pid


def _tracker() -> psutil.Process | None:
    return next(
        (
            child
            for child in psutil.Process().children()
            if "resource_tracker" in " ".join(child.cmdline())
        ),
        None,
    )


@pytest.mark.parametrize("kill", [False, True])
def test_close_waits_for_the_process(member, outcomes, kill):
    pids = []
    for _ in range(4):
        pids.append(started(member, outcomes))
        if kill:
            member.kill()
        member.close()
        assert not any(psutil.pid_exists(pid) for pid in pids)


ORPHAN = """
import os, sys, time
from queue import SimpleQueue
from engine.pools.local import Worker
if __name__ == "__main__":
    outcomes = SimpleQueue()
    member = Worker("cpu:0", {}, outcomes)
    member.start()
    print(outcomes.get().value, flush=True)
    member.submit(time.sleep, 600)
    time.sleep(600)
"""


def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, env=environment(), cwd=ROOT
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=20)
    assert not psutil.pid_exists(pid)


def test_call_once_gives_the_value_or_raises_the_error():
    assert call_once({}, int, "7") == 7
    with pytest.raises(ValueError, match="invalid literal"):
        call_once({}, int, "x")


def test_our_errors_cross_the_border_whole(member, outcomes):
    started(member, outcomes)
    member.submit(_raise_media_error)
    error = outcomes.get(timeout=60).error
    assert isinstance(error, MediaError)
    assert error.problem.message == "talk.mp4 is broken."


def _raise_media_error() -> None:
    raise MediaError("talk.mp4 is broken.")


def test_outcome_of_a_death_says_so():
    from concurrent.futures.process import BrokenProcessPool

    assert Outcome("cpu:0", 1, 1, error=BrokenProcessPool()).died
    assert not Outcome("cpu:0", 1, 1, value=3).died


STUCK = """
import time
from queue import SimpleQueue
from engine.pools.local import Worker
if __name__ == "__mp_main__":
    time.sleep(600)  # what a worker does that imports such a script
if __name__ == "__main__":
    member = Worker("cpu:0", {}, SimpleQueue())
    member.start()
    member.kill()
    member.close()
    print("ended")
"""


def test_worker_that_never_gets_through_the_users_script_can_be_killed(tmp_path):
    script = tmp_path / "stuck.py"
    script.write_text(STUCK)
    words = [sys.executable, str(script)]
    done = subprocess.run(words, env=environment(), capture_output=True, timeout=60, check=False)
    assert done.stdout == b"ended\n"
