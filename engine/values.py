"""What an option's value may be: what was written -> what it means.

A parser takes a text, a number or a list, from a command line or a TOML file, and returns the value
in its usual form, or raises ``ValueError`` with what is allowed, as the end of a sentence. Knows
nothing about which options there are and where their values come from.
"""

import datetime as dt
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

from engine.speech.languages import LANGUAGES, code_of


def text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text is needed.")
    return value


def path(value: object) -> Path:
    return _path(value, "folder")


def file(value: object) -> Path:
    return _path(value, "file")


def _path(value: object, what: str) -> Path:
    if not isinstance(value, (str, Path)) or not str(value):
        raise ValueError(f"the path of a {what} is needed.")
    return Path(value).expanduser()


def boolean(value: object) -> bool:
    word = str(value).strip().lower()
    if word in {"true", "yes", "on", "1"}:
        return True
    if word in {"false", "no", "off", "0"}:
        return False
    raise ValueError("use true or false.")


def choice(allowed: Iterable[str]) -> Callable[[object], str]:
    known = tuple(allowed)

    def parse(value: object) -> str:
        word = str(value).strip().lower()
        if word not in known:
            raise ValueError(f"use one of {', '.join(known)}.")
        return word

    return parse


def whole(least: int, most: int | None = None, digits: int = 9) -> Callable[[object], int]:
    end = "up" if most is None else f"to {most}"

    def parse(value: object) -> int:
        written = str(value).strip()
        fits = re.fullmatch(rf"\d{{1,{digits}}}", written, re.ASCII)
        if not fits or int(written) < least or (most is not None and int(written) > most):
            raise ValueError(f"a whole number from {least} {end} is needed.")
        return int(written)

    return parse


def seconds(value: object) -> float:
    return _above_zero(value, "a number of seconds")


def amount(value: object) -> float:
    return _above_zero(value, "an amount")


def _above_zero(value: object, what: str) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{what} above 0 is needed.")
    return number


def span(value: object) -> float:
    """Seconds, or HH:MM:SS; TOML has times of day of its own that look the same."""
    written = value.isoformat("seconds") if isinstance(value, dt.time) else str(value).strip()
    clock = re.fullmatch(r"(\d{1,5}):([0-5]\d):([0-5]\d)", written, re.ASCII)
    try:
        if clock:
            hours, minutes, rest = map(int, clock.groups())
            return seconds(hours * 3600 + minutes * 60 + rest)
        return seconds(value)
    except ValueError as error:
        allowed = "seconds above 0 or HH:MM:SS are needed, such as 5400 or 01:30:00."
        raise ValueError(allowed) from error


def device(value: object) -> str:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:0,cuda:2``, without blanks and repetitions."""
    written = re.sub(r"\s+", "", str(value)).lower()
    if not re.fullmatch(r"auto|cpu|cuda|cuda:\d{1,3}(,cuda:\d{1,3})*", written, re.ASCII):
        raise ValueError("use auto, cpu, cuda (all GPUs), or GPUs by number such as cuda:0,cuda:2.")
    return ",".join(dict.fromkeys(written.split(",")))


def language(value: object) -> str:
    code = code_of(str(value))
    if code is None:
        codes = ", ".join(LANGUAGES)
        raise ValueError(f"use an English name such as French, or one of the codes {codes}.")
    return code


def names(value: object) -> tuple[str, ...]:
    """Comma separated, repeated, or both; each once, in the order given."""
    parts = value if isinstance(value, (list, tuple)) else (value,)
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("names are needed, separated by commas.")
    found = tuple(dict.fromkeys(name.strip() for part in parts for name in part.split(",")))
    if not found or "" in found:
        raise ValueError("names are needed, separated by commas.")
    return found


def some_of(allowed: Iterable[str]) -> Callable[[object], tuple[str, ...]]:
    """Names of these, or ``all``; the order given does not matter."""
    known = tuple(allowed)

    def parse(value: object) -> tuple[str, ...]:
        wanted = {name.lower() for name in names(value)}
        if not wanted <= {*known, "all"}:
            raise ValueError(f"use all, or some of {', '.join(known)}.")
        return known if "all" in wanted else tuple(name for name in known if name in wanted)

    return parse


def url(value: object) -> str:
    written = str(value).strip()
    try:
        parts = urlsplit(written)
        fits = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bad port or a broken IPv6 address
        fits = False
    if not fits:
        raise ValueError("an address such as http://localhost:8000/v1 is needed.")
    return written
