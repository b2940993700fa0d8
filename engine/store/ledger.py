"""The ledger of an output folder: SQLite, written by the loop's thread alone.

``commit`` is called once per turn of the loop, before anything that was recorded is used. The
ledger can be deleted: what is finished is found again in the JSON files, what is lost are replies
and windows of unfinished videos. WAL on local disks, a rollback journal on network file systems.
"""

import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, astuple, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from engine.errors import LockedError, OutputError
from engine.records import Piece, Problem, Recorded, Reply, Spent, State, WindowResult, Word

FILE = Path(".reelmine") / "ledger.sqlite"
VERSION = 2
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "fuse.sshfs", "9p"}


@dataclass(frozen=True, slots=True)
class Row:
    """What the ledger knows of a video."""

    path: str
    fingerprint: str
    state: State
    speech_key: str | None = None
    analysis_key: str | None = None
    problem: Problem | None = None
    bytes: int | None = None  # of its JSON


class Ledger:
    """An open ledger; ``close`` it in the thread that opened it."""

    def __init__(self, output: Path, *, look: bool = False) -> None:
        """Open or create; a damaged file is moved aside and ``notice`` says so.

        ``look``: a copy in memory, so that nothing is written and no lock is needed; of a damaged
        one nothing, and ``notice`` says so. OutputError for one of a newer version.
        """
        self.notice: str | None = None
        self.run = 0
        self._began = time.monotonic()
        self._changes = 0  # of the connection, at the last commit
        path = output / FILE
        if look:
            self._db, self.notice = _copy(path)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = self._open(path)
        except sqlite3.OperationalError as error:
            raise LockedError(
                f"The ledger {path} cannot be opened ({error}); if another run works here, wait "
                "for it, else try again."
            ) from error
        except sqlite3.DatabaseError:
            aside = path.with_name(f"ledger.damaged-{time.time_ns()}.sqlite")
            path.rename(aside)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            self._db = self._open(path)
            self.notice = (
                f"The ledger was damaged; it is rebuilt from the result files ({aside.name} keeps "
                "the old one), and what calls spent before no longer counts."
            )

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(path, timeout=5.0, isolation_level=None)
        try:
            journal = "DELETE" if on_network(path.parent) else "WAL"
            db.execute(f"PRAGMA journal_mode={journal}").fetchone()
            db.execute("PRAGMA synchronous=FULL")
            _make_tables(db, path)
        except BaseException:
            db.close()
            raise
        return db

    def begin_run(self) -> None:
        """A new run; attempts and samples from now on are its own."""
        self._began = time.monotonic()
        cursor = self._db.execute(
            "INSERT INTO runs (started, host, pid) VALUES (?, ?, ?)",
            (time.time(), socket.gethostname(), os.getpid()),
        )
        self.run = cursor.lastrowid or 0

    def end_run(self, exit_code: int) -> None:
        """How the run ended."""
        self._db.execute(
            "UPDATE runs SET ended = ?, exit_code = ? WHERE id = ?",
            (time.time(), exit_code, self.run),
        )

    def last_run(self) -> Mapping[str, Any] | None:
        """When and where it began and ended; None: there was none."""
        names = ("started", "ended", "exit_code", "host", "pid")
        found = self._db.execute(
            f"SELECT {', '.join(names)} FROM runs ORDER BY id DESC LIMIT 1"
        ).fetchone()
        return dict(zip(names, found, strict=True)) if found else None

    def get(self, key: str) -> str | None:
        """A fact about this output folder."""
        found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return found[0] if found else None

    def set(self, key: str, value: str) -> None:
        """Keep a fact about this output folder."""
        self._db.execute("REPLACE INTO meta VALUES (?, ?)", (key, value))

    @property
    def changed(self) -> bool:
        """Whether anything was recorded since the last commit."""
        return self._db.total_changes != self._changes

    def commit(self) -> None:
        """Make durable what was recorded since the last commit."""
        if self.changed:
            self._db.execute("COMMIT")
            self._db.execute("BEGIN")
            self._changes = self._db.total_changes

    def close(self) -> None:
        """Commit and let go of the file."""
        self._db.execute("COMMIT")
        self._db.close()

    # videos

    def videos(self) -> dict[str, Row]:
        """All rows, by output name."""
        rows = self._db.execute(
            "SELECT name, path, fingerprint, state, speech_key, analysis_key, code, message, bytes"
            " FROM videos"
        )
        return {
            json.loads(name): Row(
                json.loads(path),
                fingerprint,
                State(state),
                speech,
                analysis,
                Problem(code, json.loads(message)) if code else None,
                size,
            )
            for name, path, fingerprint, state, speech, analysis, code, message, size in rows
        }

    def save_video(self, name: str, row: Row) -> None:
        """Insert or replace a video's row."""
        problem = row.problem
        self._db.execute(
            "REPLACE INTO videos"
            " (name, path, fingerprint, state, speech_key, analysis_key, code, message, bytes)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                json.dumps(name),
                json.dumps(row.path),
                row.fingerprint,
                row.state.value,
                row.speech_key,
                row.analysis_key,
                problem.code if problem else None,
                json.dumps(problem.message) if problem else None,
                row.bytes,
            ),
        )

    # work that is nowhere else yet

    def windows(self, speech_key: str) -> dict[int, WindowResult]:
        """Results of a video that was not finished."""
        rows = self._db.execute(
            "SELECT result FROM windows WHERE speech_key = ?", (speech_key,)
        ).fetchall()
        results = (_window_result(json.loads(text)) for (text,) in rows)
        return {result.position: result for result in results}

    def add_window(self, speech_key: str, result: WindowResult) -> None:
        """Keep a window's result until its video is sealed."""
        self._db.execute(
            "REPLACE INTO windows VALUES (?, ?, ?)",
            (speech_key, result.position, json.dumps(asdict(result))),
        )

    def drop_windows(self, speech_key: str) -> None:
        """The video is on disk; its windows are not needed any more."""
        self._db.execute("DELETE FROM windows WHERE speech_key = ?", (speech_key,))

    def reply(self, key: str) -> Reply | None:
        """A reply that was paid for before."""
        found = self._db.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return Reply(**json.loads(found[0])) if found else None

    def add_reply(self, key: str, reply: Reply, model: str, recipe: str) -> None:
        """Keep a reply, before it is used, with who gave it and to which recipe."""
        self._db.execute(
            "REPLACE INTO replies (key, reply, created, model, recipe) VALUES (?, ?, ?, ?, ?)",
            (key, json.dumps(asdict(reply)), time.time(), model, recipe),
        )

    def drop_reply(self, key: str) -> None:
        """Forget a reply that another one holds."""
        self._db.execute("DELETE FROM replies WHERE key = ?", (key,))

    def replies(self) -> Iterator[Recorded]:
        """All replies whose giver is known, in order of their keys."""
        rows = self._db.execute(
            "SELECT key, model, recipe, reply FROM replies WHERE model IS NOT NULL ORDER BY key"
        )
        for key, model, recipe, reply in rows:
            yield Recorded(key, model, recipe, Reply(**json.loads(reply)))

    @property
    def unnamed_replies(self) -> int:
        """How many replies are from before it was kept who gave them."""
        query = "SELECT count(*) FROM replies WHERE model IS NULL"
        return int(self._db.execute(query).fetchone()[0])

    def spent(self) -> dict[str, Spent]:
        """What this output folder has spent, by model."""
        return dict(_spent(self._db))

    def save_spent(self, model: str, spent: Spent) -> None:
        """What one model has taken in all."""
        self._db.execute("REPLACE INTO spent VALUES (?, ?, ?, ?, ?)", (model, *astuple(spent)))

    # what happened

    def note(
        self,
        what: str,
        outcome: str,
        *,
        place: str | None = None,
        video: str | None = None,
        began: float | None = None,
    ) -> None:
        """An attempt that has ended now; ``began`` on the monotonic clock."""
        now = time.monotonic()
        self._db.execute(
            "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                self.run,
                what,
                place,
                json.dumps(video) if video is not None else None,
                None if began is None else began - self._began,
                now - self._began,
                outcome,
            ),
        )

    def add_sample(self, values: Mapping[str, Any]) -> None:
        """One line of the monitor."""
        self._db.execute(
            "INSERT INTO samples VALUES (?, ?, ?)",
            (self.run, time.monotonic() - self._began, json.dumps(values)),
        )


def _make_tables(db: sqlite3.Connection, path: Path) -> None:
    """The schema, with what an older one holds; leaves a transaction open.

    OutputError if it is of a newer version.
    """
    found = _version(db)
    if found is not None and found > VERSION:
        raise OutputError(
            f"The ledger {path} was written by a newer reelmine (its version is {found}, this one "
            f"knows {VERSION}): update reelmine, or name another output folder."
        )
    if found == 1:
        _upgrade(db)
    db.executescript(resources.files("engine.store").joinpath("schema.sql").read_text())
    db.execute("BEGIN")
    db.execute("REPLACE INTO meta VALUES ('version', ?)", (str(VERSION),))


def _version(db: sqlite3.Connection) -> int | None:
    """None: there is no ledger yet."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
        return None
    found = db.execute("SELECT value FROM meta WHERE key = 'version'").fetchone()
    if found is None or not found[0].isdigit():
        raise sqlite3.DatabaseError("no version")
    return int(found[0])


def _upgrade(db: sqlite3.Connection) -> None:
    """From version 1: videos are found again in their files; early replies have no names."""
    db.execute("BEGIN")
    db.execute("DROP TABLE IF EXISTS videos")
    columns = [name for _, name, *_ in db.execute("PRAGMA table_info(replies)")]
    for column in ("model", "recipe"):
        if columns and column not in columns:
            db.execute(f"ALTER TABLE replies ADD COLUMN {column} TEXT")
    db.execute("UPDATE meta SET value = '2' WHERE key = 'version'")
    db.execute("COMMIT")


def _copy(path: Path) -> tuple[sqlite3.Connection, str | None]:
    """What the ledger holds, in memory, or nothing and why."""
    db, why = sqlite3.connect(":memory:", isolation_level=None), None
    try:
        if path.exists():
            source = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
            with closing(source):
                source.backup(db)
        _make_tables(db, path)
    except OutputError:
        db.close()
        raise
    except sqlite3.DatabaseError as error:
        db.close()
        db = sqlite3.connect(":memory:", isolation_level=None)
        _make_tables(db, path)
        why = f"The ledger {path} cannot be read ({error}); a run rebuilds it if it is damaged."
    return db, why


def _window_result(data: dict[str, Any]) -> WindowResult:
    pieces = tuple(
        Piece(
            **{
                **piece,
                "tokens": tuple(piece["tokens"]),
                "words": tuple(Word(**word) for word in piece["words"]),
            }
        )
        for piece in data.pop("pieces")
    )
    return WindowResult(**data, pieces=pieces)


def on_network(folder: Path) -> bool:
    """Whether the folder lies on a network file system, where WAL does not work."""
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return False
    real = os.path.realpath(folder)
    best, kind = "", ""
    for line in mounts.splitlines():
        _, point, fstype, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fstype
    return kind in NETWORK


def _spent(db: sqlite3.Connection) -> Iterator[tuple[str, Spent]]:
    names = ", ".join(field.name for field in fields(Spent))
    for model, *numbers in db.execute(f"SELECT model, {names} FROM spent ORDER BY model"):
        yield model, Spent(*numbers)
