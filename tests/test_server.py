"""The loopback server that we ship for tests: real sockets, the same answers every time."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from engine.analysis import recipes
from engine.analysis.prompts import messages
from engine.analysis.recipes import Recipe
from engine.analysis.replies import parse
from engine.records import Chunk, Segment
from engine.testing.server import Canned, Limit, Server

HEADER = "phrase\tkind\tlevel\tdefinition\texample\tliteral\n"
BOOK = "hedge {one's} bets\tverb\tC1\tavoid choosing one thing only\tHe hedged his bets.\t\n"


def cue(number: int, text: str) -> Segment:
    return Segment(number, 0, float(number), number + 1.0, text, (), 0.0, 0.0, 1.0, 0.0)


CHUNK = Chunk(0, (cue(3, "Before."),), (cue(4, "So he hedged"), cue(5, "his bets. Right?")))


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("book")
    (folder / "phrases.tsv").write_text(HEADER + BOOK, encoding="utf-8")
    return folder


def ask(
    server_url: str, recipe: Recipe, chunk: Chunk = CHUNK, key: str = "", timeout: float = 30.0
) -> Any:
    body = json.dumps({"model": "m", "messages": messages(recipe, chunk)}).encode()
    request = urllib.request.Request(f"{server_url}/chat/completions", body)
    request.add_header("Authorization", f"Bearer {key}")
    with urllib.request.urlopen(request, timeout=timeout) as response:
        return json.loads(response.read())


def ask_raw(server_url: str, recipe: Recipe) -> tuple[int, Any, bytes]:
    """Status, headers and body, whatever they are."""
    try:
        body = json.dumps({"model": "m", "messages": messages(recipe, CHUNK)}).encode()
        with urllib.request.urlopen(f"{server_url}/chat/completions", body) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def content(reply: Any) -> str:
    text: str = reply["choices"][0]["message"]["content"]
    return text


def test_expressions_are_answered_by_the_phrasebook_with_cues_and_quote(book: Path) -> None:
    recipe = recipes.load("expressions")
    with Server(phrasebook=book) as server:
        reply = ask(server.url, recipe)
    (item,) = parse(recipe, content(reply)).items
    assert item["phrase"] == "hedge {one's} bets"
    assert (item["cues"], item["quote"]) == ([4, 5], "hedged his bets")
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 100


@pytest.mark.parametrize("name", ["summary", "chapters"])
def test_other_recipes_get_one_item_that_fits_their_schema(name: str) -> None:
    recipe = recipes.load(name)
    with Server() as server:
        text = content(ask(server.url, recipe))
        assert content(ask(server.url, recipe)) == text
    (item,) = parse(recipe, text).items
    assert (item["cues"], item["quote"]) == ([4], "So he hedged")


def test_own_recipe_of_any_field_types_is_answered() -> None:
    recipe = recipes.parse(
        b"""
        name = "all"
        prompt = "anything"
        required = ["a", "b", "c", "d", "e"]
        [fields]
        a = { type = "integer" }
        b = { type = "number" }
        c = { type = "boolean" }
        d = { type = "array", items = { type = "string", enum = ["x", "y"] } }
        e = { type = "string", enum = ["z"] }
        f = { type = "string" }
        """,
        "all.toml",
    )
    with Server() as server:
        (item,) = parse(recipe, content(ask(server.url, recipe))).items
    assert (item["a"], item["b"], item["c"], item["d"], item["e"]) == (1, 1.0, True, ["x"], "z")


def test_requests_are_recorded_with_their_cues() -> None:
    with Server() as server:
        ask(server.url, recipes.load("summary"))
        ask(server.url, recipes.load("chapters"), Chunk(1, (), CHUNK.cues[1:]))
        seen = [(request.number, request.context, request.cues) for request in server.requests]
    assert seen == [(0, (3,), (4, 5)), (1, (), (5,))]


def test_script_by_number_then_answers_as_usual() -> None:
    recipe = recipes.load("summary")
    with Server(script=[500, Canned("{}", 429, {"Retry-After": "2"})]) as server:
        with pytest.raises(urllib.error.HTTPError) as first:
            ask(server.url, recipe)
        with pytest.raises(urllib.error.HTTPError) as second:
            ask(server.url, recipe)
        assert content(ask(server.url, recipe))
    assert (first.value.code, second.value.code) == (500, 429)
    assert second.value.headers["Retry-After"] == "2"
    first.value.close()
    second.value.close()


def test_script_by_chunk() -> None:
    recipe = recipes.load("summary")
    with Server(script=lambda request: 500 if 5 in request.cues else "ok") as server:
        assert content(ask(server.url, recipe, Chunk(0, (), CHUNK.cues[:1])))
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(server.url, recipe)
    caught.value.close()


def test_page_is_no_json() -> None:
    with Server(script=["html"]) as server, pytest.raises(json.JSONDecodeError):
        ask(server.url, recipes.load("summary"))


def test_key_is_asked_for() -> None:
    with Server(api_key="sesame") as server:
        with pytest.raises(urllib.error.HTTPError, match="401") as caught:
            ask(server.url, recipes.load("summary"), key="wrong")
        caught.value.close()
        assert server.requests == []
        assert content(ask(server.url, recipes.load("summary"), key="sesame"))


def test_unknown_path_is_404_and_models_are_listed() -> None:
    with Server(model="mine") as server:
        with urllib.request.urlopen(f"{server.url}/models") as response:
            assert json.loads(response.read())["data"][0]["id"] == "mine"
        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            urllib.request.urlopen(f"{server.url}/nothing")
        caught.value.close()


def test_latency_is_waited_for_and_calls_overlap() -> None:
    with Server(latency=0.5) as server:
        recipe = recipes.load("summary")
        threads = [threading.Thread(target=ask, args=(server.url, recipe)) for _ in range(8)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert time.monotonic() - began >= 0.5
        assert server.most_at_once == 8


def test_lognormal_latency_is_the_same_for_the_same_seed() -> None:
    def waits(seed: int) -> list[float]:
        with Server(latency=(0.2, 0.5), seed=seed) as server:
            return [server._wait() for _ in range(200)]

    assert waits(1) == waits(1) != waits(2)
    assert sorted(waits(1))[100] == pytest.approx(0.2, rel=0.2)


@pytest.mark.parametrize("behaviour", ["hang", "drip"])
def test_close_ends_what_hangs_and_the_thread(behaviour: str) -> None:
    before = threading.active_count()
    server = Server(script=[behaviour])
    ended: list[Exception] = []

    def wait() -> None:
        try:
            ask(server.url, recipes.load("summary"))
        except (OSError, http.client.HTTPException) as error:
            ended.append(error)

    caller = threading.Thread(target=wait)
    caller.start()
    while not server.requests:
        time.sleep(0.01)
    server.close()
    server.close()
    caller.join(10.0)
    assert len(ended) == 1
    assert threading.active_count() == before


def test_what_is_over_the_limits_is_refused_and_told_when_to_come_back() -> None:
    recipe = recipes.load("summary")
    with Server(limits=[Limit(0, rpm=2, tpm=None)], burst=60.0, latency=0.1) as server:
        asked = [ask_raw(server.url, recipe) for _ in range(3)]
    assert [status for status, _, _ in asked] == [200, 200, 429]
    headers, body = asked[2][1:]
    assert 0 < int(headers["Retry-After-Ms"]) <= 1000 * int(headers["Retry-After"]) <= 30_000
    assert json.loads(body)["error"]["code"] == "rate_limit_exceeded"
    left = [headers["x-ratelimit-remaining-requests"] for _, headers, _ in asked]
    assert left == ["1", "0", "0"]
    assert "x-ratelimit-limit-tokens" not in headers
    assert (server.answered, server.refused, len(server.requests)) == (2, 1, 3)


def test_answer_of_a_script_counts_by_its_own_usage() -> None:
    reply = Canned({"choices": [], "usage": {"prompt_tokens": 70, "completion_tokens": 30}})
    limit = Limit(0, None, tpm=100)
    with Server(limits=[limit], burst=60.0, script=[reply], rate_headers=False) as server:
        first = ask_raw(server.url, recipes.load("summary"))
        second = ask_raw(server.url, recipes.load("summary"))
    assert (first[0], second[0]) == (200, 429)
    assert not any(name.startswith("x-ratelimit") for name in first[1])
    assert server.at[0] == (0.0, 200, 100)


def test_stats_are_served() -> None:
    with Server(limits=[Limit(0, rpm=1, tpm=None)], burst=60.0) as server:
        for _ in range(2):
            ask_raw(server.url, recipes.load("summary"))
        with urllib.request.urlopen(f"{server.url}/stats") as response:
            stats = json.loads(response.read())
    assert (stats["answered"], stats["refused"]) == (1, 1)
    (first, first_status, tokens), (_, second_status, _) = stats["at"]
    assert (first, first_status, second_status) == (0, 200, 429)
    assert tokens > 100


def test_close_leaves_nothing_of_connections_that_are_just_being_made() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for turn in range(40):
        server = Server()
        port = int(server.url.rsplit(":", 1)[1].removesuffix("/v1"))
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(turn % 8)]
        server.close()
        for client in clients:
            client.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_port_in_use_is_an_error_at_once() -> None:
    before = threading.active_count()
    with Server() as server:
        port = int(server.url.rsplit(":", 1)[1].removesuffix("/v1"))
        with pytest.raises(OSError, match=str(port)):
            Server(port=port)
    assert threading.active_count() == before


def test_runs_in_a_process_of_its_own() -> None:
    words = ["--latency", "0.01", "--sigma", "0.3", "--script", "503, ok", "--limit", "0:2:-"]
    command = [sys.executable, "-m", "engine.testing.server", *words, "--burst", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        asked = [ask_raw(url, recipes.load("summary")) for _ in range(3)]
        assert [status for status, _, _ in asked] == [503, 200, 429]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
