"""What the videos that a run has ended add up to, for its report.

In: jobs with their results. Out: seconds, windows, items. Pure.
"""

from collections import Counter
from dataclasses import dataclass, field

from engine.job import Job
from engine.records import Grounding, VideoResult


@dataclass(slots=True)
class Totals:
    """Grows by ``add`` alone."""

    audio: float = 0.0  # seconds transcribed
    decoded_again: int = 0  # windows that failed a quality gate
    suspects: int = 0  # windows that still do
    items: Counter[Grounding] = field(default_factory=Counter)  # found, by their grounding
    dropped: int = 0  # items that did not fit their recipe

    def add(self, job: Job, result: VideoResult) -> None:
        """A video has ended; what was on disk before the run is not its work."""
        self.audio += 0.0 if job.read_back else job.decoded
        self.decoded_again += job.decoded_again
        self.suspects += len(result.transcript.suspects) if result.transcript else 0
        for analysis in result.analyses:
            self.items.update(item.grounding for item in (*analysis.items, *analysis.ungrounded))
            self.dropped += analysis.dropped
