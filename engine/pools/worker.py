"""The first thing in every worker process, whatever it works on.

A worker is a spawned process with one thread that works. ``begin`` is its first instruction of
ours: environment, deaf to signals, and a watch that ends it when the parent is gone. What it does
then is in ``slot_worker.py`` and ``preparation_worker.py``: everything a call needs comes as a
record, what stays between calls lives in that module, and the heavy libraries are imported by the
first call that needs them.

Ends: when the executor closes, when it is killed, or when the parent dies. Knows nothing about
models, videos or who calls.
"""

import os
import signal
import threading
from collections.abc import Mapping
from multiprocessing import connection, parent_process

DEAF_TO = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


def begin(env: Mapping[str, str], nice: int = 0) -> None:
    """First call in a new worker: its environment, its deafness, its end with the parent."""
    os.environ.update(env)
    for name in DEAF_TO:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # spawned with them blocked, so none could kill it
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
    parent = parent_process()
    if parent is not None:
        threading.Thread(
            target=_end_with, args=(parent.sentinel,), name="parent-watch", daemon=True
        ).start()
    if nice and hasattr(os, "nice"):
        os.nice(nice)


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def hello() -> int:
    """The worker's pid: what a kill needs."""
    return os.getpid()
