"""Our client and the whole command against a real model behind a server that we did not write.

The model is so small that what it says means nothing: it finds nothing, never comes to an end,
quotes the prompt. So these tests ask what we make of that: shape, states, grounding.
"""

import http.client
import json
import os
import re
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import real_server
from real_server import KEY, MODEL, RealServer
from shell import analysis, attempts, reelmine_in

from engine import errors
from engine.analysis import grounding, prompts, recipes, replies
from engine.analysis.analysts import LlmAnalyst
from engine.llm.client import Client
from engine.llm.wire import Answer
from engine.records import Chunk, Grounding, Item, Segment

pytestmark = pytest.mark.skipif(
    real_server.missing() is not None, reason=str(real_server.missing())
)

LINES = """\
name = "{name}"
prompt = "Pick lines that show how the speaker feels."
max_tokens = {max_tokens}
min_words = 100
max_words = 150
[fields.mood]
type = "string"
enum = ["glad", "sad", "calm"]
"""
RECIPE = recipes.parse(LINES.format(name="lines", max_tokens=96).encode(), "lines")
BREATHLESS = recipes.parse(LINES.format(name="breathless", max_tokens=4).encode(), "breathless")

PATIENT = {"call_timeout": 240.0, "attempt_timeout": 240.0}  # the machine may be busy
ASKED = [{"role": "user", "content": "List the numbers."}]
YES = {
    "type": "object",
    "properties": {"yes": {"type": "boolean"}},
    "required": ["yes"],
    "additionalProperties": False,
}
ENDLESS = {  # no model can end it in the context it has
    "type": "object",
    "properties": {"n": {"type": "array", "items": {"type": "integer"}, "minItems": 1000}},
    "required": ["n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with RealServer(tmp_path_factory.mktemp("real") / "log") as running:
        yield running


@pytest.fixture(scope="module")
def url(server: RealServer) -> str:
    return server.wait()


Opened = Callable[..., Client]


@pytest.fixture
def opened(url: str) -> Iterator[Opened]:
    """``opened(api_key=...)``: a client of the server, closed at the end."""
    clients: list[Client] = []

    def open_one(api_key: str | None = KEY, model: str = MODEL, **options: Any) -> Client:
        clients.append(Client(url, api_key, model, **{**PATIENT, **options}))
        return clients[-1]

    yield open_one
    for client in clients:
        client.close()


@pytest.fixture(scope="module")
def dialogue(samples: Path) -> list[str]:
    """Lines that people say, in order."""
    files = json.loads((samples / "references.json").read_text("utf-8"))["files"]
    return [cue["text"] for file in files for cue in file["tracks"][0]["cues"]]


def chunk_of(lines: list[str], index: int = 0) -> Chunk:
    """A chunk with its longest pause in the middle."""
    late = len(lines) // 2
    cues = [
        Segment(n, 0, start, start + 4.0, f" {line}", (), 0.0, 0.0, 1.0, 0.0)
        for n, line in enumerate(lines)
        for start in [n * 5.0 + 3.0 * (n >= late)]
    ]
    return Chunk(index, (), tuple(cues))


def eventually(server: RealServer, pattern: str, count: int, since: int) -> list[str]:
    """What the log says so, once it has said it so often; it is written by a thread of its own."""
    deadline = time.monotonic() + 60
    while len(said := server.said(pattern, since)) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    return said


# Four calls at once, which must name two items each


@dataclass
class Four:
    """Four chunks, what was answered about them, and the slots that did it."""

    chunks: list[Chunk]
    answers: list[Answer]
    slots: set[str]

    def items(self) -> Iterator[tuple[Chunk, Item]]:
        """Every item with the chunk it is about."""
        for chunk, answer in zip(self.chunks, self.answers, strict=True):
            raw = replies.parse(RECIPE, answer.text).items
            yield from ((chunk, item) for item in grounding.ground(RECIPE, raw, chunk))


def two_items() -> dict[str, Any]:
    """The schema of the recipe, with lengths, so that even this model comes to an end."""
    schema = replies.schema(RECIPE)
    item = schema["properties"]["items"]["items"]
    fields = {
        **item["properties"],
        "cues": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
        "quote": {"type": "string", "minLength": 10, "maxLength": 50},
    }
    two = {"type": "array", "items": {**item, "properties": fields}, "minItems": 2, "maxItems": 2}
    return {**schema, "properties": {"items": two}}


@pytest.fixture(scope="module")
def four(server: RealServer, url: str, dialogue: list[str]) -> Four:
    chunks = [chunk_of(dialogue[6 * n : 6 * n + 6], n) for n in range(4)]
    since, client = server.quiet(), Client(url, KEY, MODEL, **PATIENT)

    def ask(chunk: Chunk) -> Answer:
        return client.chat(prompts.messages(RECIPE, chunk), two_items(), 400)

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(ask, chunks))
    client.close()
    return Four(chunks, answers, set(eventually(server, real_server.STARTED, 4, since)))


def test_four_calls_at_once_on_two_slots_are_all_answered(four: Four) -> None:
    assert [answer.attempts for answer in four.answers] == [1] * 4
    assert len(four.slots) == real_server.SLOTS


def test_answers_follow_the_schema(four: Four) -> None:
    for answer in four.answers:
        assert not answer.cut
        parsed = replies.parse(RECIPE, answer.text)
        assert (len(parsed.items), parsed.dropped) == (2, 0)


def test_usage_is_what_the_server_counted(four: Four) -> None:
    for chunk, answer in zip(four.chunks, four.answers, strict=True):
        words = sum(len(cue.text.split()) for cue in chunk.cues)
        assert (answer.prompt_tokens or 0) > 300 + words
        assert 20 < (answer.completion_tokens or 0) <= 400


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower().replace("’", "").replace("'", ""))


def said_in(chunk: Chunk, cues: tuple[int, ...]) -> list[str]:
    return [word for cue in chunk.cues if cue.id in cues for word in words_of(cue.text)]


def stands_in(quote: list[str], said: list[str]) -> bool:
    return any(said[n : n + len(quote)] == quote for n in range(len(said) - len(quote) + 1))


def test_only_what_was_said_is_grounded(four: Four) -> None:
    for chunk, item in four.items():
        quote, everything = words_of(item.quote), tuple(cue.id for cue in chunk.cues)
        if item.grounding is Grounding.UNGROUNDED:
            assert (item.start, item.end) == (None, None)
            assert not quote or not stands_in(quote, said_in(chunk, everything))
            continue
        said = said_in(chunk, item.cues)
        assert chunk.cues[0].start <= item.start < item.end <= chunk.cues[-1].end
        if item.grounding is Grounding.EXACT:
            assert stands_in(quote, said)
        else:
            shared = sum((Counter(quote) & Counter(said)).values())
            assert shared >= 0.8 * len(quote)


# One call


def test_answer_that_stays_cut_off_is_truncated(
    server: RealServer, opened: Opened, dialogue: list[str]
) -> None:
    since = server.quiet()
    with pytest.raises(errors.TruncatedError):
        LlmAnalyst(opened()).call(BREATHLESS, chunk_of(dialogue[:6]))
    assert eventually(server, real_server.GENERATED, 2, since) == ["4", "8"]


def test_answer_that_fills_the_context_is_marked_as_cut(opened: Opened) -> None:
    answer = opened().chat([{"role": "user", "content": "Count on. " * 200}], ENDLESS, 10_000)
    assert answer.cut
    assert (answer.prompt_tokens or 0) + (answer.completion_tokens or 0) >= real_server.CONTEXT


def test_chunk_too_long_for_the_context_is_asked_about_in_halves(
    server: RealServer, opened: Opened, dialogue: list[str]
) -> None:
    since, chunk = server.quiet(), chunk_of(dialogue[:28])
    try:
        reply = LlmAnalyst(opened()).call(RECIPE, chunk)
    except (errors.TruncatedError, errors.SchemaError):
        started = 2  # at least: the half without a usable answer was asked about twice
    else:
        assert reply.attempts >= 2
        started = reply.attempts
    assert len(eventually(server, real_server.GENERATED, started, since)) >= started
    assert len(server.said(real_server.TOO_LONG, since)) == 1


@pytest.mark.parametrize(("lines", "refusals"), [(1, 1), (2, 2)])
def test_chunk_that_is_too_long_even_in_halves_is_an_error(
    server: RealServer, opened: Opened, lines: int, refusals: int
) -> None:
    since, chunk = server.quiet(), chunk_of(["Over and over again. " * 200] * lines)
    with pytest.raises(errors.ContextError, match="exceeds the available context size"):
        LlmAnalyst(opened()).call(RECIPE, chunk)
    assert len(eventually(server, real_server.TOO_LONG, refusals, since)) == refusals


@pytest.mark.parametrize(("key", "remedy"), [("wrong", "check"), (None, "set")])
def test_wrong_key_is_an_endpoint_of_no_use(opened: Opened, key: str | None, remedy: str) -> None:
    with pytest.raises(errors.EndpointError, match=rf"answered 401: .*\({remedy} OPENAI_API_KEY\)"):
        opened(key).chat(ASKED, YES, 16)


def test_wrong_model_name_is_answered_by_the_loaded_model(opened: Opened) -> None:
    """As this server has it, so a wrong --llm-model goes unnoticed; the list has the right one."""
    client = opened(model="none-of-that-name")
    assert json.loads(client.chat(ASKED, YES, 32).text).keys() == {"yes"}
    assert client.models() == [MODEL]


def test_schema_that_the_server_cannot_use_is_left_out(server: RealServer, opened: Opened) -> None:
    since, client = server.quiet(), opened()
    for _ in range(2):
        assert client.chat(ASKED, {"type": "a riddle"}, 8).completion_tokens == 8
    assert len(eventually(server, real_server.STARTED, 2, since)) == 2
    assert len(server.said(real_server.BAD_SCHEMA, since)) == 1


def test_call_that_times_out_is_cancelled_at_the_server(server: RealServer, opened: Opened) -> None:
    since = server.quiet()
    with pytest.raises(errors.CallTimeout):
        opened(call_timeout=1.0).chat(ASKED, ENDLESS, 10_000)
    assert len(eventually(server, real_server.CANCELLED, 1, since)) == 1
    assert server.said(real_server.GENERATED, since) == []


# A server that is not up yet


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def health(port: int) -> int | None:
    """The status of the server's /health; None: nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


def connected(port: int) -> bool:
    """Whether a connection of this process to that port is open."""
    ours = psutil.Process(os.getpid()).net_connections("tcp")
    return any(c.raddr and c.raddr.port == port and c.status == "ESTABLISHED" for c in ours)


def test_server_that_is_still_loading_is_asked_again_until_it_is_up(tmp_path: Path) -> None:
    port = free_port()
    client = Client(f"http://127.0.0.1:{port}/v1", KEY, MODEL, **PATIENT)
    with RealServer(tmp_path / "log", port) as server, ThreadPoolExecutor(1) as thread:
        while (status := health(port)) is None:
            time.sleep(0.001)
        server.hold()
        call = thread.submit(client.chat, ASKED, YES, 32)
        while not connected(port):
            time.sleep(0.01)
        server.resume()
        answer = call.result()
    client.close()
    assert status == 503
    assert answer.attempts > 1
    assert json.loads(answer.text).keys() == {"yes"}


# The whole command

VIDEOS = ("moving_house.wav", "wedding_day.mkv")
UNUSABLE = {"E_LLM_TRUNCATED", "E_LLM_NOT_JSON", "E_LLM_SCHEMA", "E_LLM_EMPTY"}

Asked = Counter[tuple[str, str]]  # by video and recipe


@dataclass
class Run:
    """What is known of one run, from the command, from what it left, and from the server's log."""

    done: subprocess.CompletedProcess[str]
    analyses: dict[tuple[str, str], dict[str, Any]]  # by video and recipe
    calls: Asked
    decoded: int  # batches
    started: int  # calls that the server began

    @property
    def failed(self) -> Asked:
        """Chunks without an analysis."""
        return +Counter({key: len(found["failed"]) for key, found in self.analyses.items()})


@pytest.fixture(scope="module")
def runs(
    server: RealServer, url: str, tmp_path_factory: pytest.TempPathFactory, samples: Path
) -> tuple[Run, Run]:
    """The same command twice, with a recipe that the model can answer and one that it cannot."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "lines.toml").write_text(LINES.format(name="lines", max_tokens=96))
    (folder / "breathless.toml").write_text(LINES.format(name="breathless", max_tokens=4))
    words = (
        *("run", *(samples / name for name in VIDEOS), "-o", "out", "--device", "cpu"),
        *("--model", "tiny.en", "--recipe", "lines.toml,breathless.toml"),
        *("--llm-model", MODEL, "--llm-base-url", url, "--llm-threads", real_server.SLOTS),
    )

    def run() -> Run:
        since = server.quiet()
        done = reelmine_in(folder)(*words, env={"OPENAI_API_KEY": KEY}, timeout=400)
        out = folder / "out"
        shown = [(Path(name).stem, recipe) for name in VIDEOS for recipe in ("lines", "breathless")]
        return Run(
            done,
            {key: analysis(out, *key) for key in shown},
            Counter((call["video"], call["place"]) for call in attempts(out, "call")),
            len(attempts(out, "batch")),
            len(server.said(real_server.STARTED, since)),
        )

    return run(), run()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_run_whose_answers_are_cut_off_says_so_and_keeps_the_rest(runs: tuple[Run, Run]) -> None:
    first, _ = runs
    assert first.done.returncode == 1, first.done.stdout + first.done.stderr
    assert "raise max_tokens in the recipe" in first.done.stdout
    for (_, recipe), found in first.analyses.items():
        failed = found["failed"]
        assert found["state"] == ("failed" if failed else "done")
        assert {chunk["problem"]["code"] for chunk in failed} <= UNUSABLE
        assert all(item["grounding"] != "ungrounded" for item in found["items"])
        assert all(item["start"] is None for item in found["ungrounded"])
        if recipe == "breathless":
            assert len(failed) == found["chunks"] > 0
    asked = {key: found["chunks"] for key, found in first.analyses.items()}
    assert first.calls == asked
    assert first.started >= sum(asked.values()) + sum(first.failed.values())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_second_run_asks_only_about_what_is_missing(runs: tuple[Run, Run]) -> None:
    first, second = runs
    assert second.done.returncode == 1, second.done.stdout + second.done.stderr
    assert second.calls == first.failed
    assert (first.decoded > 0, second.decoded) == (True, 0)
    assert second.started >= sum(second.calls.values())
    assert second.failed <= first.failed
