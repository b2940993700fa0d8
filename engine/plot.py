"""Speed-up against slots as a picture: a ``Scaling``'s figures in, an SVG document out.

Pure, and without a plotting library: a frame, two lines, a curve and points (SVG 1.1, W3C).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from engine.bench import Scaling

_WIDTH, _HEIGHT = 640, 480  # pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 50, 50  # pixels of margin
_STEPS = 60  # pieces of the curve
_MOST_MARKS = 8  # on an axis


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where slots and speed-ups lie in the picture."""

    most: int  # slots
    top: float  # speed-up

    def at(self, slots: float, speed_up: float) -> tuple[float, float]:
        across = (slots - 1) / max(1, self.most - 1)
        x = _LEFT + across * (_WIDTH - _LEFT - _RIGHT)
        y = _HEIGHT - _BOTTOM - speed_up / self.top * (_HEIGHT - _TOP - _BOTTOM)
        return round(x, 1), round(y, 1)


def svg(found: Scaling) -> str:
    """Points for what was measured, a line for the ideal, a curve for Amdahl's law."""
    most = max(m.slots for m in found.measurements)
    frame = _Frame(most, max(most, *(m.speed_up for m in found.measurements)) * 1.05)
    parts = [_text(_LEFT, 28, f"Speed-up with {found.model}", "start", 16)]
    parts += _axes(frame)
    parts += [_line([frame.at(1, 1), frame.at(most, most)], "#999", dashes="6 4")]
    if found.serial_share is not None:
        parts += _law(frame, found.serial_share)
    for m in found.measurements:
        x, y = frame.at(m.slots, m.speed_up)
        parts += [f'<circle cx="{x}" cy="{y}" r="5" fill="#246"/>']
        parts += [_text(x, y - 10, f"{m.speed_up:.2f}", "end" if m.slots == most else "start")]
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">'
    background = f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>'
    return "\n".join([opening, background, *parts, "</svg>", ""])


def _axes(frame: _Frame) -> list[str]:
    most = frame.most
    parts = [_text(_WIDTH / 2, _HEIGHT - 10, "slots")]
    for mark in _marks(most):
        (x, y), (left, level) = frame.at(mark, 0), frame.at(1, mark)
        parts += [_text(x, y + 18, str(mark)), _text(left - 12, level + 4, str(mark), "end")]
        parts += [_line([(left, level), frame.at(most, mark)], "#ddd")]
    corner = frame.at(1, 0)
    return [
        *parts,
        _line([corner, frame.at(most, 0)], "#444"),
        _line([corner, frame.at(1, frame.top)], "#444"),
    ]


def _law(frame: _Frame, share: float) -> list[str]:
    across = [1 + (frame.most - 1) * step / _STEPS for step in range(_STEPS + 1)]
    curve = [frame.at(n, 1 / (share + (1 - share) / n)) for n in across]
    note = f"dashed: ideal; curve: serial share {share:.1%}"
    return [_line(curve, "#d62"), _text(_WIDTH - _RIGHT, 28, note, "end", 12)]


def _marks(most: int) -> Sequence[int]:
    step = -(-most // _MOST_MARKS)
    return sorted({1, *range(step, most + 1, step)})


def _text(x: float, y: float, text: str, anchor: str = "middle", size: int = 13) -> str:
    place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}"'
    return f"<text {place}>{escape(text)}</text>"


def _line(points: Iterable[tuple[float, float]], colour: str, dashes: str = "none") -> str:
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    style = f'fill="none" stroke="{colour}" stroke-width="1.5" stroke-dasharray="{dashes}"'
    return f'<polyline points="{path}" {style}/>'
