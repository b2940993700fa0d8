"""Window results, in any order, become segments on the video's clock, in order of position.

``Assembly.add`` takes a window and its result; whatever is now sealed (all windows before it are
there) comes out as segments. The clean-up of word times looks at the window before, so it runs here
and not in the slot. Pure: no clock, no files.
"""

from bisect import bisect, bisect_left
from dataclasses import replace
from itertools import accumulate

from engine.records import SAMPLE_RATE, Piece, Segment, Span, Window, WindowResult, Word


class Assembly:
    """The transcript of one video while it grows."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self._waiting: dict[int, tuple[Window, WindowResult]] = {}
        self._sealed = 0  # windows sealed so far
        self._speech_before = 0.0  # seconds of speech in them
        self._last_word = 0.0  # where the last word ended, in speech time

    @property
    def sealed_windows(self) -> int:
        """How many windows have become segments."""
        return self._sealed

    def has(self, position: int) -> bool:
        """Whether this window's result is there already."""
        return position < self._sealed or position in self._waiting

    def add(self, window: Window, result: WindowResult) -> list[Segment]:
        """The segments sealed by this result; a position given twice is an error of ours."""
        assert window.position not in self._waiting and window.position >= self._sealed
        self._waiting[window.position] = window, result
        new: list[Segment] = []
        while self._sealed in self._waiting:
            new += self._seal(*self._waiting.pop(self._sealed))
        return new

    def _seal(self, window: Window, result: WindowResult) -> list[Segment]:
        pieces = list(result.pieces)
        if any(piece.words for piece in pieces):
            pieces, self._last_word = fit_words(
                pieces, result.word_median, self._speech_before, self._last_word
            )
        clock = WindowClock(window.spans)
        first = len(self.segments)
        new = [_segment(piece, first + i, window, result, clock) for i, piece in enumerate(pieces)]
        self.segments += new
        self._sealed += 1
        self._speech_before += window.samples / SAMPLE_RATE
        return new


class WindowClock:
    """Seconds from a window's start to seconds of the video, through the pauses between its spans.

    The rule of faster-whisper's ``SpeechTimestampsMap``, kept inside the window: what lies beyond
    its speech ends with its speech, never in a later window.
    """

    def __init__(self, spans: tuple[Span, ...]) -> None:
        self._spans = spans
        self._ends = list(accumulate(span.end - span.start for span in spans))

    def index(self, seconds: float, *, is_end: bool = False) -> int:
        """Which span the instant lies in; an end on a border belongs to the span before."""
        sample = int(seconds * SAMPLE_RATE)
        find = bisect_left if is_end else bisect
        return min(find(self._ends, sample), len(self._ends) - 1)

    def time(self, seconds: float, index: int | None = None, *, is_end: bool = False) -> float:
        """The instant on the video's clock, to 10 ms."""
        at = self.index(seconds, is_end=is_end) if index is None else index
        span = self._spans[at]
        begins = self._ends[at] - (span.end - span.start)
        limit = self._spans[-1].end / SAMPLE_RATE
        return min(round((span.start - begins) / SAMPLE_RATE + seconds, 2), round(limit, 2))


def _segment(
    piece: Piece, number: int, window: Window, result: WindowResult, clock: WindowClock
) -> Segment:
    words = tuple(_word(word, clock) for word in piece.words)
    return Segment(
        id=number,
        seek=window.spans[0].start * 100 // SAMPLE_RATE,
        start=words[0].start if words else clock.time(piece.start),
        end=words[-1].end if words else clock.time(piece.end, is_end=True),
        text=piece.text,
        tokens=piece.tokens,
        temperature=0.0,
        avg_logprob=result.avg_logprob,
        compression_ratio=piece.compression_ratio,
        no_speech_prob=result.no_speech_prob,
        words=words or None,
    )


def _word(word: Word, clock: WindowClock) -> Word:
    """Both ends by the span its middle lies in, so that a word never straddles a pause."""
    index = clock.index((word.start + word.end) / 2)
    return replace(word, start=clock.time(word.start, index), end=clock.time(word.end, index))


def fit_words(
    pieces: list[Piece], median: float, offset: float, last_word: float
) -> tuple[list[Piece], float]:
    """Tame over-long words at the borders of pieces; openai-whisper's rule.

    ``offset`` is the speech before the window, ``last_word`` where the last word before ended, both
    in seconds of speech; returned are the pieces (times still from the window's start) and the new
    ``last_word``.
    """
    fitted = []
    for piece in pieces:
        words = [
            replace(word, start=round(offset + word.start, 2), end=round(offset + word.end, 2))
            for word in piece.words
        ]
        start, end = piece.start + offset, piece.end + offset
        if words:
            _tame_first(words, median, last_word)
            start = _agree_start(words, start, median)
            end = _agree_end(words, end, median)
            last_word = end
        fitted.append(
            replace(
                piece,
                start=start - offset,
                end=end - offset,
                words=tuple(replace(w, start=w.start - offset, end=w.end - offset) for w in words),
            )
        )
    return fitted, last_word


def _tame_first(words: list[Word], median: float, last_word: float) -> None:
    """The first and second word after a pause are not longer than twice the median."""
    longest = 2 * median
    first = words[0]
    if first.end - last_word <= median * 4:
        return
    pair_is_long = len(words) > 1 and words[1].end - first.start > longest * 2
    if not (first.end - first.start > longest or pair_is_long):
        return
    if len(words) > 1 and words[1].end - words[1].start > longest:
        border = max(words[1].end / 2, words[1].end - longest)
        first = replace(first, end=border)
        words[1] = replace(words[1], start=border)
    words[0] = replace(first, start=max(0.0, first.end - longest))


def _agree_start(words: list[Word], start: float, median: float) -> float:
    """The segment's start wins if the first word is too long, else the word's."""
    first = words[0]
    if start < first.end and start - 0.5 > first.start:
        words[0] = replace(first, start=max(0.0, min(first.end - median, start)))
        return start
    return first.start


def _agree_end(words: list[Word], end: float, median: float) -> float:
    last = words[-1]
    if end > last.start and end + 0.5 < last.end:
        words[-1] = replace(last, end=max(last.start + median, end))
        return end
    return last.end
