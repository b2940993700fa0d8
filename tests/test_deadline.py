"""Scopes: which deadline holds where."""

import threading

from engine.llm.deadline import Scope, current, within


def test_an_inner_deadline_never_outlasts_the_outer_one() -> None:
    with within(1.0) as outer, within(60.0) as inner:
        assert inner.deadline == outer.deadline
        with within(0.1) as shorter:
            assert shorter.deadline < outer.deadline
        assert current() is inner


def test_deadline_belongs_to_its_thread() -> None:
    seen: list[Scope | str] = []

    def other() -> None:
        try:
            seen.append(current())
        except RuntimeError as error:
            seen.append(str(error))

    with within(1.0):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == ["a request was made outside of `within`"]
