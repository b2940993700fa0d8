"""The sampling thread: samples while it runs, nothing after it has ended."""

import threading
import time
from itertools import pairwise

from engine.pools.gpus import Gpu
from engine.pools.monitor import Monitor, Sample


def _wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_samples_come_in_time_order_with_real_readings():
    samples: list[Sample] = []
    with Monitor(samples.append, interval=0.05):
        assert _wait_for(lambda: len(samples) >= 4)
    times = [sample.time for sample in samples]
    assert times == sorted(times)
    assert all(sample.cpu is not None and 0 <= sample.cpu <= 1 for sample in samples)
    assert all(sample.memory is not None and sample.memory > 1 << 20 for sample in samples)
    assert abs(samples[-1].wall - time.time()) < 10


def test_work_shows_in_the_cpu_share():
    samples: list[Sample] = []
    with Monitor(samples.append, interval=0.3):
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            sum(range(1000))
    shares = [sample.cpu for sample in samples if sample.cpu is not None]
    assert max(shares) > 0


def test_a_gpu_that_does_not_answer_is_unknown_not_idle():
    gone = Gpu("GPU-gone", "card", total=None, free=None, uuid="GPU-gone", mig=False)
    samples: list[Sample] = []
    with Monitor(samples.append, gpus=(gone,), interval=0.05):
        assert _wait_for(lambda: samples)
    assert samples[0].gpus == (None,)


def test_close_ends_the_thread_at_once_and_no_sample_follows():
    samples: list[Sample] = []
    monitor = Monitor(samples.append, interval=30)
    monitor.start()
    assert "reelmine-monitor" in {thread.name for thread in threading.enumerate()}
    began = time.monotonic()
    monitor.close()
    monitor.close()
    assert time.monotonic() - began < 5
    assert "reelmine-monitor" not in {thread.name for thread in threading.enumerate()}
    assert samples == []


def test_a_monitor_that_never_started_can_be_closed():
    Monitor(lambda sample: None).close()


def test_a_slow_listener_gets_fewer_samples_not_a_backlog():
    samples: list[Sample] = []

    def slow(sample):
        samples.append(sample)
        time.sleep(0.3)

    with Monitor(slow, interval=0.05):
        assert _wait_for(lambda: len(samples) >= 4)
    gaps = [b.time - a.time for a, b in pairwise(samples)]
    assert min(gaps) >= 0.3
