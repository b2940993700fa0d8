"""reelmine as a library: ``engine.run(paths, config)`` and ``engine.stream(paths, config)``.

Importing this is cheap and starts nothing: the names below are looked up when they are first used,
because every worker process imports this package again.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.api import run, stream
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
    "run": "engine.api",
    "stream": "engine.api",
}  # everything else of __all__ is a record


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME.get(name, "engine.records")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
