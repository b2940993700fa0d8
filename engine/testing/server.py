"""A loopback server that speaks OpenAI's chat completions, for tests of recipes and scripts.

    with Server(latency=0.2) as server:
        run(paths, Config(llm_base_url=server.url, llm_model="phrasebook"))
        assert server.requests[0].cues[0] == 0

or, in a process of its own, `python -m engine.testing.server --port 8000`, which prints its URL and
ends with SIGTERM or Ctrl-C. It serves /v1/chat/completions and /v1/models over real sockets.

It answers our own prompts: for a recipe with the fields of `expressions` by the bundled phrasebook,
for any other with one item made from the schema, quoting the first cue. The same prompt always
gets the same answer. `script` says what happens instead, by number of the request or by a function
of it: a behaviour named in `BEHAVIOURS`, an HTTP status, or a `Canned` response.

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from engine.testing.answers import Answers, parse_prompt

BEHAVIOURS = ("ok", "hang", "drip", "garbage")
DRIP = 0.05  # seconds between two bytes
MAX_REQUEST = 16 * 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Canned:
    """A response as it is; `body` that is no text is sent as JSON."""

    body: Any = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """One request for a completion."""

    number: int  # from 0, in order of arrival
    body: Mapping[str, Any]
    context: tuple[int, ...]  # ids of the cues shown for understanding only
    cues: tuple[int, ...]  # ids of the cues to analyse


Behaviour = str | int | Canned
Script = Sequence[Behaviour] | Callable[[Request], Behaviour]


class Server:
    """Serves from construction to `close()`; a context manager.

    `latency` is the time before an answer in seconds, or (median, sigma) of a lognormal drawn with
    `seed`. `script` beyond its end means "ok". With `api_key`, another key gets a 401. `phrasebook`
    is the folder of the book; without it the bundled one.
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
    ) -> None:
        self.requests: list[Request] = []  # completions only; appended by the server's thread
        self.most_at_once = 0  # completions under way at the same time
        self._latency = latency
        self._random = random.Random(seed)
        self._api_key = api_key
        self._script = script
        self._model = model
        self._answers = Answers(phrasebook)
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
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client went away, or speaks no HTTP
        finally:
            writer.transport.abort()

    async def _respond(
        self, path: str, headers: Mapping[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> None:
        if self._api_key and headers.get("authorization") != f"Bearer {self._api_key}":
            await _send(writer, _error(401, "Incorrect API key provided.", "invalid_api_key"))
        elif path == "/v1/models":
            models = [{"id": self._model, "object": "model", "owned_by": "reelmine"}]
            await _send(writer, Canned({"object": "list", "data": models}))
        elif path == "/v1/chat/completions":
            await self._complete(body, writer)
        else:
            await _send(writer, _error(404, f"There is no {path}.", "not_found"))

    async def _complete(self, body: bytes, writer: asyncio.StreamWriter) -> None:
        question = json.loads(body)
        prompt = parse_prompt(question["messages"])
        request = Request(
            len(self.requests),
            question,
            tuple(cue.id for cue in prompt.context),
            tuple(cue.id for cue in prompt.cues),
        )
        self.requests.append(request)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self._wait())
            behaviour = self._behaviour(request)
            if behaviour == "ok":
                await _send(writer, Canned(self._answers.completion(question, prompt)))
            elif behaviour == "drip":
                whole = Canned(self._answers.completion(question, prompt))
                await _drip(writer, _encoded(whole))
            else:
                await _misbehave(writer, behaviour)
        finally:
            self._at_once -= 1

    def _wait(self) -> float:
        if isinstance(self._latency, tuple):
            median, sigma = self._latency
            return median * self._random.lognormvariate(0.0, sigma)
        return self._latency

    def _behaviour(self, request: Request) -> Behaviour:
        if callable(self._script):
            return self._script(request)
        return self._script[request.number] if request.number < len(self._script) else "ok"


async def _turns() -> None:
    """Let the loop do what it has scheduled, and what that schedules."""
    for _ in range(5):
        await asyncio.sleep(0)


async def _misbehave(writer: asyncio.StreamWriter, behaviour: Behaviour) -> None:
    if isinstance(behaviour, Canned):
        await _send(writer, behaviour)
    elif isinstance(behaviour, int):
        await _send(writer, _error(behaviour, f"Scripted {behaviour}.", "scripted"))
    elif behaviour == "garbage":
        page = "<html><body>It works!</body></html>"
        await _send(writer, Canned(page, headers={"Content-Type": "text/html"}))
    elif behaviour == "hang":
        await asyncio.Event().wait()
    else:
        raise AssertionError(f"unknown behaviour {behaviour!r}; known: {', '.join(BEHAVIOURS)}")


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


def _error(status: int, message: str, code: str) -> Canned:
    return Canned({"error": {"message": message, "type": "server", "code": code}}, status)


def _encoded(response: Canned) -> bytes:
    is_text = isinstance(response.body, str)
    body = (response.body if is_text else json.dumps(response.body)).encode()
    headers = {
        "Content-Type": "text/plain" if is_text else "application/json",
        "Content-Length": str(len(body)),
        **response.headers,
    }
    lines = [f"HTTP/1.1 {response.status} Scripted", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def _send(writer: asyncio.StreamWriter, response: Canned) -> None:
    writer.write(_encoded(response))
    await writer.drain()


async def _drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    """The head at once, the body a byte at a time."""
    head, body = data.split(b"\r\n\r\n", 1)
    writer.write(head + b"\r\n\r\n")
    for position in range(len(body)):
        await asyncio.sleep(DRIP)
        writer.write(body[position : position + 1])
        await writer.drain()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(prog="python -m engine.testing.server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--latency", type=float, default=0.0, help="median, in seconds")
    parser.add_argument("--sigma", type=float, default=0.0, help="of a lognormal latency")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--api-key", help="made up for the test; requests must send it")
    given = parser.parse_args(arguments)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with Server(
        port=given.port,
        latency=(given.latency, given.sigma) if given.sigma else given.latency,
        seed=given.seed,
        api_key=given.api_key,
    ) as server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        ended.wait()


if __name__ == "__main__":
    main()
