"""Whose fault a failed batch was, and who gets another try."""

from engine.deaths import Deaths
from engine.places import Batch


def test_a_video_in_company_is_tried_again_however_often_and_alone_it_fails_at_the_second():
    deaths = Deaths()
    together = Batch(1, ((1, 4), (0, 2), (1, 5)))
    for _ in range(3):
        assert deaths.parts(together) == [((0, 2),), ((1, 4), (1, 5))]
    assert deaths.parts(Batch(4, ((0, 2),))) == []


def test_windows_of_a_video_that_were_not_in_the_batch_that_failed_have_their_tries_left():
    deaths = Deaths()
    for number in range(4):
        assert deaths.parts(Batch(number, ((0, number),))) == [((0, number),)]
    assert deaths.parts(Batch(4, ((0, 4), (0, 0)))) == []


def test_a_video_alone_may_be_tried_once_more():
    deaths = Deaths()
    assert [deaths.may_try(0), deaths.may_try(0), deaths.may_try(1)] == [True, False, True]
