"""Signals become calls, and everything is as before afterwards."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from engine.signals import SIGNALS, caught


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_within_the_block_calls_back_with_its_number(number: int) -> None:
    seen: list[int] = []
    before = signal.signal(number, signal.SIG_DFL)  # under nohup SIGHUP is ignored, and stays so
    try:
        with caught(seen.append):
            os.kill(os.getpid(), number)
    finally:
        signal.signal(number, before)
    assert seen == [number]


def test_former_handlers_are_put_back_even_after_an_error() -> None:
    def mine(*_: object) -> None:
        raise AssertionError

    original = signal.signal(signal.SIGUSR1, mine)
    try:
        before = [signal.getsignal(number) for number in SIGNALS]
        with pytest.raises(KeyError), caught(lambda _: None):
            assert signal.getsignal(signal.SIGUSR1) is not mine
            raise KeyError
        assert [signal.getsignal(number) for number in SIGNALS] == before
    finally:
        signal.signal(signal.SIGUSR1, original)


def test_nothing_is_caught_outside_the_main_thread() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    during: list[object] = []

    def work() -> None:
        with caught(lambda _: None):
            during.extend(signal.getsignal(number) for number in SIGNALS)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert during == before


def test_ignored_signal_stays_ignored_as_under_nohup() -> None:
    program = (
        "import os, signal\n"
        "from engine.signals import caught\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with caught(print):\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{int(signal.SIGTERM)}\n"
