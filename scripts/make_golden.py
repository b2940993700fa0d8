"""Make tests/golden/* with openai-whisper's own writers, from tests/golden/transcript.json.

They were made once, and are compared with ours byte for byte; make them again only for a newer
release. Nothing is installed and torch is not needed: the writers' module is loaded by itself.

    pip download --no-deps --no-binary :all: openai-whisper==20250625
    tar xf openai_whisper-20250625.tar.gz
    python scripts/make_golden.py openai_whisper-20250625/whisper/utils.py
"""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"


def main(source: Path) -> None:
    """Write all five formats, of the transcript with its words and without them."""
    writers = load(source)
    transcript = json.loads((GOLDEN / "transcript.json").read_text(encoding="utf-8"))
    for name, result in (("words", transcript), ("plain", without_words(transcript))):
        writers.get_writer("all", str(GOLDEN))(result, f"{name}.mp4", {})
    print(f"made with {source}: {GOLDEN}/plain.* and words.*")


def load(source: Path) -> ModuleType:
    """The module of the writers, without the package it belongs to."""
    spec = importlib.util.spec_from_file_location("whisper_utils", source)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{source} is not a Python file; see the command above.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def without_words(transcript: dict[str, Any]) -> dict[str, Any]:
    """The same transcript as it is without word times."""
    segments = [
        {key: value for key, value in segment.items() if key != "words"}
        for segment in transcript["segments"]
    ]
    return {**transcript, "segments": segments}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
