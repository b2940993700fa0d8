"""Analysts: what is asked, what a call ends with, and that the phrasebook loses nothing."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from engine import errors
from engine.analysis import analysts, recipes
from engine.analysis.analysts import LlmAnalyst, PhrasebookAnalyst
from engine.analysis.chunking import next_chunk
from engine.llm import retry
from engine.llm.client import Client
from engine.llm.pace import Pace
from engine.records import Chunk, Grounding, Reply, Segment, State
from engine.testing.server import Behaviour, Canned, Request, Script, Server

EXPRESSIONS, SUMMARY = recipes.load("expressions"), recipes.load("summary")
BOOK = """\
phrase\tkind\tlevel\tdefinition\texample\tliteral
hedge {one's} bets\tverb\tC1\tavoid choosing one thing only\tHe hedged his bets.\t
call {sth} off\tphrasal\tB1\tcancel\tThey called the match off.\t
"""


def cue(number: int, text: str, pause: float = 0.0) -> Segment:
    start = number * 10.0 + pause
    return Segment(number, 0, start, number * 10 + 9.0, text, (), 0.0, 0.0, 1.0, 0.0)


CHUNK = Chunk(
    2,
    (cue(4, " Before that."),),
    (
        cue(5, " So we hedged our"),
        cue(6, " bets. Did you know?", 0.5),
        cue(7, " They called it off."),
    ),
)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("book")
    (folder / "phrases.tsv").write_text(BOOK, encoding="utf-8")
    return folder


@pytest.fixture
def book(folder: Path) -> PhrasebookAnalyst:
    return PhrasebookAnalyst.load(folder)


Ask = Callable[..., Reply]


@pytest.fixture
def ask(folder: Path) -> Iterator[Ask]:
    """Ask a server that follows a script; `ask.requests` are those it got."""
    opened: list[Any] = []

    def call(script: Script, chunk: Chunk = CHUNK, recipe: Any = SUMMARY, **options: Any) -> Reply:
        server = Server(script=script, phrasebook=folder)
        client = Client(server.url, None, "m", **{"call_timeout": 30.0, **options})
        opened.extend([client, server])
        call.requests = server.requests  # type: ignore[attr-defined]
        return LlmAnalyst(client).call(recipe, chunk)

    yield call
    for thing in opened:
        thing.close()


def requests(ask: Ask) -> list[Request]:
    got: list[Request] = ask.requests  # type: ignore[attr-defined]
    return got


def says(text: str, reason: str = "stop") -> Canned:
    return Canned({"choices": [{"message": {"content": text}, "finish_reason": reason}]})


def sentence(text: str, quote: str, *cues: int) -> dict[str, Any]:
    return {"sentence": text, "quote": quote, "cues": list(cues)}


def listed(*items: Any) -> Canned:
    return says(json.dumps({"items": items}))


def found(reply: Reply) -> list[Any]:
    items: list[Any] = json.loads(reply.items)
    return items


# the phrasebook


def test_phrasebook_answers_with_dialogue_as_example(book: PhrasebookAnalyst) -> None:
    result = analysts.result(EXPRESSIONS, CHUNK, book.call(EXPRESSIONS, CHUNK))
    assert result.state is State.DONE
    first, second = result.items
    assert dict(first.fields) == {
        "phrase": "hedge {one's} bets",
        "meaning": "avoid choosing one thing only",
        "example": "So we hedged our bets.",
        "level": "C1",
    }
    assert (first.cues, first.quote, first.grounding) == ((5, 6), "hedged our bets", "exact")
    assert (first.start, first.end) == (50.0, 69.0)
    assert second.fields["example"] == "They called it off."


def test_expression_across_a_chunk_border_is_found_once(book: PhrasebookAnalyst) -> None:
    words = [" one two three.", " So we hedged our", " bets again.", " They called it", " off."]
    segments = [cue(number, text) for number, text in enumerate(words)]
    for maximum in range(1, 14):
        quotes, first, index = [], 0, 0
        while chunk := next_chunk(segments, first, index, True, 1, maximum):
            result = analysts.result(EXPRESSIONS, chunk, book.call(EXPRESSIONS, chunk))
            assert all(item.grounding is Grounding.EXACT for item in result.items)
            quotes += [item.quote for item in result.items]
            first, index = first + len(chunk.cues), index + 1
        assert quotes == ["hedged our bets", "called it off"]


def test_phrasebook_sends_text_to_nobody_and_answers_no_other_recipe(
    book: PhrasebookAnalyst,
) -> None:
    assert (book.name, book.hosts) == ("phrasebook-en", ())
    with pytest.raises(errors.CallError, match="summary"):
        book.call(SUMMARY, CHUNK)


def test_phrasebook_key_changes_with_book_recipe_and_text(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "phrases.tsv").write_text(BOOK.replace("cancel", "give up"), encoding="utf-8")
    book, other = PhrasebookAnalyst.load(folder), PhrasebookAnalyst.load(tmp_path)
    nearer = Chunk(2, (), (*CHUNK.context, *CHUNK.cues))
    shorter = Chunk(2, CHUNK.context, CHUNK.cues[:2])
    keys = {
        book.key(EXPRESSIONS, CHUNK),
        other.key(EXPRESSIONS, CHUNK),
        book.key(SUMMARY, CHUNK),
        book.key(EXPRESSIONS, nearer),
        book.key(EXPRESSIONS, shorter),
    }
    assert len(keys) == 5
    assert book.key(EXPRESSIONS, CHUNK) == PhrasebookAnalyst.load(folder).key(EXPRESSIONS, CHUNK)


def test_missing_or_damaged_phrasebook_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match=r"phrasebook in .* install reelmine anew"):
        PhrasebookAnalyst.load(tmp_path)
    (tmp_path / "phrases.tsv").write_text("rubbish\n", encoding="utf-8")
    with pytest.raises(errors.UsageError, match="line 1"):
        PhrasebookAnalyst.load(tmp_path)


def test_bundled_phrasebook_answers() -> None:
    book = PhrasebookAnalyst.bundled()
    chunk = Chunk(0, (), (cue(0, " You let the cat out of the bag."),))
    (item,) = found(book.call(EXPRESSIONS, chunk))
    assert item["phrase"] == "let the cat out of the bag"


# the language model


def test_model_answers_are_the_phrasebooks_where_the_server_has_it(
    ask: Ask, book: PhrasebookAnalyst
) -> None:
    reply = ask([], recipe=EXPRESSIONS)
    assert reply.items == book.call(EXPRESSIONS, CHUNK).items
    assert (reply.attempts, reply.dropped) == (1, 0)
    assert (reply.prompt_tokens or 0) > 100
    assert (reply.completion_tokens or 0) > 10


def test_good_items_are_kept_and_bad_ones_counted(ask: Ask) -> None:
    reply = ask([listed(sentence("a", "hedged", 5), {"sentence": "b"})])
    assert found(reply) == [sentence("a", "hedged", 5)]
    assert reply.dropped == 1


def test_invented_quotes_are_ungrounded(ask: Ask) -> None:
    true, false = sentence("a", "So we hedged our bets", 5, 6), sentence("b", "we all went home", 5)
    result = analysts.result(SUMMARY, CHUNK, ask([listed(true, false)]))
    assert [item.grounding for item in result.items] == [Grounding.EXACT, Grounding.UNGROUNDED]


@pytest.mark.parametrize("unusable", ["I found nothing.", "{}", '{"items": [{"sentence": 3}]}'])
def test_unusable_answer_is_repaired_by_one_call_that_says_why(ask: Ask, unusable: str) -> None:
    reply = ask([says(unusable), listed(sentence("a", "hedged", 5))])
    assert len(found(reply)) == 1
    assert reply.attempts == 2
    note = requests(ask)[1].body["messages"][2]["content"]
    assert "could not be used: " in note
    assert len(requests(ask)[0].body["messages"]) == 2


@pytest.mark.parametrize(
    ("unusable", "error"),
    [("no", errors.NotJsonError), ('{"items": 3}', errors.SchemaError)],
)
def test_answer_that_stays_unusable_is_an_error(
    ask: Ask, unusable: str, error: type[errors.CallError]
) -> None:
    with pytest.raises(error):
        ask(lambda _: says(unusable))
    assert len(requests(ask)) == 2


def test_nothing_found_is_an_answer_not_an_error(ask: Ask) -> None:
    assert ask([listed()]).items == "[]"
    assert len(requests(ask)) == 1


def test_answer_cut_off_is_asked_for_with_double_the_tokens(ask: Ask) -> None:
    reply = ask([says('{"items": [', "length"), listed(sentence("a", "hedged", 5))])
    assert len(found(reply)) == 1
    assert [request.body["max_tokens"] for request in requests(ask)] == [1024, 2048]


def test_answer_cut_off_twice_is_truncated(ask: Ask) -> None:
    with pytest.raises(errors.TruncatedError, match="max_tokens"):
        ask(lambda _: says('{"items": [', "length"))
    assert len(requests(ask)) == 2


def test_answer_that_ends_before_its_limit_was_cut_off_by_the_context(ask: Ask) -> None:
    choice = {"message": {"content": '{"items": ['}, "finish_reason": "length"}
    cut = Canned({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 300}})
    with pytest.raises(errors.TruncatedError, match="context ends; lower max_words"):
        ask(lambda _: cut)


TOO_LONG = Canned({"error": {"message": "", "code": "context_length_exceeded"}}, 400)


def test_chunk_too_long_for_the_model_is_asked_in_two_halves(ask: Ask) -> None:
    def small(request: Request) -> Behaviour:
        return TOO_LONG if len(request.cues) > 2 else "ok"

    reply = ask(small)
    assert [request.cues for request in requests(ask)] == [(5, 6, 7), (5,), (6, 7)]
    assert requests(ask)[2].context == (4, 5)
    assert [item["cues"] for item in found(reply)] == [[5], [6]]
    assert reply.attempts == 2
    result = analysts.result(SUMMARY, CHUNK, reply)
    assert [item.grounding for item in result.items] == [Grounding.EXACT, Grounding.EXACT]


def test_chunk_is_split_once_only(ask: Ask) -> None:
    with pytest.raises(errors.ContextError):
        ask(lambda _: TOO_LONG)
    assert len(requests(ask)) == 2


def test_chunk_of_one_cue_that_is_too_long_fails(ask: Ask) -> None:
    with pytest.raises(errors.ContextError):
        ask(lambda _: TOO_LONG, chunk=Chunk(0, (), CHUNK.cues[:1]))
    assert len(requests(ask)) == 1


def test_repairs_and_halves_wait_for_their_turn_too(folder: Path) -> None:
    with Server(script=[TOO_LONG, "prose", "ok", "length", "ok"], phrasebook=folder) as server:
        client = Client(server.url, None, "m", pace=Pace(rpm=120))  # two at once, then two a second
        with closing(client):
            LlmAnalyst(client).call(SUMMARY, CHUNK)
        came = [at for at, _, _ in server.at]
    assert [request.cues for request in server.requests] == [(5, 6, 7)] + 2 * [(5,)] + 2 * [(6, 7)]
    for first, later in zip(came, came[2:], strict=False):
        assert later - first > 0.4


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ("hang", errors.CallTimeout),
        ("drip", errors.CallTimeout),
        (401, errors.EndpointError),
    ],
)
def test_failure_is_an_error_of_its_own_kind(
    ask: Ask, behaviour: Behaviour, error: type[errors.CallError]
) -> None:
    with pytest.raises(error):
        ask(lambda _: behaviour, call_timeout=0.5)


def test_one_deadline_holds_for_all_that_a_call_asks(folder: Path) -> None:
    """An answer is cut off after 2 s; the second question would be answered after 4 s."""
    with Server(script=[says("", "length")], latency=2.0, phrasebook=folder) as server:
        client = Client(server.url, None, "m", call_timeout=3.0)
        with closing(client), pytest.raises(errors.CallTimeout):
            LlmAnalyst(client).call(SUMMARY, CHUNK)
        assert len(server.requests) == 2


def test_chunk_without_a_word_is_not_asked_about(ask: Ask) -> None:
    reply = ask([], chunk=Chunk(0, (), (cue(0, " "), cue(1, ""))))
    assert (reply.items, reply.attempts) == ("[]", 0)
    assert requests(ask) == []


def test_key_changes_with_model_recipe_and_text_but_not_with_the_port() -> None:
    def analyst(url: str, model: str) -> LlmAnalyst:
        client = Client(url, None, model)
        client.close()
        return LlmAnalyst(client)

    one = analyst("http://127.0.0.1:1/v1", "m")
    keys = {
        one.key(SUMMARY, CHUNK),
        one.key(EXPRESSIONS, CHUNK),
        one.key(SUMMARY, Chunk(2, (), CHUNK.cues)),
        one.key(SUMMARY, Chunk(2, CHUNK.context, CHUNK.cues[:2])),
        analyst("http://127.0.0.1:1/v1", "n").key(SUMMARY, CHUNK),
    }
    assert len(keys) == 5
    assert analyst("http://127.0.0.1:2/v1", "m").key(SUMMARY, CHUNK) == one.key(SUMMARY, CHUNK)
    assert (one.name, one.hosts) == ("m", ("127.0.0.1:1",))


def test_failed_neighbours_change_no_answer_and_leave_nothing_behind(folder: Path) -> None:
    """Eight threads, every third chunk with a fault of another kind."""
    faults: list[Behaviour] = ["hang", "drip", "html", 500]
    chunks = [Chunk(n, (), (cue(n, f" We hedged our bets, number {n}."),)) for n in range(24)]

    def script(request: Request) -> Behaviour:
        number = request.cues[0]
        return faults[number // 3 % 4] if number % 3 == 0 else "ok"

    threads_before, open_before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with Server(phrasebook=folder) as healthy, Server(script=script, phrasebook=folder) as faulty:
        alone = _answers(Client(healthy.url, None, "m"), chunks, 1)
        client = Client(faulty.url, None, "m", call_timeout=4.0)
        beside = _answers(client, chunks, 8)
    for number in range(24):
        if number % 3:
            assert beside[number] == alone[number]
        else:
            assert isinstance(beside[number], errors.CallError)
    assert threading.active_count() == threads_before
    assert len(os.listdir("/proc/self/fd")) == open_before


def _answers(client: Client, chunks: list[Chunk], threads: int) -> list[Reply | errors.CallError]:
    analyst, waiting = LlmAnalyst(client), list(enumerate(chunks))
    answers: dict[int, Reply | errors.CallError] = {}

    def work() -> None:
        while waiting:
            try:
                number, chunk = waiting.pop()
            except IndexError:
                return
            try:
                answers[number] = analyst.call(EXPRESSIONS, chunk)
            except errors.CallError as error:
                answers[number] = error

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    client.close()
    return [answers[number] for number in range(len(chunks))]
