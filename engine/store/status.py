"""How far the work on an output folder is: read from its ledger, without a lock."""

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.store.ledger import Ledger


def read_status(output: Path) -> Mapping[str, Any]:
    """Counts per state, failures with their reasons, what was spent, the last run.

    ``note`` says why a ledger that is there cannot be read; OutputError for one of a newer version.
    """
    with closing(Ledger(output, look=True)) as ledger:
        rows = sorted(ledger.videos().items())
        counts = Counter(row.state.value for _, row in rows)
        return {
            "output": str(output),
            "note": ledger.notice,
            "videos": dict(sorted(counts.items())),
            "failures": [
                {"video": name, "state": row.state.value, **asdict(row.problem)}
                for name, row in rows
                if row.problem is not None
            ],
            "spent": {model: asdict(spent) for model, spent in ledger.spent().items()},
            "last_run": ledger.last_run(),
        }
