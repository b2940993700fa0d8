"""The test server's faults, seen from a client that hides nothing."""

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from engine.analysis import recipes
from engine.analysis.prompts import messages
from engine.records import Chunk, Segment
from engine.testing.faults import FAULTS, Canned, follow, mute, refusing
from engine.testing.server import Server

CUE = Segment(0, 0, 0.0, 1.0, "So he hedged his bets.", (), 0.0, 0.0, 1.0, 0.0)
QUESTION = json.dumps({"messages": messages(recipes.load("summary"), Chunk(0, (), (CUE,)))})


@pytest.fixture
def reply(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """A connection to a server that has been asked, and does what the test's parameter says."""
    with Server(script=request.param) as server:
        port = int(server.url.rsplit(":", 1)[1].removesuffix("/v1"))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {len(QUESTION)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall((head + QUESTION).encode())
            yield connection


def does(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("reply", [name], indirect=True)


def read(connection: socket.socket) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response


def body(connection: socket.socket) -> Any:
    with closing(read(connection)) as response:
        assert response.status == 200
        return json.loads(response.read())


def text(connection: socket.socket) -> str:
    said: str = body(connection)["choices"][0]["message"]["content"]
    return said


def received(connection: socket.socket) -> bytes:
    """Until it is closed, or a million bytes."""
    data = b""
    while len(data) <= 1_000_000 and (more := connection.recv(65_536)):
        data += more
    return data


@does("hang")
def test_hang(reply: socket.socket) -> None:
    reply.settimeout(0.3)
    with pytest.raises(TimeoutError):
        reply.recv(1)


@does("drip-headers")
def test_head_never_ends(reply: socket.socket) -> None:
    first = b"".join(reply.recv(100) for _ in range(10))
    assert first.startswith(b"HTTP/1.1 200 ")
    assert b"\r\n\r\n" not in first


@does("drip")
def test_body_comes_a_byte_at_a_time(reply: socket.socket) -> None:
    parts = [reply.recv(1_000) for _ in range(10)]
    assert b"".join(parts).partition(b"\r\n\r\n")[2].startswith(b'{"id')
    assert max(map(len, parts[2:])) < 20  # a busy machine reads a few at once


@does("flood")
def test_flood(reply: socket.socket) -> None:
    assert len(received(reply)) > 1_000_000


@does("reset")
def test_reset(reply: socket.socket) -> None:
    with pytest.raises(ConnectionResetError):
        reply.recv(1)


@does("short")
def test_short_body(reply: socket.socket) -> None:
    head, _, rest = received(reply).partition(b"\r\n\r\n")
    (length,) = [line for line in head.split(b"\r\n") if line.startswith(b"Content-Length: ")]
    assert 0 < len(rest) < int(length.split()[1])
    assert reply.recv(1) == b""  # closed in good order


@does("truncated")
def test_truncated(reply: socket.socket) -> None:
    with pytest.raises(json.JSONDecodeError):
        body(reply)


@does("html")
def test_page(reply: socket.socket) -> None:
    with closing(read(reply)) as response:
        assert (response.status, response.headers["Content-Type"]) == (200, "text/html")
        assert response.read().startswith(b"<html>")


@does("bomb")
def test_bomb_is_small_on_the_wire(reply: socket.socket) -> None:
    with closing(read(reply)) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert len(response.read()) < 1_000_000


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [
        ("object", {}),
        ("list", []),
        ("null", None),
        ("no-choices", {"choices": []}),
        ("error", {"error": {"message": "overloaded", "type": "server"}}),
    ],
    indirect=["reply"],
)
def test_other_json(reply: socket.socket, wanted: Any) -> None:
    assert body(reply) == wanted


@does("plain")
def test_right_json_as_text(reply: socket.socket) -> None:
    with closing(read(reply)) as response:
        assert response.headers["Content-Type"] == "text/plain"
        assert json.loads(response.read())["choices"]


@does("refusal")
def test_refusal(reply: socket.socket) -> None:
    message = body(reply)["choices"][0]["message"]
    assert message["content"] is None and message["refusal"]


@does("length")
def test_answer_that_is_cut_off(reply: socket.socket) -> None:
    choice = body(reply)["choices"][0]
    assert choice["finish_reason"] == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(choice["message"]["content"])


@does("fenced")
def test_fenced(reply: socket.socket) -> None:
    fence, inside, end = text(reply).split("\n")
    assert (fence, end) == ("```json", "```") and json.loads(inside)["items"]


@does("misfit")
def test_json_of_another_schema(reply: socket.socket) -> None:
    assert json.loads(text(reply))["items"][0]["cues"] == "all"


@does("prose")
def test_prose(reply: socket.socket) -> None:
    with pytest.raises(json.JSONDecodeError):
        json.loads(text(reply))


@pytest.mark.parametrize(
    ("reply", "status", "after"),
    [("503-html", 503, None), ("context", 400, None), ("401", 401, None), ("429", 429, None),
     ("429:2", 429, "2"), ("429:-5", 429, "-5"), ("429:500", 429, "500"), ([503], 503, None)],
    indirect=["reply"],
)  # fmt: skip
def test_status(reply: socket.socket, status: int, after: str | None) -> None:
    with closing(read(reply)) as response:
        assert (response.status, response.headers["Retry-After"]) == (status, after)


@does("429:date")
def test_date(reply: socket.socket) -> None:
    with closing(read(reply)) as response:
        assert response.headers["Retry-After"].endswith(" GMT")


@does("307")
def test_redirect(reply: socket.socket) -> None:
    with closing(read(reply)) as response:
        assert response.headers["Location"].startswith("http://elsewhere.invalid/")


def test_every_name_is_looked_at_here() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in FAULTS if f'"{name}"' not in tests] == []


# scripts


def test_script_is_a_text_or_a_list_and_then_all_is_well() -> None:
    assert list(islice(follow("500, 429:2,drip"), 5)) == ["500", "429:2", "drip", "ok", "ok"]
    canned = Canned("x")
    assert list(islice(follow([500, canned]), 3)) == [500, canned, "ok"]
    assert list(islice(follow(""), 2)) == ["ok", "ok"]


def test_script_that_ends_with_dots_begins_again() -> None:
    assert list(islice(follow("drip, ok, ..."), 5)) == ["drip", "ok", "drip", "ok", "drip"]


@pytest.mark.parametrize("step", ["dripp", "4290", "429:soon", 42])
def test_unknown_name_is_said_at_once(step: Any) -> None:
    with pytest.raises(ValueError, match="is no behaviour; there are ok, hang, "):
        Server(script=[step])


@pytest.mark.parametrize("reply", [lambda _: "dripp"], indirect=True)
def test_unknown_name_of_a_function_is_told_to_the_client(reply: socket.socket) -> None:
    with closing(read(reply)) as response:
        assert response.status == 500
        assert b"'dripp' is no behaviour" in response.read()


# addresses


def test_port_that_refuses_stays_taken() -> None:
    with refusing() as url:
        port = int(url.rsplit(":", 1)[1].removesuffix("/v1"))
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
        with pytest.raises(OSError):
            socket.create_server(("127.0.0.1", port))


def test_mute_server_takes_connections_and_answers_no_handshake() -> None:
    with mute() as url:
        assert url.startswith("https://")
        port = int(url.rsplit(":", 1)[1].removesuffix("/v1"))
        context, late = ssl.create_default_context(), pytest.raises(TimeoutError)
        with socket.create_connection(("127.0.0.1", port), timeout=0.3) as connection, late:
            context.wrap_socket(connection, server_hostname="localhost")
