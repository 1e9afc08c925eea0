//! Whether the file's content is still that of the database that was read: the same inode may have been overwritten in place.
//!
//! Promises: what SQLite did is never taken for another's doing while it can be explained by a commit or a checkpoint; a file whose
//! content is doubted takes no delete and no checkpoint of ours. Does not know: rows.
//!
//! SQLite itself does not look: in WAL mode it believes the -shm file, in rollback-journal modes 16 bytes of the header. With its
//! pages in the cache it would go on with the old content and write it over the new.

use super::database::{Database, Link, Replaced};
use super::durability::Salts;
use super::lock::{Glance, Header, Lock};
use super::outbox::Outbox;
use crate::model::{Another, FileId, JournalMode};
use crate::ports::SourceError;
use rusqlite::Connection;
use std::time::{Duration, Instant};

/// A checkpoint writes first, syncs, and says last how far it has come. One that takes longer than this from its last write on without
/// being seen at it, or that was killed in between, is taken for an overwriting.
const CHECKPOINT_MAX: Duration = Duration::from_secs(10);

/// A file that differs in its mtime alone was touched, most likely. It may have been overwritten with a copy of itself as well, so it is
/// opened anew after this; while a checkpoint still goes on that does no harm.
const ALIKE_FOR: Duration = Duration::from_secs(1);

/// The database file as it was when all was well with it.
#[derive(Debug)]
pub(super) struct Known {
    mode: JournalMode,
    /// Of the connection that looked: `data_version` and how far the log has come mean nothing to another.
    connection: u64,
    glance: Glance,
    /// Not known right after a commit of ours in a rollback-journal mode, when others may already be writing.
    header: Option<Header>,
    /// `data_version`, in rollback-journal modes.
    counter: i64,
    log: Log,
    doubt: Option<Doubt>,
}

/// The file has differed without a reason.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    seen: Glance,
    since: Instant,
    /// It has the header and the size that it had.
    alike: bool,
}

/// WAL mode: which log, and how much of it has been brought to the database file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Log {
    file: Option<FileId>,
    salts: Option<Salts>,
    backfilled: Option<i64>,
}

/// What is to be thought of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Ours,
    /// Written to, and no commit or checkpoint has said yet that it was SQLite.
    Doubtful,
    /// Written to past SQLite, or its log was taken away: what is in the cache is not to be believed.
    Stale,
    Another,
}

impl Known {
    pub fn is_doubtful(&self) -> bool {
        self.doubt.is_some()
    }

    #[cfg(test)]
    pub fn age(&mut self, by: Duration) {
        if let Some(doubt) = &mut self.doubt {
            doubt.since = doubt.since.checked_sub(by).unwrap();
        }
    }

    /// In doubt for its mtime alone.
    pub fn looks_alike(&self) -> bool {
        self.doubt.is_some_and(|doubt| doubt.alike)
    }

    fn is_of(&self, link: &Link, mode: JournalMode) -> bool {
        self.mode == mode && self.connection == link.number
    }

    /// The log that the connection works with.
    pub fn log(&self) -> Option<FileId> {
        self.log.file
    }

    /// WAL mode: another log lies under the name than the one the connection has open, or none.
    pub fn lost_its_log(&self, now: Option<FileId>) -> bool {
        self.log.file.is_some() && self.log.file != now
    }
}

/// What SQLite writes goes on from what it wrote before.
fn follows(last: Option<&Known>, lock: &Lock) -> bool {
    let Some(old) = last.and_then(|known| known.header) else { return true };
    // Twice: it may be read in the middle of a write.
    (0..2).any(|_| lock.header().is_ok_and(|header| header.is_some_and(|header| header.follows(&old))))
}

/// How many frames of the log are in the database file. NOOP does nothing but tell; it needs SQLite 3.51, which is bundled.
fn backfilled(connection: &Connection) -> Option<i64> {
    connection.prepare_cached("PRAGMA wal_checkpoint(NOOP)").ok()?.query_row([], |row| row.get(2)).ok()
}

impl Database {
    /// WAL mode, outside of any transaction. Nobody but a checkpoint writes to the database file there.
    pub(super) fn content_in_wal(&mut self) -> Content {
        let (Some(link), Some(lock), Some(companions)) = (&self.link, &self.lock, &mut self.companions) else {
            return Content::Ours;
        };
        if self.read_only {
            return Content::Ours;
        }
        // The log first: a checkpoint that goes on meanwhile is then found further than noted, never less far.
        let backfilled = backfilled(&link.connection);
        let log = Log { backfilled, file: companions.wal_file(), salts: companions.wal_salts() };
        let Ok(glance) = lock.glance() else { return Content::Ours };
        let last = self.known.take();
        let of_this = last.as_ref().is_some_and(|known| known.is_of(link, JournalMode::Wal));
        let fresh = |header, doubt| Known {
            mode: JournalMode::Wal,
            connection: link.number,
            glance,
            header,
            counter: 0,
            log,
            doubt,
        };
        let (content, known) = match last {
            Some(known) if of_this && known.lost_its_log(log.file) => (Content::Stale, known),
            Some(known) if of_this && known.glance == glance => (Content::Ours, fresh(known.header, None)),
            last if !follows(last.as_ref(), lock) => (Content::Another, fresh(None, None)),
            Some(known) if of_this && log.backfilled.is_some() && known.log == log => {
                let doubt = known.doubt.filter(|doubt| doubt.seen == glance).unwrap_or_else(|| {
                    let same_header =
                        known.header.is_some() && lock.header().is_ok_and(|header| header == known.header);
                    let alike = same_header && glance.size == known.glance.size;
                    Doubt { seen: glance, since: Instant::now(), alike }
                });
                let lasts = doubt.since.elapsed();
                if doubt.alike && lasts > ALIKE_FOR {
                    (Content::Stale, known)
                } else if lasts > CHECKPOINT_MAX && companions.is_checkpointed() {
                    let doubt = Doubt { since: Instant::now(), ..doubt };
                    (Content::Doubtful, Known { doubt: Some(doubt), ..known })
                } else if lasts > CHECKPOINT_MAX {
                    (Content::Another, known)
                } else {
                    (Content::Doubtful, Known { doubt: Some(doubt), ..known })
                }
            }
            _ => (Content::Ours, fresh(lock.header().ok().flatten(), None)),
        };
        self.known = Some(known);
        content
    }

    /// After a look: a log that the connection has made itself is the one it works with.
    pub(super) fn note_log(&mut self) {
        if let (Some(known), Some(companions)) = (&mut self.known, &self.companions)
            && known.mode == JournalMode::Wal
            && known.log.file.is_none()
        {
            known.log.file = companions.wal_file();
        }
    }

    /// Before a look, which does no harm to a file it need not believe: one `fstat` most of the time.
    pub(super) fn content_at_a_glance(&mut self) -> Content {
        let (Some(link), Some(known)) = (&self.link, &self.known) else { return self.content_in_wal() };
        let unchanged = known.is_of(link, JournalMode::Wal)
            && known.doubt.is_none()
            && self.lock.as_ref().is_some_and(|lock| lock.glance().is_ok_and(|glance| glance == known.glance));
        if unchanged { Content::Ours } else { self.content_in_wal() }
    }

    /// Rollback-journal modes, inside a transaction: nobody else is writing. `counter`: its `data_version`.
    pub(super) fn content_in_journal(&mut self, link: &Link, counter: i64) -> Content {
        let Some(lock) = &self.lock else { return Content::Ours };
        let Ok(glance) = lock.glance() else { return Content::Ours };
        let last = self.known.take();
        let header = match &last {
            Some(known) if known.glance == glance && known.counter == counter && known.header.is_some() => known.header,
            _ => lock.header().ok().flatten(),
        };
        let unchanged = last
            .as_ref()
            .filter(|known| known.is_of(link, JournalMode::Rollback) && known.counter == counter)
            .is_some_and(|known| known.glance != glance);
        let content = if !follows(last.as_ref(), lock) {
            Content::Another
        } else if unchanged {
            // No commit, and yet it was written to. A large transaction that was rolled back leaves the same content, a journal of a
            // killed process too, so the same header is no proof of another database; but the cache is not to be believed.
            let known = last.as_ref().and_then(|known| known.header);
            if known.is_some() && known != header { Content::Another } else { Content::Stale }
        } else {
            Content::Ours
        };
        self.known = Some(Known {
            mode: JournalMode::Rollback,
            connection: link.number,
            glance,
            header,
            counter,
            log: Log::default(),
            doubt: None,
        });
        content
    }

    /// A commit of ours in a rollback-journal mode, which no `data_version` of ours tells.
    pub(super) fn note_own_content(&mut self) {
        if self.mode == JournalMode::Rollback
            && let Some(known) = &mut self.known
            && let Some(Ok(glance)) = self.lock.as_ref().map(Lock::glance)
        {
            (known.glance, known.header) = (glance, None);
        }
    }

    /// Inside a transaction: the caller rolls back and asks `abandoned`.
    pub(super) fn trust_in_journal(&mut self, link: &Link, counter: i64) -> Result<(), SourceError> {
        if self.mode != JournalMode::Rollback {
            return Ok(());
        }
        match self.content_in_journal(link, counter) {
            Content::Ours => Ok(()),
            content => {
                self.distrusted = Some(content);
                Err(SourceError::Busy(format!("{} was written to past SQLite", self.subject())))
            }
        }
    }

    /// What to answer when a transaction met a content that is not to be believed.
    pub(super) fn abandoned(&mut self) -> Option<SourceError> {
        let content = self.distrusted.take()?;
        Some(self.abandon(content))
    }

    /// Lets go of a file whose content is not what was read, without writing to it.
    pub(super) fn abandon(&mut self, content: Content) -> SourceError {
        self.close_untouched();
        if content == Content::Stale {
            return SourceError::Busy(format!("{} was written to past SQLite; opening it anew", self.subject()));
        }
        self.known = None;
        self.schema_version = None;
        self.outboxes.iter_mut().for_each(Outbox::forget);
        self.overwritten().into()
    }

    pub(super) fn overwritten(&self) -> Replaced {
        let text = format!("{} was overwritten in place: it does not go on from what was there", self.subject());
        Replaced { text, another: Another::All }
    }
}
