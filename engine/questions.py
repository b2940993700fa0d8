"""One recipe's way through a video: its chunks go out, their results come in, an analysis results.

In: the sealed text so far, results of chunks in any order. Out: the chunks that this text decides,
and the analysis as it stands. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.analysis.chunking import next_chunk
from engine.analysis.merging import merge
from engine.analysis.recipes import Recipe
from engine.records import Analysis, Chunk, ChunkResult, Problem, Segment, State, Transcript


@dataclass(slots=True)
class Questions:
    """What a recipe asks about one video."""

    recipe: Recipe
    analyst: str
    results: dict[int, ChunkResult] = field(default_factory=dict)
    next_cue: int = 0
    chunks: int = 0  # handed out so far
    skipped: Problem | None = None

    def new_chunks(self, segments: Sequence[Segment], *, sealed: bool) -> list[Chunk]:
        """Chunks that these segments decide and that were not handed out; ``sealed``: all text."""
        chunks: list[Chunk] = []
        least, most = self.recipe.min_words, self.recipe.max_words
        while self.skipped is None:
            chunk = next_chunk(segments, self.next_cue, self.chunks, sealed, least, most)
            if chunk is None:
                break
            self.next_cue += len(chunk.cues)
            self.chunks += 1
            chunks.append(chunk)
        return chunks

    def complete(self, transcript: Transcript | None) -> bool:
        """Every chunk there will ever be has ended."""
        return self.skipped is not None or (
            transcript is not None
            and self.next_cue >= len(transcript.segments)
            and len(self.results) == self.chunks
        )

    def analysis(self, transcript: Transcript | None, *, final: bool) -> Analysis:
        """What was found so far; ``final``: what is not complete now was interrupted."""
        name = self.recipe.name
        if self.skipped is not None:
            return Analysis(name, self.analyst, State.SKIPPED, problem=self.skipped)
        results = [self.results[index] for index in sorted(self.results)]
        failed = tuple(result for result in results if result.state is not State.DONE)
        items, ungrounded = merge(self.recipe, results)
        state, problem = State.DONE, None
        if not self.complete(transcript):
            state = State.INTERRUPTED if final else State.PENDING
            problem = Problem(
                "E_INTERRUPTED", "The analysis is not complete; the same command goes on with it."
            )
        elif failed:
            timed_out = all(result.state is State.TIMED_OUT for result in failed)
            state = State.TIMED_OUT if timed_out else State.FAILED
            problem = failed[0].problem
        return Analysis(
            name,
            self.analyst,
            state,
            items,
            ungrounded,
            self.chunks,
            failed,
            sum(result.dropped for result in results),
            problem,
        )
