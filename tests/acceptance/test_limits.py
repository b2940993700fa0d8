"""An endpoint that bears only so much: calls wait for it, and none is lost."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from shell import analysis, attempts, last_run

import engine
from engine import events
from engine.testing.server import Canned, Limit, Request, Server


def analyse(
    eight: Any, output: Path, remarks: Path, server: Server, **options: Any
) -> tuple[engine.RunReport, list[str]]:
    """Only the analysis is to do; the report, and what a person was told."""
    told: list[str] = []
    config = engine.Config(
        output=output,
        model="tiny.en",
        device="cpu",
        recipe=(str(remarks),),
        llm_base_url=server.url,
        llm_model="phrasebook",
        **options,
    )
    report = engine.run(
        eight.videos,
        config,
        lambda event: told.append(event.text) if isinstance(event, events.Notice) else None,
    )
    return report, told


def results(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(output.glob("*.json"))}


@pytest.fixture
def unhurried(eight: Any, tmp_path: Path, remarks: Path) -> dict[str, bytes]:
    """What an endpoint without limits leads to."""
    with Server() as server:
        report, _ = analyse(eight, eight.copied(tmp_path / "unhurried"), remarks, server)
        assert report.exit_code == 0
        assert len(server.requests) > 60
    return results(tmp_path / "unhurried")


def test_limit_in_the_headers_is_kept_to_and_costs_no_chunk(
    eight: Any, tmp_path: Path, remarks: Path, unhurried: dict[str, bytes]
) -> None:
    output = eight.copied(tmp_path / "out")
    with Server(latency=0.05, limits=[Limit(0, 1_200, None), Limit(2, 2_400, None)]) as server:
        report, _ = analyse(eight, output, remarks, server)
        answered, refused = server.answered, server.refused
    assert report.exit_code == 0
    assert results(output) == unhurried
    assert answered > 60
    assert refused <= 3
    assert report.figures["requests_refused"] == refused
    assert report.figures["call_wait_seconds"] > 0


@pytest.mark.slow
def test_limit_of_the_users_own_is_kept_to_where_the_server_says_nothing(
    eight: Any, tmp_path: Path, remarks: Path, unhurried: dict[str, bytes]
) -> None:
    output = eight.copied(tmp_path / "out")
    limits = [Limit(0, 1_300, None)]
    with Server(latency=0.05, limits=limits, rate_headers=False) as server:
        report, _ = analyse(eight, output, remarks, server, llm_rpm=1_200, llm_threads=32)
        refused = server.refused
    assert (report.exit_code, refused) == (0, 0)
    assert results(output) == unhurried


@pytest.mark.slow
def test_limit_on_tokens_is_kept_to(
    eight: Any, tmp_path: Path, remarks: Path, unhurried: dict[str, bytes]
) -> None:
    output = eight.copied(tmp_path / "out")
    with Server(latency=0.05, limits=[Limit(0, None, 200_000)]) as server:
        report, _ = analyse(eight, output, remarks, server)
        answered, refused = server.answered, server.refused
    assert report.exit_code == 0
    assert results(output) == unhurried
    assert refused <= 0.1 * answered


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (429, "E_LLM_RATE"),
        pytest.param(500, "E_LLM_STATUS", marks=pytest.mark.slow),
    ],
)
def test_pause_that_is_longer_than_a_call_is_waited_for_by_all(
    eight: Any,
    tmp_path: Path,
    remarks: Path,
    unhurried: dict[str, bytes],
    status: int,
    code: str,
) -> None:
    """One pause that no call can outlast: its chunk waits, and nobody asks meanwhile."""
    pause = Canned({"error": {"message": "later"}}, status, {"Retry-After": "4"})

    def script(request: Request) -> Any:
        return pause if request.number == 20 else "ok"

    output = eight.copied(tmp_path / "out")
    with Server(latency=0.1, script=script) as server:
        report, told = analyse(eight, output, remarks, server, call_timeout=3.0)
        requests, times = len(server.requests), [entry[0] for entry in server.at]
    assert report.exit_code == 0
    assert results(output) == unhurried
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(pauses) > 3.0
    before = pauses.index(max(pauses)) + 1  # requests
    postponed = [call for call in attempts(output, "call") if call["outcome"] != "done"]
    assert code in {call["outcome"] for call in postponed}
    # those under way, and not one again and again: 8 at first, one more with each reply
    assert len(postponed) <= 8 + before
    assert requests > 60
    (notice,) = [text for text in told if "wait" in text]
    assert str(status) in notice and "0:00:04" in notice


def test_endpoint_that_only_ever_says_later_is_given_up_and_asked_again_by_the_next_run(
    eight: Any, tmp_path: Path, remarks: Path, unhurried: dict[str, bytes]
) -> None:
    later = Canned({"error": {"message": "quota"}}, 429, {"Retry-After": "86400"})
    output = eight.copied(tmp_path / "out")
    with Server(script=lambda _: later) as server:
        report, _ = analyse(eight, output, remarks, server)
        assert len(server.requests) <= 8
    assert report.exit_code == 1
    failed = analysis(output, eight.videos[0].stem, "remarks")["failed"]
    assert {chunk["problem"]["code"] for chunk in failed} == {"E_LLM_RATE"}
    assert last_run(output)["problems"][0]["code"] == "E_LLM_RATE"
    with Server() as server:
        assert analyse(eight, output, remarks, server)[0].exit_code == 0
    assert results(output) == unhurried


def test_one_thread_is_one_call_at_a_time_and_the_same_bytes(
    eight: Any, tmp_path: Path, remarks: Path, unhurried: dict[str, bytes]
) -> None:
    output = eight.copied(tmp_path / "out")
    with Server() as server:
        report, _ = analyse(eight, output, remarks, server, llm_threads=1)
        assert server.most_at_once == 1
    assert report.exit_code == 0
    assert results(output) == unhurried


def test_without_a_number_calls_grow_as_the_endpoint_bears_them(
    eight: Any, tmp_path: Path, remarks: Path
) -> None:
    output = eight.copied(tmp_path / "out")
    with Server(latency=0.3) as server:
        report, _ = analyse(eight, output, remarks, server)
        assert 8 < server.most_at_once <= 64
    assert report.exit_code == 0
    assert report.figures["calls_at_once"] > 8
