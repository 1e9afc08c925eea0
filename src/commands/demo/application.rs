//! The demo's application: it knows SQLite and nothing of outboxd.
//!
//! Promises: a user and its event in one transaction each. Does not know: that anyone reads the outbox.

use super::TABLE;
use crate::cli::ApplicationArgs;
use crate::commands::CommandError;
use crate::exit::FAILED;
use rusqlite::{Connection, TransactionBehavior, params};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

const NAMES: [&str; 10] =
    ["Ada", "Grace", "Edsger", "Barbara", "Donald", "Frances", "Ken", "Radia", "Tony", "Margaret"];
/// Between two users.
const PAUSE: Duration = Duration::from_millis(200);
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes the database, as an application's migrations would have.
pub fn create(database: &Path) -> Result<(), CommandError> {
    let make = || -> rusqlite::Result<()> {
        let connection = Connection::open(database)?;
        connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        connection.execute_batch(&format!(
            "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
             CREATE TABLE {TABLE} (id INTEGER PRIMARY KEY AUTOINCREMENT, aggregateId, eventType, payload);"
        ))
    };
    make()
        .map_err(|error| CommandError::new(FAILED, error, "see the space in the temporary directory: df $TMPDIR /tmp"))
}

/// The child process.
pub fn application(arguments: &ApplicationArgs) -> Result<(), CommandError> {
    // Whatever happens to the parent: nobody would read what we write.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    play(arguments).map_err(|error| CommandError::new(FAILED, error, ""))
}

fn play(arguments: &ApplicationArgs) -> rusqlite::Result<()> {
    let mut connection = Connection::open(&arguments.database)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    for name in NAMES.iter().cycle().take(arguments.users as usize) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute("INSERT INTO users (name) VALUES (?)", [name])?;
        let user = transaction.last_insert_rowid();
        let payload = format!(r#"{{"id":{user},"name":"{name}"}}"#);
        transaction.execute(
            &format!("INSERT INTO {TABLE} (aggregateId, eventType, payload) VALUES (?, 'UserCreated', ?)"),
            params![user, payload],
        )?;
        transaction.commit()?;
        // A reader that went away is no reason to stop working.
        let _ = writeln!(std::io::stdout(), "committed user {user} ({name}) and its event in one transaction");
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
