"""Estimates: exact where the text is there, and near where only its length is."""

import json
import random
from pathlib import Path

import pytest

from engine.analysis import prompts, recipes
from engine.analysis.chunking import count_words, next_chunk
from engine.analysis.estimate import (
    BYTES_PER_TOKEN,
    USUAL_SHARE,
    WORDS_PER_SECOND,
    Estimate,
    estimate,
)
from engine.analysis.recipes import Recipe
from engine.records import Chunk, Segment

SUMMARY, CHAPTERS = recipes.load("summary"), recipes.load("chapters")


def transcript(seconds: float, seed: int, said: list[str]) -> list[Segment]:
    """Cues of real sentences at the usual rate, with pauses between them."""
    draw, segments, now = random.Random(seed), [], 0.0
    while now < seconds:
        text = f" {draw.choice(said)}"
        end = now + count_words(text) / WORDS_PER_SECOND
        segments.append(Segment(len(segments), 0, now, end, text, (), 0.0, 0.0, 1.0, 0.0))
        now = end + 0.001 * draw.random()
    return segments


def chunks(recipe: Recipe, segments: list[Segment]) -> list[Chunk]:
    found: list[Chunk] = []
    first = 0
    while chunk := next_chunk(
        segments, first, len(found), True, recipe.min_words, recipe.max_words
    ):
        found.append(chunk)
        first += len(chunk.cues)
    return found


@pytest.fixture(scope="module")
def said(samples: Path) -> list[str]:
    """What is said in the sample videos."""
    files = json.loads((samples / "references.json").read_text("utf-8"))["files"]
    return [cue["text"] for file in files for cue in file["tracks"][0]["cues"]]


def test_what_is_transcribed_is_counted_by_its_prompts(said: list[str]) -> None:
    asked = [(SUMMARY, chunk) for chunk in chunks(SUMMARY, transcript(600.0, 1, said))]
    found = estimate([SUMMARY], asked, 3, [], {})
    size = sum(
        len(message["content"].encode())
        for recipe, chunk in asked
        for message in prompts.messages(recipe, chunk)
    )
    assert (found.calls, found.answered) == (len(asked), 3)
    assert found.prompt_tokens == pytest.approx(size / BYTES_PER_TOKEN, abs=1)
    assert found.completion_tokens == pytest.approx(len(asked) * USUAL_SHARE * SUMMARY.max_tokens)
    assert found.most_completion_tokens == len(asked) * SUMMARY.max_tokens
    assert "transcripts that are there" in found.calls_why
    assert "guessed at 25 % of max_tokens" in found.tokens_why


def test_length_alone_tells_nearly_the_same(said: list[str]) -> None:
    lengths = [30.0, 100.0, 600.0, 3600.0, 7200.0, 1500.0]
    exact = [
        (SUMMARY, chunk)
        for seed, seconds in enumerate(lengths)
        for chunk in chunks(SUMMARY, transcript(seconds, seed, said))
    ]
    known = estimate([SUMMARY], exact, 0, [], {})
    guessed = estimate([SUMMARY], [], 0, lengths, {})
    assert guessed.calls == pytest.approx(known.calls, rel=0.1)
    assert guessed.prompt_tokens == pytest.approx(known.prompt_tokens, rel=0.1)
    assert "6 videos at 2.5 words a second and 225 words a chunk" in guessed.calls_why


def test_every_recipe_is_counted_for_every_video() -> None:
    one = estimate([SUMMARY], [], 0, [1000.0, 50.0], {})
    other = estimate([CHAPTERS], [], 0, [1000.0, 50.0], {})
    both = estimate([SUMMARY, CHAPTERS], [], 0, [1000.0, 50.0], {})
    assert (one.calls, both.calls) == (12 + 1, 13 + other.calls)
    assert both.prompt_tokens == pytest.approx(one.prompt_tokens + other.prompt_tokens, abs=1)


def test_earlier_answers_are_believed_more_than_the_guess() -> None:
    found = estimate([SUMMARY, CHAPTERS], [], 0, [50.0], {"summary": 31.5})
    assert found.completion_tokens == 32 + USUAL_SHARE * CHAPTERS.max_tokens
    assert "answers of summary as long as those in this folder" in found.tokens_why
    assert "answers of chapters guessed" in found.tokens_why


def test_unknown_length_is_told_and_nothing_is_nothing() -> None:
    assert "2 videos of unknown length left out" in (
        estimate([SUMMARY], [], 0, [None, 50.0, None], {}).calls_why
    )
    assert estimate([SUMMARY], [], 5, [], {}) == Estimate(
        0, 5, 0, 0, 0, "nothing is left to ask", "3.5 bytes of the prompt a token"
    )
    assert estimate([SUMMARY], [], 0, [0.0], {}).calls == 0
