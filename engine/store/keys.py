"""Digests that say whether two things are the same: a file's content, or a value.

A key never holds a time or a path, so that copying a folder or touching a file repeats nothing.
Both digests are BLAKE2b of 16 bytes, written as 32 hexadecimal digits. Knows nothing about what is
done with a key.
"""

import hashlib
import json
import os
import stat

from engine.errors import NotRegularError

EDGE = 64 * 1024  # bytes read at either end of a file

# A pipe put in a file's place after it was looked at must not hold us up: O_NONBLOCK.
_OPEN_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)


def fingerprint(path: str, size: int) -> str:
    """Digest of a file's size, its first and its last 64 KiB (once, where they overlap).

    The whole content is not read: a folder of films would take minutes. Raises NotRegularError, and
    OSError as the system gives it.
    """
    descriptor = os.open(path, _OPEN_FLAGS)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotRegularError
        content = hashlib.blake2b(str(size).encode(), digest_size=16)
        content.update(os.read(descriptor, EDGE))
        if size > EDGE:
            os.lseek(descriptor, max(EDGE, size - EDGE), os.SEEK_SET)
            content.update(os.read(descriptor, EDGE))
        return content.hexdigest()
    finally:
        os.close(descriptor)


def digest(value: object) -> str:
    """Digest of a JSON value in canonical form: keys sorted, no blanks, ASCII.

    Equal values give equal digests in any process and on any machine. Raises TypeError for what
    JSON cannot hold and ValueError for NaN and infinities.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
