"""Who may import whom: the doors of the house, read from the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import __version__

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "engine"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

# An outside library -> the only files that import it, anywhere in them.
DOORS = {
    "faster_whisper": {
        "speech/whisper.py",
        "speech/activity.py",
        "speech/windows.py",  # log-mel rows
        "speech/canary.py",  # the same for its two seconds
    },
    "ctranslate2": {"speech/whisper.py", "speech/states.py", "speech/activity.py"},
    "av": {"media/decode.py"},
    "sqlite3": {"store/ledger.py"},
    "torch": {"speech/encoder.py"},
    "psutil": {"pools/hardware.py"},
    "pynvml": {"pools/gpus.py"},
    "huggingface_hub": {"speech/sources.py"},
    "filelock": {"speech/copies.py", "store/files.py"},
    "openai": {"llm/client.py"},
    "httpx2": {"llm/client.py", "llm/transport.py", "llm/lookup.py"},
    "httpcore2": {"llm/transport.py", "llm/network.py", "llm/lookup.py"},
    "click": {"cli.py", "options.py", "spelling.py"},
    "rich": {"progress.py"},
}

# A file -> all of ours that it may import, when it is loaded or for its types.
ALLOWED = {
    "records.py": set(),
    "errors.py": {"engine.records"},
    "values.py": {"engine.speech.languages"},
    "config.py": {"engine.errors", "engine.records", "engine.values"},
    "events.py": {"engine.records", "engine.pools.monitor"},
    "signals.py": set(),
    "terminal.py": set(),
    "speech/languages.py": set(),
    "speech/sources.py": set(),
    "speech/copies.py": {"engine.errors", "engine.speech.catalog", "engine.speech.sources"},
    "llm/deadline.py": set(),
}

# Decisions: values in, values out. They import no door, and nothing that acts on the world.
PURE = {
    "schedule.py",
    "assignment.py",
    "video_queue.py",
    "window_queue.py",
    "call_queue.py",
    "places.py",
    "deaths.py",
    "job.py",
    "questions.py",
    "plot.py",
    "records.py",
    "tally.py",
    "totals.py",
    "usage.py",
    "floor.py",
    "values.py",
    "shortage.py",
    "pools/sizing.py",
    "pools/slots.py",
    "pools/gpu_slots.py",
    "pools/fitting.py",
    "pools/pressure.py",
    "pools/scratch.py",
    "analysis/chunking.py",
    "analysis/entries.py",
    "analysis/estimate.py",
    "analysis/grounding.py",
    "analysis/merging.py",
    "analysis/prompts.py",
    "analysis/replies.py",
    "llm/exchanges.py",
    "llm/limits.py",
    "llm/pauses.py",
    "speech/encoders.py",
    "speech/language.py",
    "speech/languages.py",
    "speech/quality.py",
    "speech/transcript.py",
    "testing/rates.py",
}
ACTING = {"os", "io", "shutil", "socket", "subprocess", "tempfile", "threading", "time", "signal"}

# What a worker process must never load, and what the parent must not.
NOT_IN_WORKERS = {"openai", "click", "rich", "httpx2", "sqlite3"}
NOT_IN_PARENT = {"ctranslate2", "faster_whisper", "av", "torch", "onnxruntime"}


def imports(file: str, *, top_only: bool = False) -> set[str]:
    """Full names of the modules that a file imports; ``top_only``: when it is loaded."""
    tree = ast.parse((PACKAGE / file).read_text("utf-8"))
    nodes = _loaded(tree.body) if top_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            module = node.module or ""
            found |= {_module(module, alias.name) for alias in node.names}
    return found


def _loaded(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """The statements that run at import: not in functions, not for type checkers."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            yield from _loaded(
                [child for child in ast.iter_child_nodes(node) if _is_statement(child)]
            )


def _is_statement(node: ast.AST) -> bool:
    return isinstance(node, ast.stmt)


def _module(module: str, name: str) -> str:
    """Both ``from engine import config`` and ``from engine.config import load``: engine.config."""
    whole = Path(*module.split("."), name)
    is_module = (ROOT / whole).is_dir() or (ROOT / whole).with_suffix(".py").exists()
    return f"{module}.{name}" if module.startswith("engine") and is_module else module


def loaded_with(start: str) -> set[str]:
    """Everything that importing a file loads, ours followed, others named."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for name in imports(waiting.pop(), top_only=True) - seen:
            seen.add(name)
            file = _file(name)
            if file is not None:
                waiting.append(file)
    return {name.partition(".")[0] for name in seen}


def _file(module: str) -> str | None:
    if not module.startswith("engine"):
        return None
    inside = Path(*module.split(".")[1:])
    for candidate in (
        inside.with_suffix(".py") if inside.parts else inside,
        inside / "__init__.py",
    ):
        if (PACKAGE / candidate).is_file():
            return candidate.as_posix()
    raise AssertionError(f"{module} is imported, but there is no such file")


@pytest.mark.parametrize("file", FILES)
def test_outside_libraries_are_imported_at_their_door_only(file: str) -> None:
    used = {name.partition(".")[0] for name in imports(file)}
    for library in used & DOORS.keys():
        assert any(file.startswith(door) for door in DOORS[library]), f"{file} imports {library}"


@pytest.mark.parametrize("file", sorted(ALLOWED))
def test_foundations_import_only_what_is_below_them(file: str) -> None:
    ours = {name for name in imports(file) if name.startswith("engine")}
    assert ours <= ALLOWED[file]


@pytest.mark.parametrize("file", sorted(PURE))
def test_decisions_touch_nothing_outside(file: str) -> None:
    used = {name.partition(".")[0] for name in imports(file)}
    assert not used & (ACTING | DOORS.keys())


@pytest.mark.parametrize(
    "file",
    [
        "api.py",
        "bench.py",
        "loop.py",
        "setup.py",
        "cli.py",
        "schedule.py",
        "pools/local.py",
        "__init__.py",
    ],
)
def test_the_parent_loads_no_model_library(file: str) -> None:
    assert not loaded_with(file) & NOT_IN_PARENT


@pytest.mark.parametrize(
    "file", ["pools/worker.py", "pools/slot_worker.py", "pools/preparation_worker.py"]
)
def test_workers_load_no_client_and_no_terminal(file: str) -> None:
    assert not loaded_with(file) & (NOT_IN_WORKERS | NOT_IN_PARENT)


@pytest.mark.parametrize("file", FILES)
def test_shipped_fakes_are_loaded_by_nothing_else(file: str) -> None:
    """But by a slot, in the function that opens it, when its model folder says it is a fake."""
    if not file.startswith("testing/"):
        used = imports(file, top_only=file == "pools/slot_worker.py")
        assert not any(name.startswith("engine.testing") for name in used)


def test_the_package_alone_loads_nothing_of_ours() -> None:
    assert __version__
    assert not {name for name in imports("__init__.py", top_only=True) if name.startswith("engine")}
