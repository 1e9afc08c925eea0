//! `ports::Source`, as the relay sees a database.
//!
//! Promises: nothing beyond the trait. Does not know: how any of it is done.

use super::content::Known;
use super::database::Database;
use super::handle;
use crate::model::{
    Backlog, Booked, Budget, Deletion, Flow, Glance, JournalMode, Look, Origin, OutboxIx, RowView, Start, TableTraits,
    Version, Why,
};
use crate::ports::{DeleteOrder, JournalError, Source, SourceError};
use std::time::Duration;

impl Source for Database {
    fn look(
        &mut self,
        outbox: OutboxIx,
        start: Start,
        budget: Budget,
        each: &mut dyn FnMut(&RowView<'_>) -> Flow,
    ) -> Result<Look, SourceError> {
        self.look_now(outbox, start, budget, each)
    }

    fn glance(&mut self, starts: &[(OutboxIx, Start)], time: Duration) -> Result<Glance, SourceError> {
        self.glance_now(starts, time)
    }

    fn version(&mut self) -> Result<Option<Version>, SourceError> {
        self.version_now()
    }

    fn make_durable(&mut self) -> Result<(), SourceError> {
        if !self.unsynced || !self.syncs() {
            return Ok(());
        }
        let Some(companions) = &mut self.companions else { return Ok(()) };
        match companions.sync(self.mode) {
            Ok(()) => {
                self.unsynced = false;
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                let directory = companions.directory().display().to_string();
                let why = Why::new(format!(
                    "{}: its log and its directory can't be opened for syncing: {error}",
                    self.subject()
                ));
                Err(SourceError::Failed(why.hint(format!(
                    "let outboxd's user or group read {directory}: ls -ld {directory}; ls -l {directory}"
                ))))
            }
            Err(error) => {
                let mut hint =
                    "nothing is published that a power cut could undo; look at the kernel's log for the disk: dmesg"
                        .to_owned();
                if self.mode == JournalMode::Wal {
                    hint +=
                        "; once the disk is well, begin the log anew: sqlite3 FILE 'PRAGMA wal_checkpoint(TRUNCATE)'";
                }
                Err(SourceError::Failed(Why::new(format!("{}: syncing its log: {error}", self.subject())).hint(hint)))
            }
        }
    }

    fn others_active(&mut self) -> bool {
        let Some(link) = self.link.as_ref().filter(|link| link.unix) else { return false };
        match self.mode {
            JournalMode::Wal => handle::external_reader(&link.connection),
            JournalMode::Rollback => handle::reserved(&link.connection),
        }
    }

    fn journal_mode(&self) -> JournalMode {
        self.mode
    }

    fn delete(
        &mut self,
        order: &DeleteOrder<'_>,
        before_commit: &mut dyn FnMut(&Deletion) -> Result<(), JournalError>,
    ) -> Result<Deletion, SourceError> {
        self.delete_now(order, before_commit)
    }

    fn traits(&self, outbox: OutboxIx) -> Option<&TableTraits> {
        self.outboxes[usize::from(outbox.0)].traits()
    }

    fn books(&self) -> bool {
        self.books.books()
    }

    fn booked(&mut self) -> Result<Option<Booked>, SourceError> {
        self.booked_now()
    }

    fn backlog(&mut self, outbox: OutboxIx) -> Result<Backlog, SourceError> {
        self.backlog_now(outbox)
    }

    fn let_go(&mut self) {
        self.let_go_now();
    }

    fn is_open(&self) -> bool {
        self.link.is_some()
    }

    fn origin(&self) -> Option<Origin> {
        let log = self.known.as_ref().and_then(Known::log);
        self.lock.as_ref().map(|lock| Origin { file: lock.file(), log })
    }

    fn others_connected(&mut self) -> bool {
        self.others_connected_now()
    }

    fn is_undisturbed(&self) -> bool {
        Database::is_undisturbed(self)
    }

    fn found_empty_log(&self) -> bool {
        Database::found_empty_log(self)
    }

    fn stirred(&mut self) -> bool {
        self.stirred_now()
    }
}
