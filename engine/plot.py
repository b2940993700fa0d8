"""Figures as pictures: curves or bars in, an SVG document out; a ``Scaling`` has its own picture.

Pure, and without a plotting library: a frame, marks, lines, points and bars (SVG 1.1, W3C).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10

from engine.bench import Scaling

_WIDTH, _HEIGHT = 640, 480  # pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 60, 50  # pixels of margin
_STEPS = 60  # pieces of the curve of a law
_MOST_MARKS = 8  # on an axis
_COLOURS = ("#246", "#d62", "#283", "#a3a", "#076", "#850")
_BAR, _GAP, _NAMES, _VALUES = 24, 14, 220, 80  # pixels: of bars, and left and right of them


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through points, or with ``marked`` the points themselves, each with its value."""

    name: str  # in the legend
    points: Sequence[tuple[float, float]]
    marked: bool = False
    joined: bool = True
    dashed: bool = False
    steps: bool = False  # a value holds until the next point
    beside: Sequence[str] = ()  # what stands at each marked point; empty: its value


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where values lie in the picture."""

    low: float
    high: float
    top: float  # heights begin at 0

    def at(self, x: float, y: float) -> tuple[float, float]:
        share = (x - self.low) / (self.high - self.low or 1)
        down = _HEIGHT - _BOTTOM - y / self.top * (_HEIGHT - _TOP - _BOTTOM)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1), round(down, 1)


def svg(found: Scaling) -> str:
    """Points for what was measured, a line for the ideal, a curve for Amdahl's law.

    Beside each point stand its speed-up and, as a share of the ideal, its efficiency.
    """
    most = max(m.slots for m in found.measurements)
    drawn = [Curve("ideal", [(1, 1), (most, most)], dashed=True)]
    if (share := found.serial_share) is not None:
        across = [1 + (most - 1) * step / _STEPS for step in range(_STEPS + 1)]
        law = [(n, 1 / (share + (1 - share) / n)) for n in across]
        drawn.append(Curve(f"serial share {share:.1%}", law))
    measured = [(m.slots, m.speed_up) for m in found.measurements]
    told = [f"{m.speed_up:.2f} ({m.efficiency:.0%})" for m in found.measurements]
    drawn.append(Curve("measured (efficiency)", measured, marked=True, joined=False, beside=told))
    marks = _whole_marks(most)
    return curves(f"Speed-up and efficiency with {found.model}", "slots", "speed-up", drawn, marks)


def curves(
    title: str,
    across: str,
    up: str,
    drawn: Sequence[Curve],
    marks: Sequence[float] = (),
) -> str:
    """Curves over a common axis ``across`` (with these marks) and heights from 0 ``up``."""
    points = [point for curve in drawn for point in curve.points] or [(1.0, 1.0)]
    low, high = min(x for x, _ in points), max(x for x, _ in points)
    frame = _Frame(low, high, (max(y for _, y in points) or 1.0) * 1.05)
    parts = [_text(_LEFT, 24, title, "start", 16)]
    parts += _axes(frame, across, up, marks or _round_marks(low, high))
    column = (_WIDTH - _LEFT - _RIGHT) / max(1, len(drawn))
    for number, curve in enumerate(drawn):
        colour = _COLOURS[number % len(_COLOURS)]
        parts += _drawn(frame, curve, colour)
        parts.append(_text(_LEFT + column * number, 46, curve.name, "start", 12, colour))
    return _document(_WIDTH, _HEIGHT, parts)


def bars(title: str, unit: str, rows: Sequence[tuple[str, float]]) -> str:
    """A bar for each (name, value), from the top down."""
    longest = max((value for _, value in rows), default=0.0) or 1.0
    room = _WIDTH - _NAMES - _VALUES
    parts = [_text(_GAP, 24, title, "start", 16)]
    for number, (name, value) in enumerate(rows):
        y, width = 40 + number * (_BAR + _GAP), max(0.0, value) / longest * room
        place = f'x="{_NAMES}" y="{y}" width="{width:.1f}" height="{_BAR}"'
        parts += [
            _text(_NAMES - 8, y + 17, name, "end"),
            f'<rect class="bar" {place} fill="{_COLOURS[0]}"/>',
            _text(_NAMES + width + 6, y + 17, f"{value:.3g} {unit}", "start"),
        ]
    return _document(_WIDTH, 50 + len(rows) * (_BAR + _GAP), parts)


def _drawn(frame: _Frame, curve: Curve, colour: str) -> Iterator[str]:
    placed = [frame.at(x, y) for x, y in curve.points]
    if curve.joined:
        yield _line(_stairs(placed) if curve.steps else placed, colour, dashed=curve.dashed)
    if not curve.marked:
        return
    told = curve.beside or [f"{value:.2f}" for _, value in curve.points]
    for (x, y), text in zip(placed, told, strict=True):
        yield f'<circle cx="{x}" cy="{y}" r="5" fill="{colour}"/>'
        anchor = "end" if x > _WIDTH - _RIGHT - 8 * len(text) else "start"
        yield _text(x, y - 10, text, anchor, colour=colour)


def _stairs(placed: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    for number, (x, y) in enumerate(placed):
        if number:
            yield x, placed[number - 1][1]
        yield x, y


def _axes(frame: _Frame, across: str, up: str, marks: Sequence[float]) -> list[str]:
    upright = f'<g transform="translate(16 {_HEIGHT / 2:g}) rotate(-90)">{_text(0, 0, up)}</g>'
    parts = [_text(_WIDTH / 2, _HEIGHT - 10, across), upright]
    for mark in marks:
        x, y = frame.at(mark, 0)
        parts.append(_text(x, y + 18, f"{mark:g}"))
    for mark in _round_marks(0, frame.top):
        left, level = frame.at(frame.low, mark)
        parts += [
            _text(left - 8, level + 4, f"{mark:g}", "end"),
            _line([(left, level), frame.at(frame.high, mark)], "#ddd"),
        ]
    corner = frame.at(frame.low, 0)
    return [
        *parts,
        _line([corner, frame.at(frame.high, 0)], "#444"),
        _line([corner, frame.at(frame.low, frame.top)], "#444"),
    ]


def _whole_marks(most: int) -> Sequence[int]:
    step = -(-most // _MOST_MARKS)
    return sorted({1, *range(step, most + 1, step)})


def _round_marks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, at most eight or so."""
    rough = (high - low or 1.0) / _MOST_MARKS
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = -floor(-low / step), floor(high / step)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _document(width: int, height: int, parts: Iterable[str]) -> str:
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">'
    background = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    return "\n".join([opening, background, *parts, "</svg>", ""])


def _text(
    x: float, y: float, text: str, anchor: str = "middle", size: int = 13, colour: str = "#000"
) -> str:
    place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"'
    return f"<text {place}>{escape(text)}</text>"


def _line(points: Iterable[tuple[float, float]], colour: str, *, dashed: bool = False) -> str:
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    style = f'fill="none" stroke="{colour}" stroke-width="1.5"'
    dashes = ' stroke-dasharray="6 4"' if dashed else ""
    return f'<polyline points="{path}" {style}{dashes}/>'
