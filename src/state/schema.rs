//! The tables of the state file, and how an older file becomes a newer one.
//!
//! Promises: forward only, each step in the same transaction as its version number. Does not know: what is in the tables.

use super::StateError;
use rusqlite::{Connection, TransactionBehavior};
use std::path::Path;

/// "outb": tells the file from the application's.
const APPLICATION_ID: i64 = 0x6f75_7462;

/// Step n brings a file of version n to version n + 1. Steps are never changed once released, only added.
const STEPS: &[&str] = &[
    // 0 -> 1
    "
    -- One row. device, inode: of this file, so that a copy is recognised.
    CREATE TABLE meta (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        device INTEGER NOT NULL,
        inode INTEGER NOT NULL,
        boot_id TEXT NOT NULL,
        run BLOB NOT NULL
    );
    -- A relay serves one database; path: resolved.
    CREATE TABLE relay (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE);
    CREATE TABLE outbox (
        id INTEGER PRIMARY KEY,
        relay INTEGER NOT NULL REFERENCES relay,
        table_name TEXT NOT NULL,
        UNIQUE (relay, table_name)
    );
    -- id: relay << 48 | the plan's number. The rows are apart, because an UPDATE of the outcome would rewrite them.
    CREATE TABLE plan (
        id INTEGER PRIMARY KEY,
        device INTEGER NOT NULL,
        inode INTEGER NOT NULL,
        topic TEXT NOT NULL,
        partition INTEGER NOT NULL,
        producer_id INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        first_sequence INTEGER NOT NULL,
        run BLOB NOT NULL,
        noted_offset INTEGER NOT NULL,
        leader_epoch INTEGER NOT NULL,
        first_attempt_ms INTEGER NOT NULL,
        row_count INTEGER NOT NULL,
        acknowledged INTEGER NOT NULL DEFAULT 0,
        acknowledged_offset INTEGER
    );
    CREATE TABLE plan_rows (id INTEGER PRIMARY KEY, rows BLOB NOT NULL);
    ",
    // 1 -> 2
    "
    -- state_id: 16 random bytes, what this file is called in the row that outboxd keeps in an application's database.
    ALTER TABLE meta ADD COLUMN state_id BLOB;
    -- How often a delete was noted: see mark.rs.
    ALTER TABLE meta ADD COLUMN marks INTEGER NOT NULL DEFAULT 0;
    -- The highest number that was ever given to a plan, or passed over.
    ALTER TABLE relay ADD COLUMN last_plan INTEGER NOT NULL DEFAULT 0;
    UPDATE relay SET last_plan =
        coalesce((SELECT max(plan.id) & 0xffffffffffff FROM plan WHERE plan.id >> 48 = relay.id), 0);
    -- A delete that was about to commit, by its number, and its plans: their numbers, 8 bytes each, little-endian. One small write,
    -- because it happens while the application's database is locked.
    CREATE TABLE deleting (
        relay INTEGER NOT NULL,
        number INTEGER NOT NULL,
        plans BLOB NOT NULL,
        PRIMARY KEY (relay, number)
    ) WITHOUT ROWID;
    -- other_boot: the machine was booted since. doubtful: what lies where its rows were may be other rows.
    ALTER TABLE plan ADD COLUMN other_boot INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE plan ADD COLUMN doubtful INTEGER NOT NULL DEFAULT 0;
    -- Outboxes whose rows in the plan are dealt with, while rows of others, which were no longer configured, are not.
    CREATE TABLE settled_here (
        plan INTEGER NOT NULL,
        outbox INTEGER NOT NULL,
        PRIMARY KEY (plan, outbox)
    ) WITHOUT ROWID;
    -- What fingerprints of an outbox's rows are made of, in this order.
    CREATE TABLE fingerprint_column (
        outbox INTEGER NOT NULL REFERENCES outbox,
        position INTEGER NOT NULL,
        name TEXT NOT NULL,
        PRIMARY KEY (outbox, position)
    ) WITHOUT ROWID;
    -- device, inode: of the database. code: Kafka's. print: the fingerprint, little-endian.
    CREATE TABLE quarantine (
        outbox INTEGER NOT NULL REFERENCES outbox,
        rowid INTEGER NOT NULL,
        print BLOB NOT NULL CHECK (length(print) = 16),
        fault TEXT NOT NULL CHECK (fault IN ('rejected', 'unroutable', 'undeletable')),
        code INTEGER,
        text TEXT NOT NULL,
        hint TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        first_ms INTEGER NOT NULL,
        last_ms INTEGER NOT NULL,
        device INTEGER NOT NULL,
        inode INTEGER NOT NULL,
        PRIMARY KEY (outbox, rowid)
    ) WITHOUT ROWID;
    -- What operators ask of a running daemon. row: NULL for all of the outbox's. Numbers are not used again, so that a late
    -- answer meets its own question or none.
    CREATE TABLE request (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        outbox INTEGER NOT NULL REFERENCES outbox,
        action TEXT NOT NULL CHECK (action IN ('retry', 'discard')),
        row INTEGER,
        asked_ms INTEGER NOT NULL,
        answer TEXT,
        failed INTEGER NOT NULL DEFAULT 0
    );
    ",
    // 2 -> 3
    "
    -- Rows that wait in their table to be sent again, and the message ids they had: whether they were published could not be proved.
    -- print: the fingerprint, little-endian. run, message: of the message id.
    CREATE TABLE resend (
        outbox INTEGER NOT NULL REFERENCES outbox,
        rowid INTEGER NOT NULL,
        print BLOB NOT NULL CHECK (length(print) = 16),
        run BLOB NOT NULL CHECK (length(run) = 16),
        message INTEGER NOT NULL,
        PRIMARY KEY (outbox, rowid)
    ) WITHOUT ROWID;
    -- The Kafka cluster in which the triple stands for the plan's rows. NULL: it has no id, or the plan is from before this was noted.
    ALTER TABLE plan ADD COLUMN cluster TEXT;
    -- What tells an outbox's table from another one that has its name later. definition: of its CREATE statement, little-endian.
    CREATE TABLE table_identity (
        outbox INTEGER PRIMARY KEY REFERENCES outbox,
        schema_version INTEGER NOT NULL,
        schema_row INTEGER NOT NULL,
        root_page INTEGER NOT NULL,
        definition BLOB NOT NULL CHECK (length(definition) = 16),
        sequence_row INTEGER,
        sequence_highest INTEGER
    );
    -- When its records were last stamped, by this machine's clock.
    ALTER TABLE relay ADD COLUMN stamp_ms INTEGER;
    -- born: when the file was made, in nanoseconds since 1970, because the numbers of one that was removed are given again. NULL: its
    -- file system does not say.
    ALTER TABLE meta ADD COLUMN born INTEGER;
    ALTER TABLE plan ADD COLUMN born INTEGER;
    ALTER TABLE quarantine ADD COLUMN born INTEGER;
    -- What the database was last read from: its file, and the -wal that was open with it. plan.doubtful is 2 where it is a guess that
    -- this database is the plan's.
    ALTER TABLE relay ADD COLUMN device INTEGER;
    ALTER TABLE relay ADD COLUMN inode INTEGER;
    ALTER TABLE relay ADD COLUMN born INTEGER;
    ALTER TABLE relay ADD COLUMN log_device INTEGER;
    ALTER TABLE relay ADD COLUMN log_inode INTEGER;
    ALTER TABLE relay ADD COLUMN log_born INTEGER;
    -- 1, 2: the column is in the half of the fingerprint that says what was sent. 2: by its value, whatever its type. Older
    -- fingerprints have no halves: all of their columns are.
    ALTER TABLE fingerprint_column ADD COLUMN sent INTEGER NOT NULL DEFAULT 1;
    ",
];

/// The first version with a quarantine in it.
pub const QUARANTINE_SINCE: i64 = 2;

/// The first version that says what a database was read from.
pub const ORIGIN_SINCE: i64 = 3;

/// The first version that says which columns of a fingerprint were sent.
pub const SENT_SINCE: i64 = 3;

/// The version this program writes.
pub const VERSION: i64 = STEPS.len() as i64;

/// Whether this is a file to work on at all: an empty one or ours, of a version we know. Writes nothing. Answers the version.
pub fn recognise(connection: &Connection, path: &Path) -> Result<i64, StateError> {
    let number =
        |pragma: &str| {
            connection
                .pragma_query_value(None, pragma, |row| row.get::<_, i64>(0))
                .map_err(|error| StateError::Sqlite { path: path.to_owned(), doing: "read", error })
        };
    let (application, version, schema) =
        (number("application_id")?, number("user_version")?, number("schema_version")?);
    if application != APPLICATION_ID && (application, version, schema) != (0, 0, 0) {
        return Err(StateError::Foreign { path: path.to_owned() });
    }
    if version > VERSION {
        return Err(StateError::Newer { path: path.to_owned(), found: version, known: VERSION });
    }
    Ok(version)
}

/// Takes the missing steps.
pub fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version < VERSION {
        take_steps(&transaction, version, VERSION)?;
    }
    transaction.commit()
}

fn take_steps(connection: &Connection, from: i64, to: i64) -> rusqlite::Result<()> {
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    for step in &STEPS[from as usize..to as usize] {
        connection.execute_batch(step)?;
    }
    connection.pragma_update(None, "user_version", to)
}

/// A file as a release of this version made it.
#[cfg(test)]
pub fn steps_to(connection: &Connection, version: i64) -> rusqlite::Result<()> {
    take_steps(connection, 0, version)
}
