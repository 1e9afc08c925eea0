//! The state file by what it promises: plans and their numbers, what is left for a start, quarantine, requests, the file itself,
//! disks that fill up.

mod failures;
mod files;
mod left;
mod notes;
mod plans;
mod removed;
mod requests;
mod size;
mod visits;

use super::*;
use crate::model::{
    Fault, Fingerprint, LeftPlan, LeftResend, Origin, OutboxIx, Plan, PlanId, PlanState, Quarantined, Resend, RowKey,
    RowMeta, Rows, SentForm, Span, Target, Triple, Why,
};
use crate::ports::{Change, Journal};
use std::time::Duration;

const RUN: RunId = RunId(0x1234_5678_9abc_def0_1234_5678_9abc_def0);

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("state.db")
    }

    fn open(&self) -> StateFile {
        StateFile::open(&self.path(), RUN).unwrap()
    }

    fn refused(&self) -> StateError {
        StateFile::open(&self.path(), RUN).expect_err("this must be refused")
    }

    fn database(&self) -> PathBuf {
        let path = self.folder.path().join("db");
        std::fs::write(&path, "").unwrap();
        path
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn plan(id: u64, rows: usize) -> Arc<Plan> {
    let meta = (0..rows).map(|index| RowMeta {
        key: RowKey { outbox: OutboxIx((index % 2) as u16), rowid: 10 + index as i64 },
        print: Fingerprint(index as u128 + 1),
        record: Span::default(),
        message: 100 + index as u64,
        event_id: Span { start: 0, len: 3 },
    });
    Arc::new(Plan {
        id: PlanId(id),
        target: Target { topic: "users".into(), partition: 3 },
        triple: Triple { producer_id: 4711, epoch: 2, first_sequence: i32::MAX },
        run: RUN,
        noted_offset: 55,
        leader_epoch: -1,
        cluster: Some("a-cluster".into()),
        first_attempt: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        rows: Arc::new(Rows { bytes: b"abc".to_vec(), meta: meta.collect() }),
        sent_form: SentForm::default(),
    })
}

const TABLES: [&str; 2] = ["users_outbox", "orders_outbox"];

fn time(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}

/// The file that is there.
fn identity(path: &Path) -> Option<FileId> {
    std::fs::metadata(path).ok().map(|meta| lock::identify(&meta))
}

fn origin(path: &Path) -> Option<Origin> {
    identity(path).map(|file| Origin { file, log: None })
}

fn quarantined(outbox: u16, rowid: i64, fault: Fault) -> Quarantined {
    Quarantined {
        key: RowKey { outbox: OutboxIx(outbox), rowid },
        print: Fingerprint(u128::MAX - rowid as u128),
        fault,
        why: Why::new("too large").code(10).hint("raise max.message.bytes"),
        attempts: 3,
        first: time(1_700_000_000_001),
        last: time(1_700_000_000_002),
    }
}

fn left_ids(plans: &[LeftPlan]) -> Vec<u64> {
    plans.iter().map(|plan| plan.id.0).collect()
}

/// Runs one test of this binary again, in a process of its own that a shell has prepared.
fn rerun(test: &str, prepare: &str, variables: &[(&str, &str)]) -> std::process::Output {
    let binary = std::env::current_exe().unwrap();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &format!("{prepare} exec \"$0\" --exact {test} --nocapture --test-threads=1")]).arg(binary);
    command.envs(variables.iter().copied());
    command.output().unwrap()
}
