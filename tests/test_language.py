"""Which language a video is in: the first window if it is sure, else the mean of five."""

from hypothesis import given
from hypothesis import strategies as st

from engine.speech.language import SURE, WINDOWS, decide


def test_nothing_heard_decides_nothing():
    assert decide([], whole=False) is None
    assert decide([], whole=True) is None


def test_sure_first_window_is_not_outvoted():
    other = {"en": 0.1, "de": 0.9}
    assert decide([{"en": SURE, "de": 0.4}, *[other] * 4], whole=True) == ("en", SURE)


def test_unsure_first_window_waits_for_four_more_or_the_end():
    first = {"en": 0.375, "de": 0.25}
    assert decide([first] * (WINDOWS - 1), whole=False) is None
    assert decide([first] * WINDOWS, whole=False) == ("en", 0.375)
    assert decide([first], whole=True) == ("en", 0.375)


def test_windows_after_the_fifth_have_no_voice():
    first = [{"en": 0.375, "de": 0.25}] * WINDOWS
    assert decide([*first, *[{"en": 0.0, "de": 1.0}] * 9], whole=True) == ("en", 0.375)


def test_language_that_a_window_does_not_name_counts_as_zero_there():
    heard = [{"en": 0.375, "de": 0.25}, {"de": 1.0}]
    assert decide(heard, whole=True) == ("de", 0.625)


@given(st.permutations(["en", "de", "fr"]))
def test_equals_are_settled_by_name_not_by_order(names):
    assert decide([dict.fromkeys(names, 0.3)], whole=True) == ("de", 0.3)
