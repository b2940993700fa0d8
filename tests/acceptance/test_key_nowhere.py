"""The key of the endpoint is sent to the endpoint, and is found nowhere else.

A server that repeats the key in everything it says is the worst that can happen to it: error texts
go into result files, ledger, log and terminal. All of these are searched, while the command runs
and afterwards, and so are the command lines of all its processes, for the key and for its parts.
"""

import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from shell import analysis, command, environment, last_run
from speech import write_wav

from engine.records import SAMPLE_RATE
from engine.testing.faults import Behaviour, Canned
from engine.testing.server import Request, Server
from engine.testing.transcriber import make_model

PART = 12  # characters of a key that must not be seen
ORDER = "first second third fourth fifth sixth seventh eighth ninth tenth".split()
TEXTS = tuple(f"This is the {word} thing that was said about it all." for word in ORDER)
DEBUG = """\
import logging
import sys

from engine.__main__ import main

if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    sys.exit(main())
"""


def says(content: Any, reason: str = "stop", **message: Any) -> Canned:
    said = {"role": "assistant", "content": content, **message}
    return Canned({"choices": [{"message": said, "finish_reason": reason}]})


def parrots(key: str) -> list[Behaviour]:
    """What is answered about the first chunk, the second, and so on."""
    told = f"Incorrect API key provided: {key}. Got 'Bearer {key}', {key[:14]}*****{key[-10:]}."
    item = {"remark": f"my key is {key}", "quote": TEXTS[0][:20], "cues": [0]}
    false = {"remark": f"{key} and {key}", "quote": f"they said {key}", "cues": [1]}
    fault = {"error": {"message": told, "type": key, "code": key, "param": key}}
    return [
        says(json.dumps({"items": [item]})),
        says(json.dumps({"items": [false]})),
        Canned(fault, 500),
        Canned(fault, 400),
        Canned(fault, 429),
        Canned(f"<html><title>{told}</title></html>", 200),
        says(f"I cannot do that with {key}."),
        Canned(fault, 200),
        says(f'{{"items": [{{"remark": "{key}", "cues": ["{key}"], "quote": 1}}]}}'),
        Canned(told, 307, {"Location": f"http://127.0.0.1:9/?key={key}"}),
    ]


@dataclass
class Seen:
    """All that could be seen of a command."""

    code: int
    out: str
    err: str
    command_lines: set[tuple[str, ...]] = field(default_factory=set)
    files: dict[str, bytes] = field(default_factory=dict)  # with all they ever held

    def everything(self) -> Iterator[tuple[str, bytes]]:
        yield "stdout", self.out.encode()
        yield "stderr", self.err.encode()
        for words in self.command_lines:
            yield "a command line", " ".join(words).encode()
        yield from self.files.items()


def watch(words: list[str], folder: Path, more: dict[str, str]) -> Seen:
    """Run it in that folder, and look at its processes and files again and again."""
    process = subprocess.Popen(
        words,
        cwd=folder,
        env=environment({"TMPDIR": str(folder / "tmp"), **more}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen = Seen(-1, "", "")
    told: list[str] = []
    reader = threading.Thread(target=lambda: told.extend(process.communicate()))
    reader.start()
    while reader.is_alive():
        look(process.pid, folder, seen)
        reader.join(0.05)
    look(process.pid, folder, seen)
    seen.code, (seen.out, seen.err) = process.returncode, told
    return seen


def look(pid: int, folder: Path, seen: Seen) -> None:
    with suppress(psutil.Error):
        me = psutil.Process(pid)
        for process in (me, *me.children(recursive=True)):
            with suppress(psutil.Error):
                seen.command_lines.add(tuple(process.cmdline()))
    here = ((Path(parent), names) for parent, _, names in os.walk(folder))  # folders may go, too
    for path in (parent / name for parent, names in here for name in names):
        with suppress(OSError):  # it has gone
            if path.is_file() and path.suffix != ".wav":
                held = seen.files.get(str(path), b"")
                now = path.read_bytes()
                seen.files[str(path)] = held if now in held else held + now


def assert_nowhere(key: str, seen: Seen) -> None:
    parts = {key[start : start + PART].encode() for start in range(len(key) - PART + 1)}
    where = [
        (name, line[:400])
        for name, data in seen.everything()
        for line in data.splitlines()
        if any(part in line for part in parts)
    ]
    assert where == []


@pytest.fixture
def workplace(tmp_path: Path, remarks: Path) -> list[str]:
    """A folder with a video of ten chunks; the words that analyse it."""
    texts = make_model(tmp_path / "model", seconds=0.0, texts=TEXTS)
    write_wav(tmp_path / "talk.wav", np.zeros((len(TEXTS) * 30 - 1) * SAMPLE_RATE, np.float32))
    (tmp_path / "debug.py").write_text(DEBUG)
    (tmp_path / "tmp").mkdir()
    words = ["run", "talk.wav", "-o", "out", "--model", str(texts), "--mode", "sequential"]
    return [*words, "--recipe", str(remarks), "--llm-model", "parrot", "--verbose",
            "--record", "said.jsonl"]  # fmt: skip


KEYS = [f"sk-proj-{secrets.token_urlsafe(24)}", secrets.token_hex(16)]


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(KEYS[0], id="with a prefix"),
        pytest.param(KEYS[1], id="without", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("way", [pytest.param("command", marks=pytest.mark.slow), "at DEBUG"])
def test_key_that_the_server_repeats_is_found_nowhere(
    tmp_path: Path, workplace: list[str], key: str, way: str
) -> None:
    said = parrots(key)

    def script(request: Request) -> Behaviour:
        return said[request.cues[0]]

    start = command([]) if way == "command" else [sys.executable, str(tmp_path / "debug.py")]
    with Server(script=script, api_key=key) as server:
        words = [*start, *workplace, "--llm-base-url", server.url, "--call-timeout", "4"]
        env = {"OPENAI_API_KEY": key, "OPENAI_LOG": "debug"}
        seen = watch(words, tmp_path, env)
        assert len(server.requests) >= len(TEXTS)  # it was sent the right key
    assert seen.code == 1, seen.err
    assert_nowhere(key, seen)

    # what was looked at is what there is: texts of the server, in files, terminal and log
    failed = analysis(tmp_path / "out", "talk", "remarks")["failed"]
    reasons = " ".join(chunk["problem"]["message"] for chunk in failed)
    assert [chunk["index"] for chunk in failed] == [2, 3, 4, 5, 6, 7, 8, 9]
    assert reasons.count("[key]") >= 5
    assert b"my key is [key]" in seen.files[str(tmp_path / "out" / "talk.json")]
    assert b"my key is [key]" in seen.files[str(tmp_path / "said.jsonl")]
    ledger = b"".join(data for name, data in seen.files.items() if "ledger.sqlite" in name)
    assert b"my key is [key]" in ledger
    assert any("spawn_main" in " ".join(words) for words in seen.command_lines)
    assert "[key]" in seen.err
    assert "DEBUG" in seen.err or way == "command"


def test_key_that_is_refused_is_found_nowhere(tmp_path: Path, workplace: list[str]) -> None:
    """It comes out of a file, so that not even the environment has it."""
    key = KEYS[1]
    (tmp_path / "secret").mkdir()
    told = f"Incorrect API key provided: {key}; {key[:20]}*** is none of ours."
    refused = Canned({"error": {"message": told, "code": key}}, 401)
    with Server(script=lambda _: refused, api_key=key) as server:
        words = [*command(workplace), "--llm-base-url", server.url]
        with (tmp_path.parent / f"{tmp_path.name}.key").open("w") as file:
            file.write(f"{key}\n")
        seen = watch(words, tmp_path, {"OPENAI_API_KEY_FILE": file.name})
        assert server.requests
    assert seen.code == 1, seen.err
    assert_nowhere(key, seen)
    assert "answered 401: Incorrect API key provided: [key]" in seen.out
    assert "[key]" in json.dumps(last_run(tmp_path / "out"))
