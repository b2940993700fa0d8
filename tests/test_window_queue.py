"""The queue of windows alone: who goes first, what a gate holds back, what is sent again."""

from engine.window_queue import WindowQueue

RANKS = {0: -30.0, 1: -900.0, 2: -900.0}  # video 1 and 2 are as long as each other


def waiting():
    queue = WindowQueue()
    for video in (2, 0, 1):
        queue.put(video, (0, 1, 2))
    return queue


def pick(queue, count):
    return queue.pick(count, RANKS.__getitem__)


def test_windows_go_by_rank_then_by_number_of_the_video_then_in_order():
    queue = waiting()
    assert pick(queue, 4) == ((1, 0), (1, 1), (1, 2), (2, 0))
    assert pick(queue, 9) == ((2, 1), (2, 2), (0, 0), (0, 1), (0, 2))
    assert pick(queue, 1) == ()
    assert len(queue) == 0


def test_windows_put_back_go_before_later_ones_of_their_video():
    queue = waiting()
    pick(queue, 2)
    queue.put(1, (5, 0))
    assert pick(queue, 3) == ((1, 0), (1, 2), (1, 5))


def test_windows_behind_a_gate_wait_and_other_videos_fill_the_batch():
    queue = waiting()
    queue.set_gate(1, 1)
    queue.set_gate(2, 0)
    assert (queue.available, len(queue)) == (4, 9)
    assert pick(queue, 4) == ((1, 0), (0, 0), (0, 1), (0, 2))
    assert (queue.available, len(queue)) == (0, 5)
    queue.set_gate(1, None)
    assert pick(queue, 4) == ((1, 1), (1, 2))


def test_a_gate_counts_positions_not_windows_that_still_wait():
    queue = WindowQueue()
    queue.set_gate(0, 2)
    queue.put(0, (1, 2, 3))  # the first one came from the ledger
    assert queue.available == 1
    assert pick(queue, 3) == ((0, 1),)


def test_batches_sent_again_go_whole_whatever_the_gate_and_are_no_single_windows():
    queue = WindowQueue()
    queue.put(1, (7,))
    queue.set_gate(1, 0)
    queue.put_batch(((1, 4), (1, 5)))
    queue.put_batch(((0, 0),))
    assert (queue.single, queue.available, len(queue)) == (1, 3, 4)
    assert pick(queue, 4) == ()
    assert queue.take_batch() == ((1, 4), (1, 5))
    assert queue.take_batch() == ((0, 0),)
    assert queue.take_batch() == ()


def test_a_dropped_video_leaves_nothing_and_takes_nothing_along():
    queue = waiting()
    queue.put_batch(((1, 8), (1, 9)))
    queue.put_batch(((2, 8),))
    queue.drop(1)
    assert queue.take_batch() == ((2, 8),)
    assert queue.take_batch() == ()
    assert pick(queue, 9) == ((2, 0), (2, 1), (2, 2), (0, 0), (0, 1), (0, 2))


def test_a_cleared_queue_is_empty():
    queue = waiting()
    queue.put_batch(((1, 8),))
    queue.clear()
    assert (len(queue), queue.available, queue.take_batch(), pick(queue, 1)) == (0, 0, (), ())
