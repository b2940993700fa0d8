"""A loopback server that speaks OpenAI's chat completions, for tests of recipes and scripts.

    with Server(latency=0.2) as server:
        run(paths, Config(llm_base_url=server.url, llm_model="phrasebook"))
        assert server.requests[0].cues[0] == 0

or, in a process of its own, `python -m engine.testing.server --port 8000`, which prints its URL and
ends with SIGTERM or Ctrl-C. It serves /v1/chat/completions and /v1/models over real sockets.

It answers our own prompts: for a recipe with the fields of `expressions` by the bundled phrasebook,
for any other with one item made from the schema, quoting the first cue. The same prompt always
gets the same answer. `script` says what happens instead (`faults.py` has the names), by number of
the request, as in "500, 429:2, drip, ok", or by a function of it. `limits` refuse what is too much
(`rates.py`); /v1/stats tells another process what happened.

Knows nothing about the client. Owns one thread, in which an asyncio loop serves all connections
(so 128 clients cost no 128 threads); `close()` ends it, with whatever hangs in it.
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from engine.testing.answers import Answers, Prompt, parse_prompt
from engine.testing.faults import (
    Behaviour,
    Canned,
    Completion,
    encoded,
    fault,
    follow,
    refusal,
    too_many,
    whole,
)
from engine.testing.rates import Limit, Rates, parse_limit

__all__ = ["Behaviour", "Canned", "Limit", "Request", "Script", "Server"]

MAX_REQUEST = 16 * 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Request:
    """One request for a completion."""

    number: int  # from 0, in order of arrival
    body: Mapping[str, Any]
    context: tuple[int, ...]  # ids of the cues shown for understanding only
    cues: tuple[int, ...]  # ids of the cues to analyse


Script = str | Sequence[Behaviour] | Callable[[Request], Behaviour]


class Server:
    """Serves from construction to `close()`; a context manager.

    `latency` is the time before an answer in seconds, or (median, sigma) of a lognormal drawn with
    `seed`. A `script` beyond its end means "ok", unless it ends with "...": then it begins again.
    With `api_key`, another key gets a 401. `phrasebook` is the folder of the book; without it the
    bundled one. `limits` follow one another, each with room for `burst` seconds of its rates; what
    is over them gets a 429 at once, and no answer has headers about them without `rate_headers`.
    ValueError for a script with an unknown name.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        latency: float | tuple[float, float] = 0.0,
        seed: int = 0,
        api_key: str | None = None,
        script: Script = (),
        phrasebook: Path | None = None,
        model: str = "phrasebook",
        limits: Sequence[Limit] = (),
        burst: float = 1.0,
        rate_headers: bool = True,
    ) -> None:
        self.requests: list[Request] = []  # completions only; appended by the server's thread
        self.most_at_once = 0  # completions under way at the same time
        self.answered = 0  # replies that were sent to their end
        self.refused = 0  # requests over the limits
        # of each request when it came: seconds after the first one, status, tokens
        self.at: list[tuple[float, int, int]] = []
        self._latency = latency
        self._random = random.Random(seed)
        self._api_key = api_key
        self._script = script if callable(script) else _in_turn(script)
        self._model = model
        self._answers = Answers(phrasebook)
        self._understood = lru_cache(1024)(self._understand)  # a retry costs no second answer
        self._rates = Rates(limits, burst)
        self._rate_headers = rate_headers
        self._first: float | None = None  # when the first request came
        self._at_once = 0
        self._connections: set[asyncio.Task[None]] = set()  # the loop alone keeps no task alive
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._failed: list[OSError] = []  # why it could not start
        self._thread = threading.Thread(target=self._run, name="test-server")
        self._thread.start()
        self._ready.wait()
        for error in self._failed:
            self._thread.join()
            raise error

    @property
    def url(self) -> str:
        """The base URL to give to a client."""
        return f"http://127.0.0.1:{self._port}/v1"

    def close(self) -> None:
        """End all connections and the thread; may be called twice."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # its loop has just closed
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except OSError as error:  # the port is taken
            self._failed.append(error)
        finally:
            self._loop.close()
            self._ready.set()

    async def _serve(self) -> None:
        """Accepts by hand: asyncio's own server loses the sockets that it is just accepting when it
        is closed (Python 3.11)."""
        with socket.create_server(("127.0.0.1", self._port), backlog=512) as listener:
            listener.setblocking(False)
            self._port = listener.getsockname()[1]
            self._loop.add_reader(listener, self._accept, listener)
            self._ready.set()
            await self._stop.wait()
            self._loop.remove_reader(listener)
        await _turns()  # a task that never began could not be told to close its socket
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await _turns()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client went away again
            connection, _ = listener.accept()
            connection.setblocking(False)
            task = self._loop.create_task(self._converse(connection))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _converse(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            while (head := await _read_head(reader)) is not None:
                await self._respond(*head, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client went away, or speaks no HTTP
        except ValueError as problem:  # no request, or a script with an unknown name: say so
            await whole(writer, encoded(refusal(500, f"Test server: {problem}", "test_server")))
        finally:
            writer.transport.abort()

    async def _respond(
        self, path: str, headers: Mapping[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> None:
        if self._api_key and headers.get("authorization") != f"Bearer {self._api_key}":
            reply = refusal(401, "Incorrect API key provided.", "invalid_api_key")
        elif path == "/v1/models":
            models = [{"id": self._model, "object": "model", "owned_by": "reelmine"}]
            reply = Canned({"object": "list", "data": models})
        elif path == "/v1/stats":
            reply = Canned({"answered": self.answered, "refused": self.refused, "at": self.at})
        elif path == "/v1/chat/completions":
            await self._complete(body, writer)
            return
        else:
            reply = refusal(404, f"There is no {path}.", "not_found")
        await whole(writer, encoded(reply))

    async def _complete(self, body: bytes, writer: asyncio.StreamWriter) -> None:
        question, prompt, good = self._understood(body)
        request = Request(
            len(self.requests),
            question,
            tuple(cue.id for cue in prompt.context),
            tuple(cue.id for cue in prompt.cues),
        )
        self.requests.append(request)
        make, way = fault(self._script(request))
        reply = make(good)
        wait = self._admit(reply, good)
        headers = self._rates.headers() if self._rate_headers else {}
        if wait:
            await whole(writer, encoded(too_many(wait), headers))
            return
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self._wait())
            await way(writer, encoded(reply, headers))
            self.answered += 1
        finally:
            self._at_once -= 1

    def _understand(self, body: bytes) -> tuple[dict[str, Any], Prompt, Completion]:
        question: dict[str, Any] = json.loads(body)
        prompt = parse_prompt(question["messages"])
        return question, prompt, self._answers.completion(question, prompt)

    def _admit(self, reply: Canned, good: Completion) -> float:
        """Seconds that the client is told to wait; 0.0: it is let in."""
        now = self._loop.time()
        self._first = now if self._first is None else self._first
        tokens = _tokens(reply, good)
        wait = self._rates.admit(now - self._first, tokens)
        self.refused += wait > 0
        self.at.append((round(now - self._first, 6), 429 if wait else reply.status, tokens))
        return wait

    def _wait(self) -> float:
        if isinstance(self._latency, tuple):
            median, sigma = self._latency
            return median * self._random.lognormvariate(0.0, sigma)
        return self._latency


def _in_turn(script: str | Sequence[Behaviour]) -> Callable[[Request], Behaviour]:
    steps = follow(script)
    return lambda _: next(steps)


def _tokens(reply: Canned, good: Completion) -> int:
    """What the reply says that it took, else what the good answer would have."""
    said = reply.body.get("usage") if isinstance(reply.body, dict) else None
    counts = (said or good["usage"]).get
    return sum(n for n in map(counts, ("prompt_tokens", "completion_tokens")) if isinstance(n, int))


async def _turns() -> None:
    """Let the loop do what it has scheduled, and what that schedules."""
    for _ in range(5):
        await asyncio.sleep(0)


async def _read_head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes] | None:
    """Path, headers (names in lower case) and body of the next request; None: no more."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= MAX_REQUEST:
        raise ValueError("request too long")
    return first.split()[1], headers, await reader.readexactly(length)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(prog="python -m engine.testing.server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--latency", type=float, default=0.0, help="median, in seconds")
    parser.add_argument("--sigma", type=float, default=0.0, help="of a lognormal latency")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--api-key", help="made up for the test; requests must send it")
    parser.add_argument("--script", default="", help='as in "500, 429:2, drip, ok, ..."')
    parser.add_argument(
        "--limit",
        type=parse_limit,
        action="append",
        default=[],
        dest="limits",
        metavar="AFTER:RPM:TPM",
        help="from AFTER seconds after the first request on; '-': no limit; repeatable",
    )
    parser.add_argument("--burst", type=float, default=1.0, help="seconds of a limit, at once")
    parser.add_argument("--no-rate-headers", action="store_false", dest="rate_headers")
    given = vars(parser.parse_args(arguments))
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    median, sigma = given.pop("latency"), given.pop("sigma")
    with Server(latency=(median, sigma) if sigma else median, **given) as server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        ended.wait()


if __name__ == "__main__":
    main()
