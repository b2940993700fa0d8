"""What calls cost: limits that hold, replies paid for once, recordings that cost nothing."""

import math
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shell import Reelmine, analysis, command, environment, last_run, reelmine_in, result

from engine.llm.budget import tokens
from engine.records import Spent
from engine.store.ledger import Ledger
from engine.store.status import read_status
from engine.testing.server import Canned, Request, Server

pytestmark = pytest.mark.slow  # a minute of runs; test_budget.py and others are the quick part

SAMPLES = ("coffee_shop.mp4", "bad_heist.mkv", "office_gossip.mov")
SHORT = """\
name = "short"
prompt = "Say what is said."
min_words = 3
max_words = 12
max_tokens = 200
[fields.sentence]
type = "string"
"""


@pytest.fixture
def transcribed(eight: Any, tmp_path: Path) -> Callable[[str], Path]:
    """``transcribed("out")``: a folder with the transcripts of real speech and no ledger."""

    def copy(name: str) -> Path:
        output: Path = eight.copied(tmp_path / name)
        for file in (output / ".reelmine").glob("ledger.*"):
            file.unlink()
        return output

    return copy


@pytest.fixture
def ask(
    transcribed: Callable[[str], Path], tmp_path: Path, samples: Path, tiny_en: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``ask(server, *options)``: about three transcripts in `out`, in chunks of a few words."""
    (tmp_path / "short.toml").write_text(SHORT)
    transcribed("out")
    shell = reelmine_in(tmp_path)

    def run(server: Server | None, *options: Any, verb: str = "run", **more: Any) -> Any:
        return shell(verb, *_words(samples, server), *options, **more)

    return run


def _words(samples: Path, server: Server | None) -> list[Any]:
    endpoint = ("--llm-model", "phrasebook", "--llm-base-url", server.url) if server else ()
    model = ("--model", "tiny.en", "--device", "cpu", "--recipe", "short.toml")
    return [*(samples / name for name in SAMPLES), "-o", "out", *model, *endpoint]


def prices(folder: Path, text: str = "[phrasebook]\ninput = 1.0\noutput = 2.0\n") -> Path:
    path = folder / "prices.toml"
    path.write_text(text)
    return path


def spent(output: Path) -> Spent:
    """As the ledger keeps it."""
    ledger = Ledger(output, look=True)
    found = ledger.spent()
    ledger.close()
    return found.get("phrasebook", Spent())


def counted(requests: list[Request]) -> int:
    """Tokens of these prompts as the test server counts them, without the answers."""
    texts = (str(message["content"]) for r in requests for message in r.body["messages"])
    return sum(len(text.split()) for text in texts)


def chunks(output: Path) -> int:
    return sum(analysis(output, Path(name).stem, "short")["chunks"] for name in SAMPLES)


def failed(output: Path) -> list[dict[str, Any]]:
    return [
        chunk for name in SAMPLES for chunk in analysis(output, Path(name).stem, "short")["failed"]
    ]


# limits


@pytest.mark.parametrize("threads", [1, 8])
def test_limit_stops_the_calls_keeps_the_rest_and_goes_on_when_it_is_raised(
    ask: Any, tmp_path: Path, threads: int
) -> None:
    output, options = tmp_path / "out", ("--llm-threads", threads)
    with Server(latency=0.05) as server:
        done = ask(server, "--max-tokens-total", 5_000, *options)
        assert done.returncode == 1
        assert "--max-tokens-total 5000 leaves no room" in done.stdout
        assert done.stdout.count("No further calls are made") == 1
        first, took = len(server.requests), spent(output)
        assert 0 < first < chunks(output)
        assert took == Spent(first, counted(server.requests), took.completion_tokens)
        assert 3_500 < took.prompt_tokens + took.completion_tokens <= 5_000
        lost = failed(output)
        assert len(lost) == chunks(output) - first
        assert {chunk["problem"]["code"] for chunk in lost} == {"E_BUDGET"}
        assert all(result(output, Path(name).stem)["segments"] for name in SAMPLES)

        again = ask(server, "--max-tokens-total", 5_000, *options)  # nothing is spent twice
        assert again.returncode == 1
        assert len(server.requests) == first
        # and what was paid for is still there
        assert [chunk["index"] for chunk in failed(output)] == [chunk["index"] for chunk in lost]

        raised = ask(server, "--max-tokens-total", 10**9, *options)
        assert raised.returncode == 0, raised.stdout + raised.stderr
        assert len(server.requests) == chunks(output)
        assert failed(output) == []
    document = last_run(output)
    assert document["llm_run"]["exchanges"] == chunks(output) - first
    assert document["llm_folder"]["exchanges"] == chunks(output)
    assert document["llm_folder"]["prompt_tokens"] == counted(server.requests)
    assert document["llm_folder"]["cost"] is None
    assert f"in all runs {chunks(output)} exchanges" in raised.stdout


def test_limit_below_one_call_says_so_and_sends_nothing(ask: Any, tmp_path: Path) -> None:
    with Server() as server:
        done = ask(server, "--max-tokens-total", 100)
        assert done.returncode == 1
        assert "--max-tokens-total 100 is too small for a single call" in done.stdout
        assert server.requests == []
    assert spent(tmp_path / "out") == Spent()


def test_cost_limit_holds_by_the_users_prices(ask: Any, tmp_path: Path) -> None:
    table = prices(tmp_path)
    with Server() as server:
        done = ask(server, "--max-cost", 0.005, "--prices", table)
        assert done.returncode == 1
        assert "--max-cost 0.005 leaves no room" in done.stdout
        document = last_run(tmp_path / "out")
        took = spent(tmp_path / "out")
        cost = (took.prompt_tokens + 2 * took.completion_tokens) / 1e6
        assert 0.003 < cost <= 0.005
        assert document["llm_folder"]["cost"] == document["llm_run"]["cost"] == cost
        assert f"cost {cost:.3g}" in done.stdout


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (None, ["--max-cost", "1"], "--max-cost needs the price of phrasebook: give --prices FILE"),
        (
            "[other]\ninput = 1\noutput = 1\n",
            ["--max-cost", "1"],
            'add to prices.toml a table ["ph',
        ),
        ("[phrasebook]\ninput = 1\n", [], "prices.toml: [phrasebook] needs exactly input and out"),
    ],
)
def test_price_that_is_missing_or_broken_is_named_before_anything_is_done(
    ask: Any, tmp_path: Path, text: str | None, options: list[str], said: str
) -> None:
    if text is not None:
        prices(tmp_path, text)
        options = [*options, "--prices", "prices.toml"]
    with Server() as server:
        done = ask(server, *options)
        assert server.requests == []
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and said in done.stderr


def test_the_phrasebook_is_free(
    reelmine: Reelmine, tmp_path: Path, samples: Path, fake: Path
) -> None:
    words = ("run", samples / SAMPLES[0], "-o", "out", "--model", fake)
    done = reelmine(*words, "--max-tokens-total", 1, "--max-cost", 0.01)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "language model" not in done.stdout
    assert last_run(tmp_path / "out")["llm_run"] == {
        "exchanges": 0, "prompt_tokens": 0, "completion_tokens": 0, "uncounted": 0, "cost": 0,
    }  # fmt: skip


def test_failed_calls_are_spent_as_well(ask: Any, tmp_path: Path) -> None:
    """Each unusable answer is repaired once, and each of the two is paid for."""

    def useless(request: Request) -> Canned:
        choice = {"message": {"content": "I found nothing."}, "finish_reason": "stop"}
        return Canned({"choices": [choice], "usage": {"prompt_tokens": 50, "completion_tokens": 9}})

    with Server(script=useless) as server:
        assert ask(server).returncode == 1
        asked = len(server.requests)
    assert asked == 2 * chunks(tmp_path / "out")
    assert spent(tmp_path / "out") == Spent(asked, 50 * asked, 9 * asked)


def test_killed_run_has_kept_what_it_spent(ask: Any, tmp_path: Path, samples: Path) -> None:
    output = tmp_path / "out"
    with Server(latency=0.1) as server:
        words = command(["run", *_words(samples, server), "--llm-threads", "2"])
        run = subprocess.Popen(words, env=environment(), cwd=tmp_path, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while spent(output).exchanges < 6 and time.monotonic() < deadline:
            time.sleep(0.05)
        run.send_signal(signal.SIGKILL)
        run.wait()
        sent, kept = len(server.requests), spent(output)
        assert abs(kept.exchanges - sent) <= 2  # threads
        ledger = Ledger(output, look=True)
        replies = [entry.reply for entry in ledger.replies()]
        ledger.close()
        paid = sum((r.prompt_tokens or 0) + (r.completion_tokens or 0) for r in replies)
        assert 0 < paid <= tokens({"": kept})
        assert kept.uncounted <= kept.exchanges - len(replies) <= 2  # in flight, at the most
        assert ask(server).returncode == 0
        assert chunks(output) <= len(server.requests) <= chunks(output) + 2


def test_status_tells_what_was_spent(reelmine: Reelmine, ask: Any, tmp_path: Path) -> None:
    with Server() as server:
        assert ask(server).returncode == 0
    took = read_status(tmp_path / "out")["spent"]["phrasebook"]
    line = f"phrasebook: {took['exchanges']} exchanges, {took['prompt_tokens']:,} tokens in"
    assert line in reelmine("status", "out").stdout


# the estimate


def test_plan_estimates_calls_tokens_and_cost(ask: Any, tmp_path: Path) -> None:
    table = prices(tmp_path)
    with Server() as server:
        limits = ("--prices", table, "--max-cost", "0.0001")
        before = ask(server, "-o", "empty", *limits, verb="plan").stdout
        assert re.search(r"LLM calls +\d+: the length of 3 videos at 2.5 words a second", before)
        assert re.search(r"LLM tokens +[\d,]+ in, [\d,]+ out, cost [\d.]+ \(at most", before)
        assert "guessed at 25 % of max_tokens" in before
        assert "over limit   --max-cost 0.0001" in before
        assert server.requests == []
        assert not (tmp_path / "empty").exists()

        stopped = ask(server, "--max-tokens-total", 5_000)
        assert stopped.returncode == 1
        answered = len(server.requests)
        half = ask(server, "--prices", table, verb="plan").stdout
        left = chunks(tmp_path / "out") - answered
        assert f"{left} ({answered} more are answered already): {left} by transcripts" in half
        assert "answers of short as long as those in this folder" in half
        assert "over limit" not in half
        found = re.search(r"LLM tokens +([\d,]+) in, ([\d,]+) out", half)
        assert found is not None
        mean = spent(tmp_path / "out").completion_tokens / answered
        assert int(found[2].replace(",", "")) == math.ceil(left * mean)

        assert ask(server).returncode == 0
        assert "LLM calls    0: nothing is left to ask" in ask(server, verb="plan").stdout


def test_plan_estimates_nothing_where_nobody_is_paid(
    reelmine: Reelmine, samples: Path, fake: Path
) -> None:
    plan = reelmine("plan", samples / SAMPLES[0], "--model", fake).stdout
    assert "LLM threads" in plan
    assert "LLM calls" not in plan and "over limit" not in plan


# recordings


def files(output: Path) -> dict[str, bytes]:
    """Everything but the ledger and its neighbours."""
    return {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}


def test_replayed_run_writes_the_same_bytes_without_an_endpoint(
    ask: Any, tmp_path: Path, transcribed: Any
) -> None:
    transcribed("again")
    key = secrets.token_hex(16)
    with Server(api_key=key) as server:
        done = ask(server, "--record", "replies.jsonl", env={"OPENAI_API_KEY": key})
        assert done.returncode == 0, done.stdout + done.stderr
    recorded = (tmp_path / "replies.jsonl").read_text()
    assert len(recorded.splitlines()) == 1 + chunks(tmp_path / "out")
    assert key not in recorded and "127.0.0.1" not in recorded

    again = ask(None, "-o", "again", "--replay", "replies.jsonl")
    assert again.returncode == 0, again.stdout + again.stderr
    assert files(tmp_path / "again") == files(tmp_path / "out")
    assert last_run(tmp_path / "again")["llm_folder"]["exchanges"] == 0

    once_more = ask(None, "-o", "again", "--replay", "replies.jsonl")
    assert once_more.returncode == 0
    assert last_run(tmp_path / "again")["resumed"] == len(SAMPLES)
    # and the server's run goes on where the replayed one was
    with Server() as server:
        assert ask(server, "-o", "again").returncode == 0
        assert server.requests == []


def test_recording_is_made_of_all_that_the_folder_holds(ask: Any, tmp_path: Path) -> None:
    with Server() as server:
        assert ask(server, "--record", "one.jsonl").returncode == 0
        assert ask(server, "--record", "two.jsonl").returncode == 0  # nothing was left to do
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def test_recorded_real_speech_is_replayed_to_the_same_bytes(eight: Any, tmp_path: Path) -> None:
    """Eight videos as tiny.en heard them, a recipe that was not asked in that run."""
    shell = reelmine_in(tmp_path)
    words = ("--model", "tiny.en", "--device", "cpu", "--recipe", "summary,chapters")
    outputs = [eight.copied(tmp_path / name) for name in ("asked", "replayed")]
    with Server(latency=(0.02, 1.0)) as server:
        endpoint = ("--llm-model", "phrasebook", "--llm-base-url", server.url)
        asked = shell("run", *eight.videos, "-o", "asked", *words, *endpoint, "--record", "r.jsonl")
        assert asked.returncode == 0, asked.stdout + asked.stderr
        assert len(server.requests) > 10
    replay = ("--replay", "r.jsonl", "--llm-threads", "1")
    replayed = shell("run", *eight.videos, "-o", "replayed", *words, *replay)
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert files(outputs[0]) == files(outputs[1])


def test_question_that_was_not_recorded_fails_alone(
    ask: Any, tmp_path: Path, transcribed: Any
) -> None:
    transcribed("again")
    with Server() as server:
        assert ask(server, "--record", "replies.jsonl").returncode == 0
    header, _, *others = (tmp_path / "replies.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "replies.jsonl").write_text(header + "".join(others))
    done = ask(None, "-o", "again", "--replay", "replies.jsonl")
    assert done.returncode == 1
    assert "replies.jsonl holds no reply of phrasebook" in done.stdout
    (lost,) = failed(tmp_path / "again")
    assert lost["problem"]["code"] == "E_NOT_RECORDED"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--replay", "none.jsonl"], "--replay none.jsonl cannot be read"),
        (["--replay", "short.toml"], "--replay short.toml, line 1: it is not JSON"),
        (["--replay", "a", "--record", "b"], "--record and --replay do not go together"),
        (["--record", "."], "--record . is a folder"),
    ],
)
def test_recording_that_cannot_be_used_is_one_sentence(
    ask: Any, options: list[str], said: str
) -> None:
    done = ask(None, *options)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and said in done.stderr


def test_plan_names_the_recording_that_answers(ask: Any, tmp_path: Path) -> None:
    with Server() as server:
        assert ask(server, "--record", "replies.jsonl").returncode == 0
    plan = ask(None, "-o", "again", "--replay", "replies.jsonl", verb="plan").stdout
    assert "nobody for short: phrasebook (recorded in replies.jsonl) works offline" in plan
    assert "LLM calls" not in plan
