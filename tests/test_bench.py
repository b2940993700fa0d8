"""Speed-up over slots: the fit, what is advised, the picture, and the command on real runs."""

import os
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from shell import Reelmine

from engine import bench
from engine.config import Config
from engine.errors import UsageError
from engine.plot import Curve, bars, curves, svg
from engine.testing.transcriber import make_model


def amdahl(share: float, slots: int) -> float:
    return 1 / (share + (1 - share) / slots)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.25, 1.0])
def test_serial_share_is_found_again_in_times_that_follow_the_law(share: float) -> None:
    speed_ups = {n: amdahl(share, n) for n in (1, 2, 4, 8)}
    assert bench.serial_share(speed_ups) == pytest.approx(share)


def test_serial_share_is_the_least_squares_of_what_was_measured() -> None:
    # 1/speed-up - 1/n against 1 - 1/n: (0.5, 0.125) and (0.75, 0.0); by hand 0.0625 / 0.8125
    assert bench.serial_share({1: 1.0, 2: 1.6, 4: 4.0}) == pytest.approx(1 / 13)


def test_serial_share_stays_between_nothing_and_all() -> None:
    assert bench.serial_share({1: 1.0, 2: 2.5}) == 0.0  # more than twice as fast
    assert bench.serial_share({1: 1.0, 2: 0.8}) == 1.0  # slower


def test_one_measurement_tells_no_share() -> None:
    assert bench.serial_share({1: 1.0}) is None
    found = bench.scaling({1: 10.0}, 60.0, "tiny", 1)
    assert found.recommended == 1
    assert "nothing to compare" in found.advice


def test_speed_up_and_efficiency_are_over_one_slot() -> None:
    found = bench.scaling({4: 25.0, 1: 80.0, 2: 40.0}, 400.0, "tiny", 4)
    assert [m.slots for m in found.measurements] == [1, 2, 4]
    assert [m.speed_up for m in found.measurements] == [1.0, 2.0, 3.2]
    assert [m.efficiency for m in found.measurements] == [1.0, 1.0, 0.8]
    assert [m.times_real_time for m in found.measurements] == [5.0, 10.0, 16.0]


@pytest.mark.parametrize(
    ("times", "best", "advice"),
    [
        ({1: 80.0, 2: 41.0}, 2, "Leave --slots out: the 2 slots it gives are 1.95 times"),
        ({1: 80.0, 2: 79.0}, 1, "Use --slots 1:"),
        ({1: 80.0, 2: 41.0, 4: 40.5}, 2, "Leave --slots out"),
        ({1: 80.0, 2: 41.0, 4: 21.0}, 4, "Use --slots 4: 3.81 times"),
    ],
)
def test_fewest_slots_that_are_as_good_as_the_fastest_are_advised(
    times: dict[int, float], best: int, advice: str
) -> None:
    found = bench.scaling(times, 400.0, "tiny", 2)
    assert found.recommended == best
    assert found.advice.startswith(advice)


@pytest.mark.parametrize(
    ("times", "advice"),
    [
        (
            {1: 80.0, 2: 41.0, 4: 21.0},
            "Leave --slots out: the 4 slots it gives are 3.81 times as fast as one on 1 core.",
        ),
        (
            {1: 80.0, 2: 41.0, 4: 40.5},
            "Use --slots 2: 1.95 times as fast on 2 cores as one on 1 core, and no more of those",
        ),
        (
            {1: 80.0, 2: 79.0},
            "Use --slots 1: more slots were not faster than one on 1 core with these videos.",
        ),
    ],
)
def test_advice_says_on_how_many_cores_it_was_measured(
    times: dict[int, float], advice: str
) -> None:
    assert bench.scaling(times, 400.0, "tiny", 4, {1: 1, 2: 2, 4: None}).advice.startswith(advice)


@pytest.mark.parametrize(("load", "told"), [(1.4, True), (0.1, False), (None, False)])
def test_figures_of_a_busy_machine_are_told_not_to_be_trusted(
    load: float | None, told: bool
) -> None:
    found = replace(bench.scaling({1: 80.0, 2: 41.0}, 400.0, "tiny", 2), load=load)
    assert any("load 1.4 a core" in line for line in bench.lines(found)) is told
    assert found.advice in bench.lines(found)


def test_slots_double_up_to_the_most() -> None:
    assert [bench.up_to(n) for n in (1, 2, 3, 8, 12)] == [
        (1,), (1, 2), (1, 2, 3), (1, 2, 4, 8), (1, 2, 4, 8, 12),
    ]  # fmt: skip


def test_picture_is_svg_with_a_point_for_each_measurement() -> None:
    found = bench.scaling({1: 80.0, 2: 41.0, 8: 14.0}, 400.0, "<tiny> & more", 8)
    picture = ET.fromstring(svg(found))
    circles = [e for e in picture if e.tag.endswith("circle")]
    texts = [e.text for e in picture if e.tag.endswith("text")]
    assert len(circles) == 3
    assert "Speed-up and efficiency with <tiny> & more" in texts
    assert {"1.00 (100%)", "1.95 (98%)", "5.71 (71%)"} <= set(texts)
    assert "measured (efficiency)" in texts  # what is in brackets
    heights = [float(c.get("cy", "0")) for c in circles]
    assert heights == sorted(heights, reverse=True)  # faster is higher
    alone = ET.fromstring(svg(bench.scaling({1: 80.0}, 400.0, "tiny", 1)))
    assert sum(e.tag.endswith("circle") for e in alone) == 1


def test_bars_are_as_long_as_their_values() -> None:
    picture = ET.fromstring(bars("Costs", "us", [("<ours>", 10.0), ("theirs", 40.0)]))
    widths = [float(e.get("width", "0")) for e in picture if e.get("class") == "bar"]
    assert widths[1] == pytest.approx(4 * widths[0])
    assert {"Costs", "<ours>", "10 us", "40 us"} <= {e.text for e in picture}


def test_curve_in_steps_holds_its_value_until_the_next() -> None:
    picture = ET.fromstring(curves("It", "s", "n", [Curve("it", [(0, 1), (1, 3)], steps=True)]))
    lines = [e.get("points", "").split() for e in picture if e.tag.endswith("polyline")]
    [stairs] = [line for line in lines if len(line) == 3]
    (x0, y0), (x1, y1), (x2, y2) = ([float(n) for n in point.split(",")] for point in stairs)
    assert (y0, x1) == (y1, x2)
    assert x0 < x1
    assert y2 < y1  # higher is further up


# The command


@pytest.mark.slow
def test_bench_runs_the_users_videos_with_each_number_of_slots(
    reelmine: Reelmine, tmp_path, samples
) -> None:
    make_model(tmp_path / "fake", seconds=0.6)
    words = ["bench", samples / "coffee_shop.mp4", samples / "bad_heist.mkv", "--model", "fake"]
    done = reelmine(*words, "--slots", "2", "--plot", "scaling.svg", "--scratch", tmp_path)
    assert done.returncode == 0, done.stderr
    head, names, *rows = done.stdout.splitlines()
    assert head.endswith("of audio with fake")
    assert names.split()[:2] == ["slots", "seconds"]
    assert [row.split()[0] for row in rows[:2]] == ["1", "2"]
    assert rows[0].split()[3:] == ["1.00", "1.00"]
    assert rows[2].startswith("serial share")
    assert "--slots" in rows[3]
    assert done.stderr.startswith("1 slot: ")
    assert ET.parse(tmp_path / "scaling.svg").getroot().tag.endswith("svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fake", "scaling.svg"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "PATH"),
        (["nowhere"], "nowhere does not exist"),
        (["{samples}", "--slots", "1,zwei"], "1,zwei"),
        (["{samples}", "--slots", "0"], "--slots"),
        (["{samples}", "--rounds", "0"], "--rounds"),
        (["{samples}", "--plot", "no/such/folder.svg"], "no/such/folder.svg"),
        (["{samples}", "--device", "toaster"], "--device"),
    ],
)
def test_wrong_words_get_one_sentence(reelmine: Reelmine, tmp_path, samples, words, said) -> None:
    make_model(tmp_path / "fake")
    given = [word.replace("{samples}", str(samples)) for word in words]
    done = reelmine("bench", *given, "--model", "fake")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr
    assert not done.stdout


def test_empty_folder_is_refused(tmp_path) -> None:
    make_model(tmp_path / "fake")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no video"):
        bench.measure([tmp_path / "empty"], Config(model=str(tmp_path / "fake")))


def test_run_that_fails_is_not_counted_and_ends_the_benchmark(reelmine: Reelmine, tmp_path) -> None:
    make_model(tmp_path / "fake")
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    done = reelmine("bench", "broken.mp4", "--model", "fake")
    assert done.returncode == 1
    assert "The run with 1 slot ended with exit code 1" in done.stderr
    assert not done.stdout


def test_fewer_slots_on_a_cpu_get_fewer_cores_for_a_while_only(tmp_path, samples) -> None:
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("needs two cores")
    seen: list[tuple[int, float]] = []
    make_model(tmp_path / "fake", seconds=0.1)
    config = Config(model=str(tmp_path / "fake"), device="cpu")
    video = samples / "moving_house.wav"
    found = bench.measure([video], config, (1, 2), 2, lambda *run: seen.append(run))
    assert [slots for slots, _ in seen] == [1, 2, 2, 1]
    assert os.sched_getaffinity(0) == before
    assert found.audio > 0
    assert "one on 1 core" in found.advice
