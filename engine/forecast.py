"""What the calls of a run would cost, for `plan`.

In: what is prepared, and the lengths of the videos that have no transcript. Out: an estimate with
its cost, and which limit it would exceed. Reads the ledger, changes nothing.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from engine.analysis.analysts import has_words, question_key
from engine.analysis.estimate import Estimate, estimate
from engine.analysis.recipes import Recipe
from engine.records import Chunk, Spent
from engine.setup import Prepared
from engine.store.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Forecast:
    """What calls would take; costs in the currency of the user's prices."""

    estimate: Estimate
    cost: float | None  # None: no price is known
    most_cost: float | None  # every answer as long as it may be
    over: str | None  # the limit that it would exceed, as it was given


def forecast(ready: Prepared, seconds: Sequence[float | None]) -> Forecast | None:
    """`seconds`: of each video without a transcript; None: nobody is asked who could be paid."""
    endpoint, budget = ready.answering.endpoint, ready.budget
    if endpoint is None:
        return None
    asked, answered = _questions(ready, endpoint.model)
    usual = _usual_answers(ready.ledger, endpoint.model)
    found = estimate(ready.answering.recipes, asked, answered, seconds, usual)
    taken = Spent(found.calls, found.prompt_tokens, found.completion_tokens)
    most = Spent(found.calls, found.prompt_tokens, found.most_completion_tokens)
    return Forecast(
        found,
        budget.cost({endpoint.model: taken}),
        budget.cost({endpoint.model: most}),
        budget.over(taken),
    )


def _questions(ready: Prepared, model: str) -> tuple[list[tuple[Recipe, Chunk]], int]:
    """What is to be asked about the transcripts that are there, and how much of it is answered."""
    asked, answered = [], 0
    for job in ready.jobs.values():
        if job.transcript is None:
            continue
        for name, chunk in job.new_chunks():
            recipe = job.questions[name].recipe
            if ready.ledger.reply(question_key(model, recipe, chunk)) is not None:
                answered += 1
            elif has_words(chunk):
                asked.append((recipe, chunk))
    return asked, answered


def _usual_answers(ledger: Ledger, model: str) -> dict[str, float]:
    """Recipe -> mean tokens of what this model has answered here, where the server counted."""
    counts: dict[str, list[int]] = defaultdict(list)
    for recorded in ledger.replies():
        tokens = recorded.reply.completion_tokens
        if recorded.model == model and tokens is not None:
            counts[recorded.recipe].append(tokens)
    return {recipe: sum(each) / len(each) for recipe, each in counts.items()}
