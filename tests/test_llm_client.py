"""The client over real sockets: each thing a server does ends in its own error, on time."""

import gc
import logging
import os
import secrets
import socket
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from engine import errors
from engine.config import Config
from engine.llm import network, retry
from engine.llm.budget import Budget
from engine.llm.client import CONNECT_ATTEMPTS, SERVER_ATTEMPTS, Client, open_client
from engine.llm.endpoint import find_endpoint, host_of, is_loopback, read_key
from engine.llm.exchanges import Allowance, Exchange, Sent
from engine.llm.pace import Pace
from engine.llm.wire import Answer, Style, adapt, read_reply, scrub
from engine.records import Spent
from engine.testing.faults import mute
from engine.testing.server import Canned, Request, Script, Server

ASKED = [{"role": "user", "content": "?"}]
SCHEMA = {"type": "object"}


def completion(content: Any, reason: str = "stop", **message: Any) -> Canned:
    choice = {"message": {"content": content, **message}, "finish_reason": reason}
    return Canned({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})


def refusal(message: str, code: str | None = None, status: int = 400) -> Canned:
    return Canned({"error": {"message": message, "type": "invalid_request", "code": code}}, status)


FINE = completion("fine")


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.01)


@pytest.fixture
def chat() -> Iterator[Callable[..., Answer]]:
    """Ask a server that follows a script; `chat.server` is that server afterwards."""
    opened: list[Any] = []

    def ask(script: Script, **options: Any) -> Answer:
        server = Server(script=script)
        client = Client(server.url, None, "m", **{"call_timeout": 30.0, **options})
        opened[:] = [*opened, client, server]
        ask.server = server  # type: ignore[attr-defined]
        return client.chat(ASKED, SCHEMA, 64)

    yield ask
    for thing in opened:
        thing.close()


def asked(chat: Callable[..., Answer]) -> list[Request]:
    requests: list[Request] = chat.server.requests  # type: ignore[attr-defined]
    return requests


def test_answer_comes_with_its_usage(chat: Callable[..., Answer]) -> None:
    assert chat([FINE]) == Answer("fine", False, 1, 7, 3)
    body = asked(chat)[0].body
    assert (body["model"], body["messages"], body["temperature"]) == ("m", ASKED, 0)
    assert (body["max_tokens"], "stream" in body) == (64, False)
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA


def test_usage_that_is_not_counted_is_unknown(chat: Callable[..., Answer]) -> None:
    body = {"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": "many"}}
    assert chat([Canned(body)]) == Answer("x", False, 1, None, None)


def test_json_under_another_content_type_is_accepted(chat: Callable[..., Answer]) -> None:
    headers = {"Content-Type": "text/plain"}
    assert chat([Canned(FINE.body, headers=headers)]).text == "fine"


def test_answer_at_the_token_limit_is_marked_as_cut(chat: Callable[..., Answer]) -> None:
    assert chat([completion('{"items": [', "length")]).cut
    assert chat([completion(None, "length")]) == Answer("", True, 1, 7, 3)


@pytest.mark.parametrize(
    "first",
    [
        500,
        502,
        408,
        409,
        503,
        Canned("<html>no</html>", 503, {"Content-Type": "text/html"}),
        429,
        Canned({}, 429, {"Retry-After": "0.05"}),
        Canned({}, 429, {"Retry-After": "-5"}),
        "html",
        Canned("{}"),
        Canned("null"),
        Canned("[]"),
        Canned('{"choices": ['),
        Canned('{"choices": []}'),
        Canned('{"choices": [null]}'),
        Canned('{"choices": {"0": 1}}'),
        Canned({"error": {"message": "overloaded"}}),
        Canned(FINE.body, headers={"Content-Length": "999", "Connection": "close"}),
        completion(None),
        completion("  "),
        completion(["text"]),
    ],
)
def test_passing_trouble_is_asked_again(chat: Callable[..., Answer], first: Any) -> None:
    # a body that is shorter than announced ends by the attempt's own timeout
    answer = chat([first, FINE], attempt_timeout=1.0)
    assert (answer.text, answer.attempts) == ("fine", 2)


@pytest.mark.parametrize(
    ("always", "error", "attempts"),
    [
        (500, errors.StatusError, SERVER_ATTEMPTS),
        (401, errors.EndpointError, 1),
        (403, errors.EndpointError, 1),
        (404, errors.EndpointError, 1),
        (400, errors.StatusError, 3),  # as a schema, as an object, as plain text
        (422, errors.StatusError, 3),
        (418, errors.StatusError, 1),
        ("html", errors.NotJsonError, 2),
        (Canned("{}"), errors.SchemaError, 2),
        (Canned("null"), errors.SchemaError, 2),
        (Canned({"error": {"message": "no"}}), errors.SchemaError, 2),
        (Canned({"choices": []}), errors.EmptyReplyError, 2),
        (completion(None), errors.EmptyReplyError, 2),
        (completion(None, refusal="I will not"), errors.RefusedError, 1),
        (completion(None, "content_filter"), errors.RefusedError, 1),
        (Canned("", 307, {"Location": "http://elsewhere.test/"}), errors.RedirectError, 1),
        (Canned({}, 429, {"Retry-After": "500"}), errors.RateError, 1),
        (Canned({}, 503, {"Retry-After": "500"}), errors.StatusError, 1),
        (Canned("[" * 100_000), errors.NotJsonError, 2),
        (Canned("x" * 9_000_000), errors.OversizeError, 1),
        (refusal("maximum context length is 4096 tokens"), errors.ContextError, 1),
        (refusal("x", "context_length_exceeded"), errors.ContextError, 1),
    ],
)
def test_lasting_trouble_ends_in_its_own_error(
    chat: Callable[..., Answer], always: Any, error: type[errors.CallError], attempts: int
) -> None:
    with pytest.raises(error) as caught:
        chat(lambda _: always)
    assert type(caught.value) is error
    assert len(asked(chat)) == attempts
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_context_error_of_a_local_server_is_known_by_its_type(chat: Callable[..., Answer]) -> None:
    told = {"code": 400, "message": "request (20031 tokens) exceeds", "n_ctx": 4096}
    body = {"error": {**told, "type": "exceed_context_size_error"}}
    with pytest.raises(errors.ContextError):
        chat([Canned(body, 400)])


@pytest.mark.parametrize("behaviour", ["hang", "drip", "flood", "reset", "null", 500, 404])
def test_failed_call_leaves_nothing_to_the_garbage_collector(behaviour: Any) -> None:
    """Cycles make it look at all objects of the process, and no other call ends meanwhile."""
    with (
        Server(script=lambda _: behaviour) as server,
        closing(Client(server.url, None, "m", call_timeout=0.5)) as client,
    ):
        gc.disable()
        try:
            client.chat(ASKED, SCHEMA, 64)
        except errors.CallError as error:
            left = [weakref.ref(cause) for cause in contexts(error)]
        finally:
            gc.enable()
        assert len(left) >= 2
        assert not [cause for reference in left if (cause := reference()) is not None]


def contexts(error: BaseException | None) -> Iterator[BaseException]:
    """It and what it came of, but for Python's own errors: those cannot be referred to weakly."""
    while error is not None:
        if not type(error).__module__.startswith("builtins"):
            yield error
        error = error.__context__


@pytest.mark.parametrize("behaviour", ["hang", "drip"])
def test_call_ends_at_its_deadline(chat: Callable[..., Answer], behaviour: str) -> None:
    began = time.monotonic()
    with pytest.raises(errors.CallTimeout, match="did not answer in time"):
        chat(lambda _: behaviour, call_timeout=0.5)
    assert 0.49 <= time.monotonic() - began < 5.0


def test_slow_attempt_is_given_up_and_tried_again(chat: Callable[..., Answer]) -> None:
    answer = chat(["hang", FINE], attempt_timeout=0.3)
    assert (answer.text, answer.attempts) == ("fine", 2)


def test_refused_connection_is_tried_a_few_times_and_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
    attempts: list[Any] = []
    real = socket.create_connection
    monkeypatch.setattr(
        socket, "create_connection", lambda *a, **k: (attempts.append(a), real(*a, **k))[1]
    )
    client = Client(f"http://{host}/v1", None, "m", call_timeout=30.0)
    with pytest.raises(errors.UnreachableError, match=rf"{host} .* refused"):
        client.chat(ASKED, SCHEMA, 64)
    assert len(attempts) == CONNECT_ATTEMPTS
    client.close()


def test_server_that_comes_up_late_is_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = Client(f"http://127.0.0.1:{port}/v1", None, "m", call_timeout=30.0)
    answers: list[Answer] = []
    retry_first = retry.FIRST_WAIT
    retry.FIRST_WAIT = 1.0
    thread = threading.Thread(target=lambda: answers.append(client.chat(ASKED, SCHEMA, 64)))
    thread.start()
    time.sleep(0.2)
    with Server(port=port, script=[FINE]):
        thread.join(20.0)
    retry.FIRST_WAIT = retry_first
    assert [answer.text for answer in answers] == ["fine"]
    client.close()


def test_what_a_server_refuses_is_asked_otherwise_and_remembered() -> None:
    def picky(request: Request) -> Canned:
        body = request.body
        if body.get("response_format", {}).get("type") == "json_schema":
            return refusal("response_format type must be one of text or json_object")
        if "response_format" in body:
            return refusal("'json_object' is not supported", status=422)
        if "max_tokens" in body:
            return refusal("Unsupported parameter: use 'max_completion_tokens' instead")
        if "temperature" in body:
            return refusal("temperature does not support 0 with this model")
        return FINE

    with Server(script=picky) as server:
        client = Client(server.url, None, "m")
        assert client.chat(ASKED, SCHEMA, 64).text == "fine"
        assert len(server.requests) == 5
        assert client.chat(ASKED, SCHEMA, 64).text == "fine"
        assert len(server.requests) == 6
        assert server.requests[-1].body["max_completion_tokens"] == 64
        client.close()


def formats(server: Server) -> list[str | None]:
    return [r.body.get("response_format", {}).get("type") for r in server.requests]


@pytest.mark.parametrize("known", ["json_object", None])
@pytest.mark.parametrize("status", [400, 422])
def test_refusal_that_says_nothing_is_tried_with_simpler_formats(
    known: str | None, status: int
) -> None:
    def terse(request: Request) -> Canned:
        wanted = request.body.get("response_format", {}).get("type")
        return FINE if wanted in (known, None) else refusal("Bad Request", status=status)

    with Server(script=terse) as server:
        client = Client(server.url, None, "m")
        for _ in range(2):
            assert client.chat(ASKED, SCHEMA, 64).text == "fine"
        client.close()
        tried = ["json_schema", "json_object", None]
        assert formats(server) == [*tried[: tried.index(known) + 1], known]


def test_refusal_in_every_format_ends_as_said_first_and_later_ones_cost_no_guess() -> None:
    told = [refusal(f"No {number}.") for number in range(4)]
    with Server(script=[*told, FINE]) as server:
        client = Client(server.url, None, "m")
        with pytest.raises(errors.StatusError, match=r"answered 400: No 0\."):
            client.chat(ASKED, SCHEMA, 64)
        with pytest.raises(errors.StatusError, match=r"answered 400: No 3\."):
            client.chat(ASKED, SCHEMA, 64)
        assert client.chat(ASKED, SCHEMA, 64).text == "fine"
        client.close()
        tried = ["json_schema", "json_object", None]
        assert formats(server) == [*tried, "json_schema", "json_schema"]


def test_prompt_that_is_too_long_in_a_simpler_format_is_too_long() -> None:
    long = refusal("This is too much.", "context_length_exceeded")
    with Server(script=[refusal("Bad Request"), long, FINE]) as server:
        client = Client(server.url, None, "m")
        with pytest.raises(errors.ContextError, match="too much"):
            client.chat(ASKED, SCHEMA, 64)
        assert client.chat(ASKED, SCHEMA, 64).text == "fine"
        client.close()
        assert formats(server) == ["json_schema", "json_object", "json_schema"]


def test_other_words_learned_while_guessing_are_kept_with_the_guess() -> None:
    script = [refusal("Bad Request"), refusal("use max_completion_tokens"), FINE, FINE]
    with Server(script=script) as server:
        client = Client(server.url, None, "m")
        for _ in range(2):
            client.chat(ASKED, SCHEMA, 64)
        client.close()
        assert formats(server) == ["json_schema", "json_object", "json_object", "json_object"]
        assert "max_completion_tokens" in server.requests[-1].body


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refusal_of_the_endpoint_is_not_tried_otherwise(status: int) -> None:
    with Server(script=[status, FINE]) as server:
        client = Client(server.url, None, "m")
        with pytest.raises(errors.EndpointError):
            client.chat(ASKED, SCHEMA, 64)
        client.close()
        assert formats(server) == ["json_schema"]


def test_threads_that_learn_at_the_same_time_learn_the_same() -> None:
    def no_schema(request: Request) -> Canned:
        wanted = request.body.get("response_format", {}).get("type")
        return refusal("json_schema is not supported") if wanted == "json_schema" else FINE

    with Server(script=no_schema, latency=0.1) as server:
        client = Client(server.url, None, "m")
        threads = [threading.Thread(target=client.chat, args=(ASKED, SCHEMA, 64)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        client.chat(ASKED, SCHEMA, 64)
        assert formats(server) == ["json_schema"] * 8 + ["json_object"] * 9
        client.close()


def test_refusal_about_something_else_is_not_taken_for_one_about_how_we_ask() -> None:
    assert adapt(Style(), "messages must not be empty", "invalid", "messages") is None
    assert adapt(Style(format="text"), "response_format", "", "") is None
    assert adapt(Style(), "context length exceeded by response_format", "", "") is None
    assert adapt(Style(), "JSON schema error at #: unrecognized type", "", "") == Style(
        "json_object"
    )


@pytest.mark.parametrize("behaviour", ["hang", "drip", Canned({}, 429, {"Retry-After": "20"})])
def test_stop_ends_a_call_under_way(behaviour: Any) -> None:
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with Server(script=lambda _: behaviour) as server:
        client = Client(server.url, None, "m", call_timeout=120.0)
        ended: list[BaseException] = []

        def call() -> None:
            try:
                client.chat(ASKED, SCHEMA, 64)
            except errors.CallError as error:
                ended.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        while not server.requests:
            time.sleep(0.01)
        time.sleep(0.1)
        client.close()
        thread.join(10.0)
        assert [type(error) for error in ended] == [errors.CallStopped]
        with pytest.raises(errors.CallStopped):
            client.chat(ASKED, SCHEMA, 64)
        client.close()
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before


def test_models_of_the_endpoint_are_listed() -> None:
    with Server(model="mine", api_key="k") as server:
        client = Client(server.url, "k", "mine")
        assert client.models() == ["mine"]
        client.close()
        wrong = Client(server.url, "other", "mine")
        with pytest.raises(errors.EndpointError, match="check OPENAI_API_KEY"):
            wrong.models()
        wrong.close()


# what it spends


def spent_on(script: Script, **options: Any) -> tuple[Spent, list[Request], Exception | None]:
    """What one question takes, the requests, and how it ended."""
    budget, ended = Budget("m", max_tokens=options.pop("max_tokens", None)), None
    with Server(script=script) as server:
        options = {"call_timeout": 30.0, "attempt_timeout": 10.0, **options}
        client = Client(server.url, None, "m", budget=budget, **options)
        try:
            client.chat(ASKED, SCHEMA, 64)
        except errors.CallError as error:
            ended = error
        client.close()
        return budget.own, server.requests, ended


COUNTED = Spent(1, 7, 3, 0)


@pytest.mark.parametrize("refused", [429, 500, 503, 400, 401, Canned("", 307)])
def test_refused_exchange_costs_nothing(refused: Any) -> None:
    spent, requests, ended = spent_on(lambda _: refused, call_timeout=0.5)
    assert requests and ended is not None
    assert spent == Spent()


def test_answer_is_spent_as_the_server_counts_it_and_refusals_before_it_are_free() -> None:
    assert spent_on([500, 429, refusal("json_schema is not supported"), FINE])[0] == COUNTED


def test_unusable_answer_is_paid_for_as_well() -> None:
    empty = completion(None)
    assert spent_on([empty, FINE])[0] == Spent(2, 14, 6, 0)
    assert spent_on([completion(None, refusal="no")])[0] == COUNTED


@pytest.mark.parametrize(
    "answer", ["html", "null", "truncated", "reset", "short", "hang", "drip-headers", "504", "524"]
)
def test_exchange_that_may_be_charged_is_spent_at_its_most(answer: Any) -> None:
    spent, _, ended = spent_on([answer, FINE], attempt_timeout=0.5)
    assert ended is None
    assert (spent.exchanges, spent.uncounted) == (2, 1)
    assert spent.completion_tokens == 64 + 3
    assert 7 < spent.prompt_tokens < 300


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": -7, "completion_tokens": 3},
        {"prompt_tokens": 10**30, "completion_tokens": 3},
        {"prompt_tokens": True, "completion_tokens": 3},
    ],
)
def test_usage_that_is_none_is_not_believed(usage: Any) -> None:
    body = {"choices": [{"message": {"content": "x"}}], "usage": usage}
    spent, _, _ = spent_on([Canned(body)])
    assert (spent.exchanges, spent.uncounted, spent.completion_tokens) == (1, 1, 64)


def test_connection_that_was_refused_costs_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    budget = Budget("m", max_tokens=1_000)
    client = Client(f"http://127.0.0.1:{port}/v1", None, "m", budget=budget)
    with pytest.raises(errors.UnreachableError):
        client.chat(ASKED, SCHEMA, 64)
    assert budget.own == Spent()
    client.close()


def test_stopped_call_is_spent_at_its_most() -> None:
    with Server(script=lambda _: "hang") as server:
        budget = Budget("m")
        client = Client(server.url, None, "m", budget=budget)
        thread = threading.Thread(target=_chat_until_stopped, args=(client,))
        thread.start()
        while not server.requests:
            time.sleep(0.01)
        client.close()
        thread.join(10.0)
        assert (budget.own.exchanges, budget.own.uncounted) == (1, 1)


def test_stop_ends_a_call_that_waits_for_what_another_may_leave() -> None:
    with Server(script=lambda _: "hang") as server:
        client = Client(server.url, None, "m", budget=Budget("m", max_tokens=200))
        ended: list[BaseException] = []

        def call() -> None:
            try:
                client.chat(ASKED, SCHEMA, 64)
            except errors.CallError as error:
                ended.append(error)

        threads = [threading.Thread(target=call) for _ in range(2)]
        for thread in threads:
            thread.start()
        while not server.requests:
            time.sleep(0.01)
        client.close()
        for thread in threads:
            thread.join(10.0)
        assert [type(error) for error in ended] == [errors.CallStopped] * 2
        assert len(server.requests) == 1


def _chat_until_stopped(client: Client) -> None:
    with pytest.raises(errors.CallStopped):
        client.chat(ASKED, SCHEMA, 64)


def test_exchange_that_does_not_fit_is_not_sent_not_even_a_second_attempt() -> None:
    spent, requests, ended = spent_on([FINE], max_tokens=63)
    assert isinstance(ended, errors.BudgetError)
    assert (spent, requests) == (Spent(), [])
    dear = Canned({"choices": [], "usage": {"prompt_tokens": 150, "completion_tokens": 0}})
    assert len(spent_on([dear, FINE], max_tokens=500)[1]) == 2
    spent, requests, ended = spent_on([dear, FINE], max_tokens=290)
    assert isinstance(ended, errors.BudgetError)
    assert (spent, len(requests)) == (Spent(1, 150, 0), 1)


# the key


def test_key_is_in_no_error_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    key = f"sk-proj-{secrets.token_hex(16)}"
    part = key[:12]
    caplog.set_level(logging.DEBUG)

    def echo(request: Request) -> Canned:
        told = f"Incorrect API key provided: {key} ({part}****). Bearer {key}"
        return refusal(told, status=[401, 400, 500, 429][request.number % 4])

    for number in range(4):
        with Server(script=lambda r, n=number: echo(Request(n, r.body, (), ()))) as server:
            client = Client(server.url, key, "m", call_timeout=1.0)
            with pytest.raises(errors.CallError) as caught:
                client.chat(ASKED, SCHEMA, 64)
            shown = "".join(traceback.format_exception(caught.value))
            logging.getLogger("engine").info("failed", exc_info=caught.value)
            assert part not in shown + repr(client) + repr(caught.value)
            client.close()
    assert "failed" in caplog.text
    assert part not in caplog.text


def test_what_looks_like_a_key_is_taken_out_of_a_servers_words() -> None:
    assert scrub("key sk-abc*****wxyz, Bearer abc.def") == "key [key], [key]"
    assert scrub("a risk-averse task-force") == "a risk-averse task-force"
    assert scrub("mine is secret", "secret") == "mine is [key]"
    assert scrub("a\nb\t c " + "x" * 9_999).startswith("a b c xxx")
    assert len(scrub("x" * 9_999)) == 300


def test_part_of_our_key_is_taken_out_of_a_servers_words() -> None:
    key = "0123456789abcdefghijklmnop"
    assert scrub(f"not {key[3:15]}****{key[-4:]}, or {key[:11]}", key) == "not [key] or 0123456789a"


def test_key_is_in_no_answer_either() -> None:
    key = secrets.token_hex(16)
    assert read_reply(completion(f"<{key}>").body, key).text == "<[key]>"
    # what guards nothing may be a word of the transcript
    assert read_reply(completion("ollama").body, "ollama").text == "ollama"


def test_key_comes_from_the_environment_or_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-file\n", encoding="utf-8")
    assert read_key({"OPENAI_API_KEY": " given "}) == "given"
    assert read_key({"OPENAI_API_KEY_FILE": str(file)}) == "from-file"
    assert read_key({"OPENAI_API_KEY": "given", "OPENAI_API_KEY_FILE": str(file)}) == "given"
    assert read_key({"OPENAI_API_KEY": ""}) is None
    with pytest.raises(errors.UsageError, match="cannot be read"):
        read_key({"OPENAI_API_KEY_FILE": str(tmp_path / "none")})


# which endpoint


def test_without_a_model_nothing_leaves_this_machine() -> None:
    assert (
        find_endpoint(Config(), {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://x/v1"}) is None
    )


@pytest.mark.parametrize(
    ("config", "env", "host"),
    [
        (Config(llm_model="m"), {"OPENAI_API_KEY": "k"}, "api.openai.com"),
        (Config(llm_model="m"), {"OPENAI_BASE_URL": "http://localhost:1/v1"}, "localhost:1"),
        (
            Config(llm_model="m", llm_base_url="http://[::1]:8080/v1"),
            {"OPENAI_BASE_URL": "http://other/v1"},
            "[::1]:8080",
        ),
        (
            Config(llm_model="m", llm_base_url="https://llm.example/v1"),
            {"OPENAI_API_KEY": "k"},
            "llm.example",
        ),
    ],
)
def test_endpoint_is_the_option_then_the_environment_then_openai(
    config: Config, env: dict[str, str], host: str
) -> None:
    endpoint = find_endpoint(config, env)
    assert endpoint is not None
    assert endpoint.host == host
    assert "'k'" not in repr(endpoint)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(llm_base_url="http://localhost/v1"), "--llm-model"),
        (Config(llm_model="m"), "OPENAI_API_KEY"),
        (Config(llm_model="m", llm_base_url="https://llm.example/v1"), "needs a key"),
        (Config(llm_model="m", llm_base_url="file:///etc/passwd"), "http://"),
        (Config(llm_model="m", llm_base_url="localhost:8080"), "http://"),
        (Config(llm_model="m", llm_base_url="http://"), "http://"),
        (Config(llm_model="m", llm_base_url="http://x:port/"), "http://"),
    ],
)
def test_half_an_endpoint_is_a_usage_error(config: Config, message: str) -> None:
    with pytest.raises(errors.UsageError, match=message):
        find_endpoint(config, {})


def test_loopback_needs_no_key_and_its_client_asks_with_the_given_times() -> None:
    with Server(script=[FINE]) as server:
        config = Config(llm_model="m", llm_base_url=server.url, call_timeout=9.0)
        endpoint = find_endpoint(config, {})
        assert endpoint is not None
        client = open_client(endpoint, config)
        assert client.call_timeout == 9.0
        assert client.chat(ASKED, SCHEMA, 64).text == "fine"
        client.close()


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("llm.localhost", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("notlocalhost", False),
        ("", False),
    ],
)
def test_loopback_is_known_by_name_and_address(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


def test_user_and_password_in_a_url_are_not_part_of_the_host() -> None:
    assert host_of("https://user:secret@llm.example:8443/v1") == "llm.example:8443"


def test_every_exchange_is_told_when_it_begins_and_when_it_ends() -> None:
    """One call: an error, a form that the server does not know, a good answer; then a timeout."""
    told: list[Sent | Exchange] = []
    quota = {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "599",
        "retry-after": "0",
    }
    script: Script = [
        Canned("", 500, quota),
        refusal("Unknown response_format json_schema"),
        FINE,
        "hang",
    ]
    with Server(script=script) as server:
        client = Client(server.url, None, "m", call_timeout=30.0)
        client.listen(told.append)
        client.chat(ASKED, SCHEMA, 64)
        hasty = Client(server.url, None, "m", call_timeout=0.2)
        hasty.listen(told.append)
        with pytest.raises(errors.CallTimeout):
            hasty.chat(ASKED, SCHEMA, 64)
        client.close()
        hasty.close()
    sent = [entry.first for entry in told if isinstance(entry, Sent)]
    ended = [entry for entry in told if isinstance(entry, Exchange)]
    assert sent == [exchange.first for exchange in ended] == [True, False, False, True]
    assert [exchange.status for exchange in ended] == [500, 400, 200, None]
    assert [exchange.tokens for exchange in ended] == [None, None, 10, None]
    assert [exchange.timed_out for exchange in ended] == [False, False, False, True]
    assert ended[0].requests_granted == Allowance(600, 599)
    assert ended[0].asked == 0.0
    assert ended[1].requests_granted is None
    assert all(exchange.began < exchange.ended for exchange in ended)


@pytest.mark.parametrize(
    ("most", "call_timeout", "error", "exchanges"),
    [(0.2, 30.0, errors.UnreachableError, CONNECT_ATTEMPTS), (10.0, 0.3, errors.CallTimeout, 1)],
)
def test_connection_that_is_never_made_is_no_sign_of_a_slow_server(
    monkeypatch: pytest.MonkeyPatch,
    most: float,
    call_timeout: float,
    error: type[errors.CallError],
    exchanges: int,
) -> None:
    monkeypatch.setattr(network, "MAX_CONNECT", most)
    told: list[Sent | Exchange] = []
    with mute() as url:
        client = Client(url, None, "m", call_timeout=call_timeout)
        client.listen(told.append)
        with pytest.raises(error, match=host_of(url)):
            client.chat(ASKED, SCHEMA, 64)
        client.close()
    ended = [entry for entry in told if isinstance(entry, Exchange)]
    assert [(exchange.status, exchange.timed_out) for exchange in ended] == [
        (None, False)
    ] * exchanges


# when the endpoint is of no use


@pytest.mark.parametrize("status", [401, 403, 404])
def test_thread_that_would_try_again_asks_nobody_after_another_found_out(status: int) -> None:
    ended: list[BaseException] = []

    def ask() -> None:
        try:
            client.chat(ASKED, SCHEMA, 64)
        except errors.CallError as error:
            ended.append(error)

    def told(entry: Sent | Exchange) -> None:
        if isinstance(entry, Exchange) and entry.status == 500:  # the first thread will ask again
            second.start()
            second.join(20.0)

    with Server(script=[500, status, FINE, FINE]) as server:
        client = Client(server.url, None, "m", call_timeout=30.0)
        client.listen(told)
        second = threading.Thread(target=ask)
        ask()
        with pytest.raises(errors.EndpointError):
            client.chat(ASKED, SCHEMA, 64)
        client.close()
        assert len(server.requests) == 2
    assert [type(error) for error in ended] == [errors.EndpointError] * 2
    assert str(ended[0]) == str(ended[1])


def in_two_threads(ask: Callable[[], None]) -> None:
    """At the same time, and both have ended."""
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)


def test_thread_that_waits_for_its_share_of_the_budget_asks_nobody_either() -> None:
    budget = Budget("m", max_tokens=200)
    ended: list[BaseException] = []

    def ask() -> None:
        try:
            client.chat(ASKED, SCHEMA, 64)
        except errors.CallError as error:
            ended.append(error)

    with Server(script=[401, FINE], latency=0.3) as server:
        client = Client(server.url, None, "m", call_timeout=30.0, budget=budget)
        in_two_threads(ask)
        client.close()
        assert len(server.requests) == 1
    assert [type(error) for error in ended] == [errors.EndpointError] * 2
    assert budget.own == Spent()


def test_pause_told_to_one_call_holds_the_others() -> None:
    pause = Canned({"error": {"message": "later"}}, 429, {"Retry-After": "500"})
    with Server(script=[pause]) as server:
        client = Client(server.url, None, "m", call_timeout=30.0)
        for _ in range(3):
            with pytest.raises(errors.RateError) as caught:
                client.chat(ASKED, SCHEMA, 64)
            assert 490 < (caught.value.wait or 0.0) <= 500
        assert len(server.requests) == 1
        client.close()


# by the user's own limits


def paced(server: Server, pace: Pace, **options: Any) -> Client:
    return Client(server.url, None, "m", pace=pace, **options)


def test_attempts_and_forms_of_a_call_wait_for_their_turn() -> None:
    script = [500, refusal("no json_schema"), "reset", 429, FINE]
    with Server(script=script) as server:
        with closing(paced(server, Pace(rpm=120))) as client:  # two at once, then two a second
            assert client.chat(ASKED, SCHEMA, 64).text == "fine"
        came = [at for at, _, _ in server.at]
    assert len(came) == 5
    for first, later in zip(came, came[2:], strict=False):
        assert later - first > 0.4


def test_turn_that_does_not_come_in_time_ends_the_call_at_once_and_costs_nothing() -> None:
    budget, began = Budget("m"), time.monotonic()
    with Server(script=[500, FINE]) as server:
        client = paced(server, Pace(rpm=1), call_timeout=30.0, budget=budget)
        with closing(client), pytest.raises(errors.RateError, match="--llm-rpm 1 ") as caught:
            client.chat(ASKED, SCHEMA, 64)
        assert len(server.requests) == 1
    assert time.monotonic() - began < 10.0
    assert caught.value.wait is None  # it is no pause of the endpoint's
    assert budget.own == Spent()


def test_pause_told_while_a_call_waits_for_its_turn_holds_it() -> None:
    pause = Canned({"error": {"message": "later"}}, 429, {"Retry-After": "500"})
    ended: list[errors.CallError] = []

    def ask() -> None:
        with pytest.raises(errors.RateError) as caught:
            client.chat(ASKED, SCHEMA, 64)
        ended.append(caught.value)

    with Server(script=[pause, FINE], latency=0.3) as server:
        client = paced(server, Pace(rpm=60), call_timeout=30.0)
        in_two_threads(ask)
        client.close()
        assert len(server.requests) == 1
    assert [490 < (error.wait or 0.0) <= 500 for error in ended] == [True, True]


def test_stop_ends_a_wait_for_a_turn() -> None:
    ended: list[BaseException] = []

    def ask() -> None:
        try:
            client.chat(ASKED, SCHEMA, 64)
        except errors.CallError as error:
            ended.append(error)

    with Server(script=[500, FINE]) as server:
        client = paced(server, Pace(rpm=1))
        thread = threading.Thread(target=ask)
        thread.start()
        while not server.answered:
            time.sleep(0.01)
        time.sleep(0.2)
        client.close()
        thread.join(10.0)
        assert len(server.requests) == 1
    assert [type(error) for error in ended] == [errors.CallStopped]
