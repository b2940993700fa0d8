"""Whatever an LLM server does to one call ends in its own state, and costs no other call a byte.

One table: what happens to the calls about the first of six chunks, and what must come of it. The
other five are asked at the same time, from other threads. All goes the real way: run, loop, pool of
threads, client, sockets, ledger and files. The server and its faults are `engine.testing`'s.
"""

import contextlib
import shutil
import socket
import sqlite3
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shell import analysis, attempts, command, environment
from speech import write_wav

import engine
from engine import api, errors
from engine.analysis import recipes
from engine.analysis.analysts import LlmAnalyst
from engine.analysis.recipes import Recipe
from engine.calls import Answerer
from engine.llm import network, retry
from engine.llm.client import CONNECT_ATTEMPTS, SERVER_ATTEMPTS, Client
from engine.llm.network import Backend
from engine.records import SAMPLE_RATE, Chunk, Reply, Segment, State
from engine.setup import Prepared
from engine.testing.faults import Behaviour, Canned, follow, mute, refusing
from engine.testing.server import Request, Server
from engine.testing.transcriber import make_model

TEXTS = (
    "So on Monday we let the cat out of the bag about the house.",
    "And nobody in the whole office was at all surprised about that.",
    "On Tuesday we had to bite the bullet and sell the old car.",
    "It was the only thing that still worked, more or less, you know.",
    "On Wednesday my brother told us that he was under the weather again.",
    "He always is when there are boxes to carry up to the third floor.",
    "On Thursday we burned the midnight oil until all of it was packed.",
    "There were ninety boxes, and I have written a number on each of them.",
    "On Friday the truck was late, and the driver just hit the road alone.",
    "We found him in another town, and he was very sorry about the mistake.",
    "On Saturday we were on cloud nine, because it did not rain at all.",
    "And on Sunday we all slept until noon, and then we slept some more.",
)  # a chunk is two of them
BOOK = """\
phrase\tkind\tlevel\tdefinition\texample\tliteral
let the cat out of the bag\tfixed\tB2\ttell a secret\tHe let the cat out of the bag.\t
bite the bullet\tfixed\tC1\tdo what has to be done\tWe bit the bullet.\t
under the weather\tfixed\tB2\till\tShe is under the weather.\t
burn the midnight oil\tverb\tC1\twork late\tThey burned the midnight oil.\t
hit the road\tfixed\tB2\tleave\tLet us hit the road.\t
on cloud nine\tfixed\tC1\tvery happy\tHe is on cloud nine.\t
"""
SICK = {0, 1}  # cues of the chunk that things happen to
CHUNKS = 6

Place = Callable[[], AbstractContextManager[str]]
WAIT = retry.FIRST_WAIT
DONE, FAILED, LATE = State.DONE, State.FAILED, State.TIMED_OUT


@dataclass(frozen=True)
class Row:
    """What is done to the sick chunk's calls, and what must come of it."""

    name: str
    script: str = ""  # the server's, for the sick chunk alone; ends with "ok" for ever, or "..."
    state: State = DONE
    code: str | None = None
    requests: int = 1  # about the sick chunk
    place: "Place | None" = None  # else it asks there
    told: str = ""  # in the reason that the user reads
    options: dict[str, Any] = field(default_factory=dict)


# places


@contextmanager
def _listening(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a listener that behaves so to each connection, one after the other."""
    ended = threading.Event()

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                if ended.is_set():
                    return
                behave(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        port: int = listener.getsockname()[1]
        try:
            yield port
        finally:
            ended.set()
            socket.create_connection(("127.0.0.1", port)).close()
            thread.join()


@contextmanager
def untrusted() -> Iterator[str]:
    """TLS with a certificate that nobody has signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).with_name("untrusted.pem"))

    def shake(connection: socket.socket) -> None:
        context.wrap_socket(connection, server_side=True).recv(1)

    with _listening(shake) as port:
        yield f"https://127.0.0.1:{port}/v1"


@contextmanager
def without_tls() -> Iterator[str]:
    """https where http is spoken."""

    def answer(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    with _listening(answer) as port:
        yield f"https://127.0.0.1:{port}/v1"


@contextmanager
def nowhere() -> Iterator[str]:
    """A name that no resolver may know."""
    yield "http://nowhere.invalid/v1"


@contextmanager
def dropping() -> Iterator[str]:
    """Packets are dropped, as by a firewall: the queue of the listener is full."""
    with ExitStack() as queued, socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        try:
            for _ in range(16):
                queued.enter_context(socket.create_connection(address, 0.2))
        except TimeoutError:
            yield f"http://127.0.0.1:{address[1]}/v1"
        else:
            pytest.skip("this system answers although the queue is full")


@contextmanager
def soon(place: "Place") -> Iterator[str]:
    """There, but who takes half a second to be reached counts as not there."""
    with place() as url, pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "MAX_CONNECT", 0.5)
        yield url


AGAIN = {"attempt_timeout": 3.0}
SOON = {"call_timeout": 4.0}
ROWS = [
    # nobody there
    Row("refused", "", FAILED, "E_LLM_CONNECT", CONNECT_ATTEMPTS, refusing, "refused"),
    Row("no such name", "", FAILED, "E_LLM_CONNECT", CONNECT_ATTEMPTS, nowhere, "nowhere.invalid"),
    Row("untrusted", "", FAILED, "E_LLM_CONNECT", 1, untrusted, "certificate verify failed"),
    Row("http for https", "", FAILED, "E_LLM_CONNECT", 1, without_tls, "wrong version number"),
    Row(
        "packets dropped",
        "",
        FAILED,
        "E_LLM_CONNECT",
        CONNECT_ATTEMPTS,
        partial(soon, dropping),
        "took more than 0.5 s",
    ),
    Row(
        "no TLS answer",
        "",
        FAILED,
        "E_LLM_CONNECT",
        CONNECT_ATTEMPTS,
        partial(soon, mute),
        "the TLS handshake took",
    ),
    Row("no TLS answer, a short call", "", LATE, "E_LLM_TIMEOUT", 1, mute, options=SOON),
    Row("reset once", "reset", DONE, None, 2),
    Row("reset always", "reset, ...", FAILED, "E_LLM_CONNECT", SERVER_ATTEMPTS, told="reset"),
    # by status
    Row("wrong key", "401", FAILED, "E_LLM_ENDPOINT", 1, told="set OPENAI_API_KEY"),
    Row("forbidden", "403", FAILED, "E_LLM_ENDPOINT", 1),
    Row("no such model", "404", FAILED, "E_LLM_ENDPOINT", 1, told="--llm-model"),
    Row("bad request", "400, ...", FAILED, "E_LLM_STATUS", 3, told="answered 400"),
    Row("schema refused without a word why", "400", DONE, None, 2),
    Row("context once", "context", DONE, None, 3),  # whole, then two halves
    Row("context always", "context, ...", FAILED, "E_LLM_CONTEXT", 2),  # whole, then a half
    Row("429, a second", "429:1", DONE, None, 2),
    Row("429, a date", "429:date", DONE, None, 2),
    Row("429, a time long gone", "429:-5", DONE, None, 2),
    Row("429 without a time", "429, 429", DONE, None, 3),
    Row("500 twice", "500, 500", DONE, None, 3),
    Row("500 always", "500, ...", FAILED, "E_LLM_STATUS", SERVER_ATTEMPTS, told="answered 500"),
    Row("503 as a page", "503-html, 503-html, 503-html", DONE, None, 4),
    Row("redirect", "307", FAILED, "E_LLM_REDIRECT", 1),
    # by body
    Row("a page once", "html", DONE, None, 2),
    Row("a page always", "html, ...", FAILED, "E_LLM_NOT_JSON", 2, told="It works!"),
    Row("text/plain", "plain", DONE, None, 1),
    Row("{} once", "object", DONE, None, 2),
    Row("{} always", "object, ...", FAILED, "E_LLM_SCHEMA", 2),
    Row("error in a 200", "error, ...", FAILED, "E_LLM_SCHEMA", 2, told="overloaded"),
    Row("list", "list, ...", FAILED, "E_LLM_SCHEMA", 2),
    Row("null", "null, ...", FAILED, "E_LLM_SCHEMA", 2),
    Row("no choices once", "no-choices", DONE, None, 2),
    Row("no choices", "no-choices, ...", FAILED, "E_LLM_EMPTY", 2),
    Row("half a JSON once", "truncated", DONE, None, 2),
    Row("half a JSON", "truncated, ...", FAILED, "E_LLM_NOT_JSON", 2),
    Row("short once", "short", DONE, None, 2),
    Row("short always", "short, ...", FAILED, "E_LLM_CONNECT", SERVER_ATTEMPTS),
    Row("compressed", "bomb, ...", FAILED, "E_LLM_NOT_JSON", 2, told="compress"),
    # by answer
    Row("refusal", "refusal", FAILED, "E_LLM_REFUSED", 1),
    Row("cut off once", "length", DONE, None, 2),
    Row("cut off twice", "length, ...", FAILED, "E_LLM_TRUNCATED", 2, told="max_tokens"),
    Row("fenced", "fenced", DONE, None, 1),
    Row("another schema once", "misfit", DONE, None, 2),
    Row("another schema", "misfit, ...", FAILED, "E_LLM_SCHEMA", 2),
    Row("prose", "prose, ...", FAILED, "E_LLM_NOT_JSON", 2),
    # by time
    Row("hang", "hang, ...", LATE, "E_LLM_TIMEOUT", 1, options=SOON),
    Row("hang once", "hang", DONE, None, 2, options=AGAIN),
    Row("dripped head", "drip-headers, ...", LATE, "E_LLM_TIMEOUT", 1, options=SOON),
    Row("dripped body", "drip, ...", LATE, "E_LLM_TIMEOUT", 1, options=SOON),
    Row("dripped body once", "drip", DONE, None, 2, options=AGAIN),
    Row("flood", "flood", FAILED, "E_LLM_OVERSIZE", 1),
]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.01)


@dataclass
class Shelf:
    """A video that is transcribed, and what becomes of it without faults."""

    video: Path
    config: engine.Config  # of a run; what it asks still to be named
    book: Path  # what servers answer from
    clean: dict[str, bytes] = field(default_factory=dict)
    replies: dict[str, str] = field(default_factory=dict)  # by their keys

    def config_for(self, output: Path, url: str, **options: Any) -> engine.Config:
        return replace(
            self.config, output=output, llm_model="m", llm_base_url=url, analysis=True, **options
        )


@pytest.fixture(scope="module")
def shelf(finds: Path, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Six chunks, transcribed and not yet asked about."""
    folder = tmp_path_factory.mktemp("faults")
    model = make_model(folder / "model", seconds=0.0, texts=TEXTS)
    silence = np.zeros(len(TEXTS) * 30 * SAMPLE_RATE - SAMPLE_RATE, np.float32)
    video = write_wav(folder / "moving.wav", silence)
    config = engine.Config(
        output=folder / "shelf",
        model=str(model),
        device="cpu",
        mode="sequential",  # a cue for every 30 s
        recipe=(str(finds),),
        analysis=False,
    )
    assert engine.run([video], config).exit_code == 0
    (folder / "book").mkdir()
    (folder / "book" / "phrases.tsv").write_text(BOOK)
    made = Shelf(video, config, folder / "book")
    shutil.copytree(folder / "shelf", folder / "clean")
    with Server(phrasebook=made.book) as server:
        report = engine.run([video], made.config_for(folder / "clean", server.url))
        assert report.exit_code == 0
        assert len(server.requests) == CHUNKS
    made.clean, made.replies = files(folder / "clean"), replies(folder / "clean")
    assert len(made.replies) == CHUNKS
    assert len(analysis(folder / "clean", "moving", "finds")["items"]) == CHUNKS
    return made


@pytest.fixture
def output(shelf: Shelf, tmp_path: Path) -> Path:
    """The shelf, to be worked on."""
    return Path(shutil.copytree(shelf.config.output, tmp_path / "out"))


def files(output: Path) -> dict[str, bytes]:
    """All that a user gets."""
    return {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}


def replies(output: Path) -> dict[str, str]:
    with closing(sqlite3.connect(output / ".reelmine" / "ledger.sqlite")) as ledger:
        return dict(ledger.execute("SELECT key, reply FROM replies"))


class Sick:
    """A script that does as told to the sick chunk, and counts; everybody else is answered."""

    def __init__(self, script: str) -> None:
        self.requests: list[Request] = []
        self._steps = follow(script)

    def __call__(self, request: Request) -> Behaviour:
        if not SICK.intersection(request.cues):
            return "ok"
        self.requests.append(request)
        return next(self._steps)


class Split:
    """Two analysts: one for the sick chunk, one for the others."""

    def __init__(self, sick: LlmAnalyst, healthy: LlmAnalyst) -> None:
        self._sick, self._healthy = sick, healthy
        self.name, self.hosts, self.key = healthy.name, healthy.hosts, healthy.key

    def call(self, recipe: Recipe, chunk: Chunk, *half: Any) -> Reply:
        sick = any(cue.id in SICK for cue in chunk.cues)
        return (self._sick if sick else self._healthy).call(recipe, chunk, *half)


def send_sick_to(url: str, patch: pytest.MonkeyPatch) -> list[str]:
    """From now on a run asks about the sick chunk there; the hosts it then connects to."""
    opened, connected = api.open_answerer, []
    connect = Backend.connect_tcp

    def split(prepared: Prepared, config: engine.Config, stack: ExitStack) -> Answerer:
        asked = prepared.answering
        assert asked.endpoint is not None
        healthy = opened(prepared, config, stack)
        there = replace(asked, endpoint=replace(asked.endpoint, base_url=url))
        sick = opened(replace(prepared, answering=there), config, stack)
        assert healthy and sick
        analyst = Split(sick.analyst, healthy.analyst)
        return replace(healthy, analyst=analyst, stop=lambda: (sick.stop(), healthy.stop()))

    def count(backend: Backend, host: str, port: int, *rest: Any, **more: Any) -> Any:
        if f"{host}:{port}" in url or f"//{host}/" in url:
            connected.append(host)
        return connect(backend, host, port, *rest, **more)

    patch.setattr(api, "open_answerer", split)
    patch.setattr(Backend, "connect_tcp", count)
    return connected


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_fault_ends_in_its_state_and_costs_no_other_call_a_byte(
    shelf: Shelf, output: Path, row: Row
) -> None:
    script = Sick(row.script)
    with (
        ExitStack() as stack,
        pytest.MonkeyPatch.context() as patch,
        Server(script=script, latency=0.3, phrasebook=shelf.book) as server,
    ):
        asked: list[Any] = script.requests
        if row.place:
            asked = send_sick_to(stack.enter_context(row.place()), patch)
        report = engine.run([shelf.video], shelf.config_for(output, server.url, **row.options))
        healthy = [request for request in server.requests if not SICK.intersection(request.cues)]
    assert len(asked) == row.requests
    assert report.exit_code == (row.state != DONE)
    found = analysis(output, "moving", "finds")
    assert found["state"] == row.state

    # of the others each was asked about once, beside the sick one, and answered as ever
    assert len(healthy) == CHUNKS - 1
    assert server.most_at_once >= 2
    kept = replies(output)
    others = {key: reply for key, reply in kept.items() if shelf.replies[key] == reply}
    if row.state == DONE:
        assert not found["failed"]
        assert files(output) == shelf.clean
        assert kept.keys() == shelf.replies.keys() and len(others) >= CHUNKS - 1
        return
    assert kept == others and len(kept) == CHUNKS - 1

    # the sick one has a reason, and the same command later does only that
    (lost,) = found["failed"]
    assert (lost["index"], lost["state"]) == (0, row.state)
    assert lost["problem"]["code"] == row.code
    assert row.told in lost["problem"]["message"]
    with Server(phrasebook=shelf.book) as server:
        again = engine.run([shelf.video], shelf.config_for(output, server.url))
        assert again.exit_code == 0
        assert [set(request.cues) for request in server.requests] == [SICK]
    assert attempts(output, "open") == []
    assert files(output) == shelf.clean
    assert replies(output) == shelf.replies


# What one table cannot say


@pytest.mark.parametrize(
    ("second", "options", "code"),
    [
        ("400, ...", {}, errors.EXIT_INCOMPLETE),
        ("hang, ...", SOON, errors.EXIT_INCOMPLETE),
        ("hang, ...", {"time_limit": 3.0, "grace": 0.5}, errors.EXIT_TRY_AGAIN),
    ],
    ids=["fails", "comes too late", "is stopped"],
)
def test_half_that_was_paid_for_is_kept_and_only_the_other_is_asked_for_later(
    shelf: Shelf, output: Path, second: str, options: dict[str, Any], code: int
) -> None:
    script = Sick(f"context, ok, {second}")
    with Server(script=script, phrasebook=shelf.book) as server:
        report = engine.run([shelf.video], shelf.config_for(output, server.url, **options))
    assert report.exit_code == code
    assert [request.cues for request in script.requests[:3]] == [(0, 1), (0,), (1,)]
    assert len(replies(output)) == CHUNKS  # those of the others, and half a one
    with Server(phrasebook=shelf.book) as server:
        assert engine.run([shelf.video], shelf.config_for(output, server.url)).exit_code == 0
        assert [request.cues for request in server.requests] == [(1,)]
    assert files(output) == shelf.clean
    assert replies(output).keys() == shelf.replies.keys()


def test_half_that_was_paid_for_is_kept_where_the_run_is_killed_during_the_other(
    shelf: Shelf, output: Path
) -> None:
    script = Sick("context, ok, hang, ...")
    with Server(script=script, phrasebook=shelf.book) as server:
        asked = shelf.config
        options = (
            "--model",
            str(asked.model),
            "--device",
            "cpu",
            "--mode",
            "sequential",
            "--recipe",
        )
        endpoint = ("--llm-model", "m", "--llm-base-url", server.url)
        words = command(["run", shelf.video, "-o", output, *options, asked.recipe[0], *endpoint])
        run = subprocess.Popen(words, env=environment())
        deadline = time.monotonic() + 60
        while len(replies(output)) < CHUNKS and time.monotonic() < deadline:
            assert run.poll() is None
            time.sleep(0.05)
        run.kill()
        run.wait()
    assert [request.cues for request in script.requests] == [(0, 1), (0,), (1,)]
    with Server(phrasebook=shelf.book) as server:
        assert engine.run([shelf.video], shelf.config_for(output, server.url)).exit_code == 0
        assert [request.cues for request in server.requests] == [(1,)]
    assert files(output) == shelf.clean
    assert replies(output).keys() == shelf.replies.keys()


def test_retries_of_all_calls_together_keep_to_the_users_own_limit(
    shelf: Shelf, output: Path
) -> None:
    seen: set[int] = set()

    def first_time_bad(request: Request) -> Behaviour:
        known = request.cues[0] in seen
        seen.add(request.cues[0])
        return "ok" if known else 500

    with Server(script=first_time_bad, phrasebook=shelf.book) as server:
        report = engine.run([shelf.video], shelf.config_for(output, server.url, llm_rpm=120))
        came = [at for at, _, _ in server.at]
    assert report.exit_code == 0
    assert len(came) == 2 * CHUNKS
    for first, later in zip(came, came[2:], strict=False):  # at most two at once, then two a second
        assert later - first > 0.4
    assert files(output) == shelf.clean


def test_after_a_401_nobody_is_asked_any_more(shelf: Shelf, output: Path) -> None:
    with Server(script="ok, 401, ...", phrasebook=shelf.book) as server:
        config = shelf.config_for(output, server.url, llm_threads=1)
        assert engine.run([shelf.video], config).exit_code == 1
        assert len(server.requests) == 2
    lost = analysis(output, "moving", "finds")["failed"]
    assert [chunk["index"] for chunk in lost] == [1, 2, 3, 4, 5]
    assert {chunk["problem"]["code"] for chunk in lost} == {"E_LLM_ENDPOINT"}
    assert len(replies(output)) == 1


def test_redirected_question_is_sent_to_nobody_else(shelf: Shelf, output: Path) -> None:
    with Server() as elsewhere:
        target = {"Location": f"{elsewhere.url}/chat/completions"}
        with Server(script=lambda _: Canned("", 307, target)) as server:
            assert engine.run([shelf.video], shelf.config_for(output, server.url)).exit_code == 1
        assert elsewhere.requests == []


def test_proxy_of_the_environment_is_not_asked_for_a_server_on_this_machine(
    shelf: Shelf, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refusing() as proxy, Server(phrasebook=shelf.book) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.removesuffix("/v1"))
        assert engine.run([shelf.video], shelf.config_for(output, server.url)).exit_code == 0
    assert files(output) == shelf.clean


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://llm.example/v1", "llm.example"])
def test_address_that_is_none_is_said_before_anything_is_done(
    shelf: Shelf, output: Path, url: str
) -> None:
    with pytest.raises(errors.UsageError, match="an address such as"):
        engine.run([shelf.video], shelf.config_for(output, url))
    assert files(output) == files(shelf.config.output)


@pytest.mark.parametrize("place", [refusing, partial(soon, dropping)], ids=["refused", "dropped"])
def test_endpoint_where_nobody_is_costs_a_few_calls_and_every_chunk_its_reason(
    shelf: Shelf, output: Path, place: Place
) -> None:
    with place() as url:
        config = shelf.config_for(output, url, llm_threads=1)
        assert engine.run([shelf.video], config).exit_code == 1
    lost = analysis(output, "moving", "finds")["failed"]
    assert [chunk["problem"]["code"] for chunk in lost] == ["E_LLM_CONNECT"] * CHUNKS
    assert len(attempts(output, "call")) == 3


def test_wait_that_does_not_fit_in_the_call_is_not_begun() -> None:
    """What a run does with it then is its own affair: the chunk may be asked about later."""
    cue = Segment(0, 0, 0.0, 1.0, TEXTS[0], (), 0.0, 0.0, 1.0, 0.0)
    with Server(script="429:500, ...") as server, closing(Client(server.url, None, "m")) as client:
        with pytest.raises(errors.RateError):
            LlmAnalyst(client).call(recipes.load("summary"), Chunk(0, (), (cue,)))
        assert len(server.requests) == 1


def test_server_that_never_gets_ready_is_asked_until_the_call_is_over() -> None:
    """Its deadline falls into an attempt or into a wait, so it has the one reason or the other."""
    cue = Segment(0, 0, 0.0, 1.0, TEXTS[0], (), 0.0, 0.0, 1.0, 0.0)
    over = pytest.raises((errors.StatusError, errors.CallTimeout))
    with Server(script="503-html, ...", latency=0.05) as server:
        client = Client(server.url, None, "m", call_timeout=3.0)
        with closing(client), over:
            LlmAnalyst(client).call(recipes.load("summary"), Chunk(0, (), (cue,)))
        assert 3 < len(server.requests) <= 20


def test_wait_that_a_server_asks_for_is_waited(shelf: Shelf, output: Path) -> None:
    with Server(script="429:2", phrasebook=shelf.book) as server:
        config = shelf.config_for(output, server.url, llm_threads=1)
        assert engine.run([shelf.video], config).exit_code == 0
    assert server.at[1][0] >= 2.0


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_default_times_run_out_on_a_server_that_drips(
    shelf: Shelf, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """300 s for the call, 120 s for an attempt: two whole ones, and what is left for a third."""
    monkeypatch.setattr(retry, "FIRST_WAIT", WAIT)  # the real one again
    script = Sick("drip, ...")
    with Server(script=script, phrasebook=shelf.book) as server:
        report = engine.run([shelf.video], shelf.config_for(output, server.url))
    assert report.exit_code == 1 and report.figures["call_overruns"] == 0
    (lost,) = analysis(output, "moving", "finds")["failed"]
    assert (lost["state"], lost["problem"]["code"]) == (LATE, "E_LLM_TIMEOUT")
    (call,) = [call for call in attempts(output, "call") if call["outcome"] != "done"]
    assert 299.9 < call["ended"] - call["began"] < 301.5  # the outer guard would come at 302
    begun = [server.at[request.number][0] for request in script.requests]
    first, second = (after - before for before, after in pairwise(begun))
    assert 120 <= first < 122 and 120 <= second < 123  # with the wait after each
