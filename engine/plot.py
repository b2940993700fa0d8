"""Speed-up against slots as a picture: a ``Scaling``'s figures in, an SVG document out.

Pure, and without a plotting library: a frame, two lines, a curve and points (SVG 1.1, W3C).
"""

from collections.abc import Iterable, Sequence
from html import escape

from engine.bench import Scaling

_WIDTH, _HEIGHT = 640, 480  # pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 50, 50  # pixels of margin
_STEPS = 60  # pieces of the curve
_MOST_MARKS = 8  # on an axis


def svg(found: Scaling) -> str:
    """Points for what was measured, a line for the ideal, a curve for Amdahl's law."""
    most = max(m.slots for m in found.measurements)
    top = max(most, *(m.speed_up for m in found.measurements)) * 1.05

    def at(slots: float, speed_up: float) -> tuple[float, float]:
        across = (slots - 1) / max(1, most - 1)
        x = _LEFT + across * (_WIDTH - _LEFT - _RIGHT)
        return round(x, 1), round(
            _HEIGHT - _BOTTOM - speed_up / top * (_HEIGHT - _TOP - _BOTTOM), 1
        )

    parts = [_text(_LEFT, 28, f"Speed-up with {found.model}", "start", 16)]
    parts += [_text(_WIDTH / 2, _HEIGHT - 10, "slots")]
    for mark in _marks(most):
        (x, y), (left, level) = at(mark, 0), at(1, mark)
        parts += [_text(x, y + 18, str(mark)), _text(left - 12, level + 4, str(mark), "end")]
        parts += [_line([(left, level), (at(most, mark))], "#ddd")]
    parts += [_line([at(1, 0), at(most, 0)], "#444"), _line([at(1, 0), at(1, top)], "#444")]
    parts += [_line([at(1, 1), at(most, most)], "#999", dashes="6 4")]
    if found.serial_share is not None:
        s = found.serial_share
        across = [1 + (most - 1) * step / _STEPS for step in range(_STEPS + 1)]
        parts += [_line([at(n, 1 / (s + (1 - s) / n)) for n in across], "#d62")]
        note = f"dashed: ideal; curve: serial share {s:.1%}"
        parts += [_text(_WIDTH - _RIGHT, 28, note, "end", 12)]
    for m in found.measurements:
        x, y = at(m.slots, m.speed_up)
        parts += [f'<circle cx="{x}" cy="{y}" r="5" fill="#246"/>']
        parts += [_text(x, y - 10, f"{m.speed_up:.2f}", "end" if m.slots == most else "start")]
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">'
    background = f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>'
    return "\n".join([frame, background, *parts, "</svg>", ""])


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
