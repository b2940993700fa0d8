"""The words of the sample videos are heard: tiny.en against the references, through the engine."""

import json
import re
from pathlib import Path
from typing import Any

from speech import FILES

MOST = 0.08  # word errors per word spoken


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower().replace("\u2019", "'"))


def errors(spoken: list[str], heard: list[str]) -> int:
    """Word edits from one to the other (Levenshtein)."""
    row = list(range(len(heard) + 1))
    for number, word in enumerate(spoken, 1):
        above, row[0] = row[0], number
        for at, other in enumerate(heard, 1):
            best = min(above + (word != other), row[at] + 1, row[at - 1] + 1)
            above, row[at] = row[at], best
    return row[-1]


def test_errors_are_counted() -> None:
    assert errors(["a", "b", "c"], ["a", "c"]) == 1
    assert errors(["a"], ["b", "a", "c"]) == 2


def test_sample_videos_are_heard(eight: Any, samples: Path) -> None:
    references = json.loads((samples / "references.json").read_text(encoding="utf-8"))
    wrong = spoken = 0
    for file in references["files"]:
        assert file["file"] in FILES
        said = words(file["tracks"][0]["transcript"])
        result = json.loads((eight.output / file["file"]).with_suffix(".json").read_bytes())
        wrong += errors(said, words(result["text"]))
        spoken += len(said)
    assert spoken > 1000
    assert wrong / spoken <= MOST
