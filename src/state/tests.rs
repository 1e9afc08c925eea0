use super::*;
use crate::model::{Fingerprint, OutboxIx, Plan, PlanId, RowKey, RowMeta, Rows, Span, Target, Triple};
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
        first_attempt: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        rows: Arc::new(Rows { bytes: b"abc".to_vec(), meta: meta.collect() }),
    })
}

#[test]
fn a_plan_survives_as_it_was_written() {
    let place = Place::new();
    let database = place.database();
    let meta = std::fs::metadata(&database).unwrap();
    let file = place.open();
    let mut journal = file.journal(&database, &["users_outbox", "orders_outbox"]).unwrap();
    assert_eq!(journal.first_plan(), PlanId(1));
    journal.record(&[Change::Planned(&plan(7, 3)), Change::Planned(&plan(8, 1))], true).unwrap();
    journal.record(&[Change::Acknowledged { plan: PlanId(8), offset: 99 }], false).unwrap();
    drop((journal, file));

    let file = place.open();
    assert!(file.same_boot());
    let plans = file.open_plans().unwrap();
    assert_eq!(plans.len(), 2);
    let first = &plans[0];
    assert_eq!(first.plan, PlanId(7));
    assert_eq!(first.database, database);
    {
        use std::os::unix::fs::MetadataExt;
        assert_eq!((first.device, first.inode), (meta.dev(), meta.ino()));
    }
    assert_eq!(first.target, Target { topic: "users".into(), partition: 3 });
    assert_eq!(first.triple, Triple { producer_id: 4711, epoch: 2, first_sequence: i32::MAX });
    assert_eq!(first.run, RUN);
    assert_eq!((first.noted_offset, first.leader_epoch, first.row_count), (55, -1, 3));
    assert_eq!(first.first_attempt, SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123));
    assert_eq!(first.state, PlanState::Planned);
    assert_eq!(plans[1].state, PlanState::Acknowledged { offset: 99 });

    let rows = file.rows(first).unwrap().unwrap();
    let table = |row: &OpenRow| first.tables.iter().find(|(id, _)| *id == row.outbox).unwrap().1.clone();
    let seen: Vec<_> = rows.iter().map(|row| (table(row), row.rowid, row.message, row.event_id.clone())).collect();
    let id = b"abc".to_vec();
    assert_eq!(
        seen,
        [
            ("users_outbox".to_owned(), 10, 100, id.clone()),
            ("orders_outbox".to_owned(), 11, 101, id.clone()),
            ("users_outbox".to_owned(), 12, 102, id)
        ]
    );
    assert_eq!(rows[2].print, Fingerprint(3));

    let journal = file.journal(&database, &["users_outbox"]).unwrap();
    assert_eq!(journal.first_plan(), PlanId(9), "numbers are not used again while their plan is there");
    file.drop_plans(&plans[..1]).unwrap();
    assert_eq!(file.open_plans().unwrap(), plans[1..]);
}

#[test]
fn replaced_and_settled_plans_are_gone() {
    let place = Place::new();
    let file = place.open();
    let mut journal = file.journal(&place.database(), &["a", "b"]).unwrap();
    journal.record(&[Change::Planned(&plan(1, 4))], false).unwrap();
    let pieces = [plan(2, 2), plan(3, 2)];
    journal.record(&[Change::Replaced { old: PlanId(1), new: &pieces }], false).unwrap();
    let left = || file.open_plans().unwrap().iter().map(|plan| plan.plan.0).collect::<Vec<_>>();
    assert_eq!(left(), [2, 3]);
    journal.record(&[Change::Settled { plan: PlanId(2) }, Change::Settled { plan: PlanId(3) }], true).unwrap();
    assert_eq!(left(), [0; 0]);
    let blobs: i64 =
        file.shared().connection.query_row("SELECT count(*) FROM plan_rows", [], |row| row.get(0)).unwrap();
    assert_eq!(blobs, 0);
}

#[test]
fn a_failed_record_leaves_nothing() {
    let place = Place::new();
    let file = place.open();
    let mut journal = file.journal(&place.database(), &["a", "b"]).unwrap();
    let error = journal.record(&[Change::Planned(&plan(1, 1)), Change::Planned(&plan(1, 1))], false).unwrap_err();
    assert!(error.path.ends_with("state.db"), "{error}");
    assert_eq!(file.open_plans().unwrap(), []);
    journal.record(&[Change::Planned(&plan(1, 1))], false).unwrap();
    assert_eq!(file.open_plans().unwrap().len(), 1);
}

#[test]
fn relays_share_a_file_without_meeting() {
    let place = Place::new();
    let file = place.open();
    let other = place.folder.path().join("other");
    let mut journals =
        [file.journal(&place.database(), &["a", "b"]).unwrap(), file.journal(&other, &["a", "b"]).unwrap()];
    for journal in &mut journals {
        journal.record(&[Change::Planned(&plan(1, 2))], false).unwrap();
    }
    journals[0].record(&[Change::Settled { plan: PlanId(1) }], false).unwrap();
    let plans = file.open_plans().unwrap();
    assert_eq!(plans.len(), 1);
    assert_eq!(plans[0].database, other);
    assert_eq!((plans[0].device, plans[0].inode), (0, 0), "a database that is not there has no identity");
}

#[test]
fn a_second_one_is_refused_with_the_pid() {
    let place = Place::new();
    let file = place.open();
    let error = place.refused();
    let text =
        format!("another outboxd (PID {}) works with the state file {}", std::process::id(), place.path().display());
    assert_eq!(error.to_string(), text);
    drop(file);
    place.open();
}

#[test]
fn a_newer_version_is_not_touched() {
    let place = Place::new();
    place.open();
    Connection::open(place.path()).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = std::fs::read(place.path()).unwrap();
    assert!(matches!(place.refused(), StateError::Newer { found: 99, known: schema::VERSION, .. }));
    assert_eq!(std::fs::read(place.path()).unwrap(), before);
}

#[test]
fn an_applications_database_is_not_taken_for_a_state_file() {
    let place = Place::new();
    Connection::open(place.path()).unwrap().execute_batch("CREATE TABLE users (id INTEGER PRIMARY KEY)").unwrap();
    assert!(matches!(place.refused(), StateError::Foreign { .. }));
    assert_eq!(place.names(), ["state.db"]);
}

#[test]
fn damage_is_set_aside() {
    let place = Place::new();
    // Not a database at all.
    std::fs::write(place.path(), vec![b'x'; 5000]).unwrap();
    drop(place.open());
    assert!(place.names().iter().any(|name| name.starts_with("state.db.corrupt-")), "{:?}", place.names());

    // A page of ours gone wrong, with a plan in it.
    let place = Place::new();
    let file = place.open();
    file.journal(&place.database(), &["a", "b"]).unwrap().record(&[Change::Planned(&plan(1, 2))], true).unwrap();
    drop(file);
    let mut bytes = std::fs::read(place.path()).unwrap();
    for byte in &mut bytes[4096..] {
        *byte = 0xa5;
    }
    std::fs::write(place.path(), bytes).unwrap();
    let file = place.open();
    assert_eq!(file.open_plans().unwrap(), []);
    assert!(place.names().iter().any(|name| name.starts_with("state.db.corrupt-")), "{:?}", place.names());
    assert!(!file.same_boot(), "a new file knows no boot");
}

#[test]
fn plans_of_a_copied_file_are_dropped() {
    let place = Place::new();
    let file = place.open();
    file.journal(&place.database(), &["a", "b"]).unwrap().record(&[Change::Planned(&plan(1, 2))], true).unwrap();
    drop(file);
    let copy = place.folder.path().join("copy");
    std::fs::copy(place.path(), &copy).unwrap();
    std::fs::rename(&copy, place.path()).unwrap();
    assert_eq!(place.open().open_plans().unwrap(), []);
}

#[test]
fn the_file_stays_small() {
    let place = Place::new();
    let file = place.open();
    let mut journal = file.journal(&place.database(), &["a", "b"]).unwrap();
    for id in 1..=60 {
        let done = PlanId(id - 1);
        journal.record(&[Change::Settled { plan: done }, Change::Planned(&plan(id, 5_000))], false).unwrap();
    }
    let size = |suffix| std::fs::metadata(with_suffix(&place.path(), suffix)).unwrap().len();
    assert!(size("") < 2 << 20, "{} bytes", size(""));
    assert!(size("-wal") <= 2 * WAL_SIZE_MAX_BYTES, "{} bytes", size("-wal"));
}

#[test]
fn what_cannot_be_opened_says_why() {
    let place = Place::new();
    std::fs::create_dir(place.path()).unwrap();
    let error = place.refused();
    assert_eq!(error.to_string(), format!("the state file {} can't be opened", place.path().display()));
    assert!(error.hint().starts_with("this user must be able to write"), "{}", error.hint());
}
