-- The ledger: an index of what is on disk, what was paid for, and what happened when.
-- Truth is one JSON per video; only `replies` and `windows` hold work that is nowhere else yet.
-- Names and paths are stored as JSON strings, so that bytes which are not UTF-8 survive.

CREATE TABLE IF NOT EXISTS meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- one row per video that this output folder knows
CREATE TABLE IF NOT EXISTS videos (
    name         TEXT PRIMARY KEY,  -- where its outputs go, without suffix
    path         TEXT NOT NULL,
    fingerprint  TEXT NOT NULL,     -- of its content
    speech_key   TEXT,              -- what its transcript on disk was made of; NULL: there is none
    analysis_key TEXT,              -- what its analyses on disk were made of
    state        TEXT NOT NULL,
    code         TEXT,              -- why it is not done
    message      TEXT,              -- a JSON string
    bytes        INTEGER            -- size of its JSON when it was written
) WITHOUT ROWID;

-- windows of videos that are not sealed yet: a run that is killed goes on from here
CREATE TABLE IF NOT EXISTS windows (
    speech_key TEXT NOT NULL,
    position   INTEGER NOT NULL,
    result     TEXT NOT NULL,
    PRIMARY KEY (speech_key, position)
) WITHOUT ROWID;

-- replies, by everything that changes the answer
CREATE TABLE IF NOT EXISTS replies (
    key     TEXT PRIMARY KEY,
    reply   TEXT NOT NULL,
    created REAL NOT NULL,
    model   TEXT,                   -- that answered; NULL: it was kept before this was
    recipe  TEXT
) WITHOUT ROWID;

-- what HTTP exchanges with a model took, those without an answer included
CREATE TABLE IF NOT EXISTS spent (
    model             TEXT PRIMARY KEY,
    exchanges         INTEGER NOT NULL,
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    uncounted         INTEGER NOT NULL  -- exchanges of which the server told no usage
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS runs (
    id        INTEGER PRIMARY KEY,
    started   REAL NOT NULL,        -- seconds since the epoch
    ended     REAL,
    exit_code INTEGER,
    host      TEXT NOT NULL,
    pid       INTEGER NOT NULL
);

-- batches, calls, openings, deaths
CREATE TABLE IF NOT EXISTS attempts (
    run     INTEGER NOT NULL,
    what    TEXT NOT NULL,          -- open, batch, call, died, ...
    place   TEXT,                   -- slot, worker or recipe
    video   TEXT,
    began   REAL,                   -- seconds since the run began
    ended   REAL,
    outcome TEXT NOT NULL
);

-- once a second
CREATE TABLE IF NOT EXISTS samples (
    run    INTEGER NOT NULL,
    at     REAL NOT NULL,           -- seconds since the run began
    values_json TEXT NOT NULL
);
