"""Text for people's terminals: file names made harmless, spans and counts as people read them.

Pure, except for ``write_line``. Knows nothing about runs.
"""

from typing import TextIO

_JOINER = "\u200d"  # holds emoji together; the one format character that does no harm


def printable(text: str) -> str:
    r"""The same text with everything that a terminal could act on written as an escape.

    Line ends, control and direction characters, and bytes of file names that are not UTF-8
    (surrogate escapes) come out as ``\n``, ``\x1b``, ``\u202e``, ``\xff``.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == _JOINER else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # how Python carries a byte that is not UTF-8
        return f"\\x{number - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def write_line(stream: TextIO, text: str) -> None:
    """Write and flush one line; characters that the stream's encoding lacks become escapes."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: 0:01:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def count(number: int, noun: str) -> str:
    """``1 video``, ``2 videos``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
