"""Keys: equal for what is the same, different for what is not, whatever the process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import NotRegularError
from engine.store.keys import EDGE, digest, fingerprint

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def of(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return fingerprint(str(path), len(content))


def test_fingerprint_is_of_the_content_not_of_name_or_date(tmp_path: Path) -> None:
    content = os.urandom(300_000)
    first = of(tmp_path / "a.mp4", content)
    second = of(tmp_path / "b.mkv", content)
    os.utime(tmp_path / "b.mkv", (0, 0))
    assert first == second == fingerprint(str(tmp_path / "b.mkv"), len(content))
    assert len(first) == 32
    assert int(first, 16) >= 0


@pytest.mark.parametrize("size", [1, 100, EDGE - 1, EDGE, EDGE + 1, 2 * EDGE, 2 * EDGE + 1])
def test_fingerprint_tells_any_changed_byte_at_either_end(tmp_path: Path, size: int) -> None:
    content = bytearray(os.urandom(size))
    before = of(tmp_path / "a", bytes(content))
    for position in {0, min(size, EDGE) - 1, size - 1, max(0, size - EDGE)}:
        content[position] ^= 1
        assert of(tmp_path / "a", bytes(content)) != before
        content[position] ^= 1
    assert of(tmp_path / "a", bytes(content)) == before


def test_fingerprint_tells_sizes_apart_where_both_ends_are_equal(tmp_path: Path) -> None:
    assert of(tmp_path / "a", bytes(1_000_000)) != of(tmp_path / "b", bytes(1_000_001))


def test_pipe_in_the_place_of_a_file_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(NotRegularError):
        fingerprint(str(tmp_path / "a.mp4"), 10)


def test_file_that_is_gone_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fingerprint(str(tmp_path / "a.mp4"), 10)


def test_fingerprint_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = len(os.listdir("/dev/fd"))
    for _ in range(20):
        of(tmp_path / "a", b"content")
        with pytest.raises(OSError, match="directory"):
            fingerprint(str(tmp_path / "none"), 1)
    assert len(os.listdir("/dev/fd")) == before


@given(JSON, JSON)
def test_digests_are_equal_exactly_for_equal_values(one: object, other: object) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (digest(one) == digest(other)) == same


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest([1, 2]) != digest([2, 1])


def test_digest_is_the_same_in_another_process() -> None:
    value = {"name": "\udcff\n\N{SNOWMAN}", "numbers": [1, 2.5, None, True]}
    program = (
        "import json, sys; from engine.store.keys import digest;"
        "print(digest(json.loads(sys.argv[1])))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, json.dumps(value)],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == digest(value)
    assert len(digest(value)) == 32


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_digest_refuses_what_json_cannot_hold(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        digest(value)
