"""reelmine as a library: ``engine.run(paths, config)`` and ``engine.stream(paths, config)``.

Importing this is cheap and starts nothing: the names below are looked up when they are first used,
because every worker process imports this package again.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.config import Config
    from engine.errors import ReelmineError, UsageError
    from engine.events import Event
    from engine.records import (
        Analysis,
        Grounding,
        Item,
        Problem,
        RunReport,
        Segment,
        State,
        Transcript,
        Video,
        VideoResult,
        Word,
    )
    from engine.run import run, stream

__version__ = "0.1.0"

__all__ = [
    "Analysis",
    "Config",
    "Event",
    "Grounding",
    "Item",
    "Problem",
    "ReelmineError",
    "RunReport",
    "Segment",
    "State",
    "Transcript",
    "UsageError",
    "Video",
    "VideoResult",
    "Word",
    "__version__",
    "run",
    "stream",
]

_HOME = {
    "Config": "engine.config",
    "ReelmineError": "engine.errors",
    "UsageError": "engine.errors",
    "Event": "engine.events",
    "run": "engine.run",
    "stream": "engine.run",
}  # everything else of __all__ is a record


class _Package(ModuleType):
    """Keeps ``engine.run`` the function: importing the file of that name would put itself there."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name == "run" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME.get(name, "engine.records")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
