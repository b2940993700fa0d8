"""What can go wrong with a reply, by name: the test server's faults.

In: a name, an HTTP status or a response as it is, and the answer that a healthy server would give.
Out: the response, and the way it goes over the wire. Two more faults are no server's behaviour but
an address: `refusing()` and `mute()`. Knows nothing about clients, or when which fault is wanted.

A way of sending owns its connection and may never end; the server cancels it when it closes.
"""

import asyncio
import contextlib
import gzip
import itertools
import json
import math
import re
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import Any

DRIP = 0.05  # seconds between two bytes
_BOMB = 64 * 1024 * 1024  # bytes that the compressed reply would be
_STATUS = re.compile(r"(\d{3})(?::(date|-?\d+))?")


@dataclass(frozen=True, slots=True)
class Canned:
    """A response as it is; `body` that is no text is sent as JSON."""

    body: Any = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Behaviour = str | int | Canned  # a name of FAULTS or a status, with or without ":RETRY-AFTER"
Completion = Mapping[str, Any]  # a healthy answer, as the chat completions format has it
Make = Callable[[Completion], Canned]
Way = Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]


async def whole(writer: asyncio.StreamWriter, reply: bytes) -> None:
    """All at once, as it should be."""
    writer.write(reply)
    await writer.drain()


def fault(behaviour: Behaviour) -> tuple[Make, Way]:
    """What makes the response out of the good answer, and how it is sent; ValueError for a name
    that nothing has."""
    if isinstance(behaviour, Canned):
        return lambda _: behaviour, whole
    if str(behaviour) in FAULTS:
        return FAULTS[str(behaviour)]
    found = _STATUS.fullmatch(str(behaviour))
    if not found:
        known = ", ".join(FAULTS)
        raise ValueError(f"{behaviour!r} is no behaviour; there are {known}, and 429 or 429:2")
    return lambda _: _status(int(found[1]), found[2]), whole


def follow(script: str | Sequence[Behaviour]) -> Iterator[Behaviour]:
    """What happens to request after request: the script, then "ok" for ever, or after a last "..."
    the script again. A text has commas between the behaviours. ValueError for an unknown one."""
    steps = [step.strip() for step in script.split(",")] if isinstance(script, str) else [*script]
    again = steps[-1:] == ["..."]
    steps = [step for step in steps if step not in ("", "...")]
    for step in steps:
        fault(step)
    return (
        itertools.cycle(steps or ["ok"])
        if again
        else itertools.chain(steps, itertools.repeat("ok"))
    )


def refusal(status: int, message: str, code: str, kind: str = "server") -> Canned:
    """An error in OpenAI's words."""
    return Canned({"error": {"message": message, "type": kind, "code": code}}, status)


def too_many(wait: float) -> Canned:
    """The 429 of a rate limit that has room again after so many seconds."""
    headers = {"Retry-After": str(math.ceil(wait)), "Retry-After-Ms": str(math.ceil(1000 * wait))}
    told = refusal(429, "Rate limit reached.", "rate_limit_exceeded", "requests")
    return replace(told, headers=headers)


def encoded(response: Canned, more: Mapping[str, str] | None = None) -> bytes:
    """The response as it goes over the wire, with `more` headers."""
    is_text = isinstance(response.body, str | bytes)
    body = response.body if is_text else json.dumps(response.body)
    body = body if isinstance(body, bytes) else body.encode()
    headers = {
        "Content-Type": "text/plain" if is_text else "application/json",
        "Content-Length": str(len(body)),
        **(more or {}),
        **response.headers,
    }
    lines = [f"HTTP/1.1 {response.status} Scripted", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


# addresses


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    """A base URL at which every connection is refused: the port is taken, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


@contextlib.contextmanager
def mute() -> Iterator[str]:
    """A base URL at which connections are made, and no TLS handshake is ever answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/v1"


# ways of sending


async def _hang(writer: asyncio.StreamWriter, reply: bytes) -> None:
    """Nothing, for ever."""
    await asyncio.Event().wait()


async def _drip_head(writer: asyncio.StreamWriter, reply: bytes) -> None:
    """A head that never ends, a byte at a time."""
    writer.write(b"HTTP/1.1 200 Scripted\r\nX-Slow: ")
    while True:
        await _byte(writer, b"a")


async def _drip(writer: asyncio.StreamWriter, reply: bytes) -> None:
    """The head at once, the body a byte at a time and then blanks, for hours."""
    body = reply.partition(b"\r\n\r\n")[2]
    writer.write(b"HTTP/1.1 200 Scripted\r\nContent-Length: 1000000\r\n\r\n")
    for position in range(len(body)):
        await _byte(writer, body[position : position + 1])
    while True:
        await _byte(writer, b" ")


async def _byte(writer: asyncio.StreamWriter, byte: bytes) -> None:
    await asyncio.sleep(DRIP)
    writer.write(byte)
    await writer.drain()


async def _flood(writer: asyncio.StreamWriter, reply: bytes) -> None:
    """An answer that never ends, as fast as it is read."""
    writer.write(b'HTTP/1.1 200 Scripted\r\n\r\n{"choices": [{"message": {"content": "')
    while True:
        writer.write(b"a" * 65_536)
        await writer.drain()


async def _reset(writer: asyncio.StreamWriter, reply: bytes) -> None:
    """The connection ends without a word and without an orderly close."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _short(writer: asyncio.StreamWriter, reply: bytes) -> None:
    """The head, half of the body that it announces, and an orderly close."""
    head, _, body = reply.partition(b"\r\n\r\n")
    await whole(writer, head + b"\r\n\r\n" + body[: len(body) // 2])
    writer.close()


# answers


def _same(good: Completion) -> Canned:
    return Canned(good)


def _fixed(body: Any) -> Make:
    return lambda _: Canned(body)


def _html(status: int) -> Make:
    headers = {"Content-Type": "text/html"}
    return lambda _: Canned("<html><body>It works!</body></html>", status, headers)


def _text_of(good: Completion) -> str:
    text: str = good["choices"][0]["message"]["content"]
    return text


def _says(text: str | None, reason: str = "stop", **message: Any) -> Make:
    """The good answer with another text."""
    said = {"role": "assistant", "content": text, **message}
    choice = {"index": 0, "message": said, "finish_reason": reason}
    return lambda good: Canned({**good, "choices": [choice]})


def _truncated(good: Completion) -> Canned:
    body = json.dumps(good)
    return Canned(body[: len(body) // 2], headers={"Content-Type": "application/json"})


def _cut_off(good: Completion) -> Canned:
    """Half of it, uncounted: that a limit was reached is said by `finish_reason` alone."""
    text = _text_of(good)
    uncounted = {name: value for name, value in good.items() if name != "usage"}
    return _says(text[: len(text) // 2], "length")(uncounted)


def _fenced(good: Completion) -> Canned:
    return _says(f"```json\n{_text_of(good)}\n```")(good)


def _plain(good: Completion) -> Canned:
    return Canned(json.dumps(good))  # a text: sent as text/plain


def _bomb(good: Completion) -> Canned:
    zipped = gzip.compress(b" " * _BOMB, compresslevel=1)
    return Canned(zipped, headers={"Content-Type": "application/json", "Content-Encoding": "gzip"})


def _too_long(good: Completion) -> Canned:
    told = "This model's maximum context length is 4096 tokens; your messages have more."
    return refusal(400, told, "context_length_exceeded", "invalid_request_error")


def _status(status: int, after: str | None) -> Canned:
    headers: dict[str, str] = {}
    if after is not None:
        # two to three seconds ahead: a date has no fractions
        date = formatdate(math.ceil(time.time()) + 2, usegmt=True)
        headers["Retry-After"] = date if after == "date" else after
    if status // 100 == 3:
        headers["Location"] = "http://elsewhere.invalid/v1/chat/completions"
    return replace(refusal(status, f"Scripted {status}.", "scripted"), headers=headers)


FAULTS: Mapping[str, tuple[Make, Way]] = {
    "ok": (_same, whole),
    "hang": (_same, _hang),  # before the first byte
    "drip-headers": (_same, _drip_head),
    "drip": (_same, _drip),
    "flood": (_same, _flood),
    "reset": (_same, _reset),
    "short": (_same, _short),  # than its Content-Length
    "truncated": (_truncated, whole),  # JSON that stops in the middle
    "html": (_html(200), whole),
    "503-html": (_html(503), whole),
    "plain": (_plain, whole),  # the right JSON as text/plain
    "bomb": (_bomb, whole),  # compressed although nobody asked for that
    "object": (_fixed({}), whole),
    "error": (_fixed({"error": {"message": "overloaded", "type": "server"}}), whole),  # in a 200
    "list": (_fixed([]), whole),
    "null": (_fixed(None), whole),
    "no-choices": (_fixed({"choices": []}), whole),
    "refusal": (_says(None, refusal="I can't help with that."), whole),
    "length": (_cut_off, whole),
    "fenced": (_fenced, whole),  # JSON in a code fence
    "prose": (_says("I found nothing."), whole),  # an answer that is no JSON
    "misfit": (_says('{"items": [{"cues": "all"}]}'), whole),  # JSON of another schema
    "context": (_too_long, whole),  # 400
}
