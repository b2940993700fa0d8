"""The LLM side with the schedule, turn by turn: what one turn of the loop brings in which order."""

import time
from contextlib import closing
from queue import SimpleQueue
from typing import Any

from engine.analysis.recipes import load
from engine.calls import Answerer, Calls
from engine.errors import CallError
from engine.job import Job
from engine.llm.limits import Limits
from engine.messages import Action, Call
from engine.pools.threads import CallOutcome
from engine.questions import Questions
from engine.records import Chunk, Reply, Segment, Video
from engine.schedule import Schedule
from engine.store.ledger import Ledger

SUMMARY = load("summary")


class Said:
    """An analyst whose calls last until the test ends them: what is said decides the reply."""

    name = "said"

    def __init__(self) -> None:
        self.begun: list[str] = []

    def key(self, recipe: Any, chunk: Chunk) -> str:
        return chunk.cues[0].text

    def call(self, recipe: Any, chunk: Chunk, *half: Any) -> Reply:
        self.begun.append(chunk.cues[0].text)
        return Reply("[]")


def test_chunk_that_begins_in_the_turn_in_which_the_same_fails_is_asked_once(tmp_path) -> None:
    analyst, actions = Said(), list[Action]()
    plan = Schedule({}, 0, Limits(2, 2), [])
    videos = {n: Video(f"/v/{n}.mp4", str(n), 1, 0, "f") for n in range(3)}
    jobs = {n: Job(videos[n], "key", [Questions(SUMMARY, "said")]) for n in videos}
    answerer = Answerer(analyst, False, lambda: None, lambda hear: None, 2, 60.0)

    def step(event: Any) -> None:
        actions.extend(plan.step(event, time.monotonic()))

    def act() -> None:
        while actions:
            action = actions.pop(0)
            assert isinstance(action, Call)
            calls.start(action.key)

    with closing(Ledger(tmp_path)) as ledger:
        ended: SimpleQueue[Any] = SimpleQueue()
        calls = Calls(answerer, jobs, ledger, ended, plan, step, lambda event: None)
        for number, text in enumerate(("else", "same", "same")):
            calls.ask(
                number,
                "summary",
                Chunk(0, (), (Segment(0, 0, 0.0, 1.0, text, (), 0.0, 0.0, 1.0, 0.0),)),
            )
        act()
        other, same = sorted((ended.get(timeout=20) for _ in range(2)), key=lambda o: o.key)
        calls.ended(other)  # the third chunk begins, and before it is sent, the same one fails
        calls.ended(CallOutcome(same.key, None, CallError("no"), same.began))
        act()
        assert plan.calls.under_way == {(2, "summary", 0)} and not plan.idle
        calls.ended(ended.get(timeout=20))
        act()
        assert analyst.begun.count("same") == 2
        assert plan.idle and not plan.calls.under_way
        assert [len(job.questions["summary"].results) for job in jobs.values()] == [1, 1, 1]
        calls.close(stop=False)
