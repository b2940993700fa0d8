"""How often, and how long, an endpoint may ask us to come back later than a call can wait.

Pure. A pause is told to every call under way; told again before it is over, it is the same one.
"""

LONGEST = 3_600.0  # seconds; a quota for a day is not worth a night of waiting
IN_A_ROW = 3  # pauses without an answer between them


class Pauses:
    """The pauses of one endpoint."""

    def __init__(self) -> None:
        self.is_new = False  # the last one was not told before
        self._ends = 0.0
        self._unanswered = 0

    def worth(self, seconds: float, began: float, now: float) -> bool:
        """Whether to wait for the end of this pause, told ``now`` to a call of that begin."""
        self.is_new = began >= self._ends
        if self.is_new:
            self._unanswered += 1
            self._ends = now + seconds
        return seconds <= LONGEST and self._unanswered <= IN_A_ROW

    def answered(self) -> None:
        """The endpoint works."""
        self._unanswered = 0
