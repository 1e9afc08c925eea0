//! What a start is told of earlier runs; the quarantine; files of the first version.

use super::*;
use crate::model::{Guard, KnownTable, TableIdentity};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

const IDENTITY: TableIdentity =
    TableIdentity { schema_version: 7, place: (1, 2), definition: u128::MAX - 3, sequence: Some((1, i64::MAX)) };

#[test]
fn a_start_is_told_everything_of_its_database() {
    let place = Place::new();
    let database = place.database();
    {
        let file = place.open();
        let mut journal = file.journal(&database, &TABLES).unwrap();
        journal.reads_from(origin(&database));
        let guard = Guard { columns: vec!["id".to_owned(), "payload".to_owned()], sent: 1, by_value: true };
        let other = file.journal(&place.path(), &TABLES).unwrap();
        let mut others = other;
        others.record(&[Change::Planned(&plan(1, 1))], false).unwrap();
        journal
            .record(
                &[
                    Change::Planned(&plan(7, 3)),
                    Change::Planned(&plan(8, 1)),
                    Change::Stamped { at: time(1_700_000_000_777) },
                    Change::Acknowledged { plan: PlanId(8), offset: 99 },
                    Change::Deleting { delete: 4, plans: &[PlanId(8)] },
                    Change::Quarantined(&quarantined(1, 5, Fault::Undeletable)),
                    Change::Quarantined(&quarantined(0, -9, Fault::Rejected)),
                    Change::Table { outbox: OutboxIx(0), guard: &guard, identity: &IDENTITY },
                    Change::ToResend { key: resend(1, 3).key, resend: resend(1, 2).resend },
                    Change::ToResend { key: resend(1, 3).key, resend: resend(1, 3).resend },
                    Change::ToResend { key: resend(0, 8).key, resend: resend(0, 8).resend },
                    Change::ToResend { key: resend(0, 9).key, resend: resend(0, 9).resend },
                    Change::NotToResend { key: resend(0, 9).key },
                ],
                true,
            )
            .unwrap();
    }
    let file = place.open();
    let left = file.left(&database, &TABLES, identity(&database)).unwrap();
    assert!(!left.plans[0].other_boot);
    assert_eq!(left_ids(&left.plans), [7, 8]);
    let first = &left.plans[0];
    let written = plan(7, 3);
    assert_eq!((&first.target, first.triple, first.run), (&written.target, written.triple, written.run));
    assert_eq!((first.noted_offset, first.leader_epoch), (written.noted_offset, written.leader_epoch));
    assert_eq!(first.cluster.as_deref(), Some("a-cluster"));
    assert_eq!(left.newest_stamp, Some(time(1_700_000_000_777)));
    assert_eq!((first.first_attempt, first.state), (written.first_attempt, PlanState::Planned));
    assert_eq!((first.rows_elsewhere, first.other_file), (0, false));
    let rows: Vec<_> = first.rows.iter().map(|row| (row.key, row.print, row.message)).collect();
    let meta: Vec<_> = written.rows.meta.iter().map(|row| (row.key, row.print, row.message)).collect();
    assert_eq!(rows, meta);
    assert_eq!(left.plans[1].state, PlanState::Deleting { delete: 4 });
    assert_eq!(left.quarantine, [quarantined(0, -9, Fault::Rejected), quarantined(1, 5, Fault::Undeletable)]);
    let guard = Guard { columns: vec!["id".to_owned(), "payload".to_owned()], sent: 1, by_value: true };
    let known = KnownTable { guard, identity: Some(IDENTITY) };
    assert_eq!(left.tables, [Some(known), None]);
    assert_eq!(left.resends, [resend(0, 8), resend(1, 3)]);
    // Asked again, the same: nothing was used up.
    let again = file.left(&database, &TABLES, identity(&database)).unwrap();
    assert_eq!((left_ids(&again.plans), again.quarantine), (vec![7, 8], left.quarantine));
    assert_eq!(file.left(&place.folder.path().join("none"), &TABLES, None).unwrap().plans.len(), 0);
}

#[test]
fn rows_of_outboxes_no_longer_configured_are_counted_and_kept() {
    let place = Place::new();
    let database = place.database();
    let file = place.open();
    let mut journal = file.journal(&database, &TABLES).unwrap();
    journal.reads_from(origin(&database));
    journal
        .record(
            &[
                Change::Planned(&plan(1, 3)),
                Change::Planned(&plan(2, 1)),
                Change::Quarantined(&quarantined(0, 1, Fault::Rejected)),
            ],
            false,
        )
        .unwrap();
    // The second outbox alone, by another spelling; `plan` puts every second row there.
    let left = file.left(&database, &["Orders_Outbox"], identity(&database)).unwrap();
    assert_eq!(left_ids(&left.plans), [1]);
    assert_eq!(left.plans[0].rows_elsewhere, 2);
    let keys: Vec<_> = left.plans[0].rows.iter().map(|row| row.key).collect();
    assert_eq!(keys, [RowKey { outbox: OutboxIx(0), rowid: 11 }]);
    assert_eq!(left.quarantine, []);
    // Configured again, everything is there again.
    let left = file.left(&database, &TABLES, identity(&database)).unwrap();
    assert_eq!((left_ids(&left.plans), left.quarantine.len()), (vec![1, 2], 1));
    let mut renamed = file.journal(&database, &["ORDERS_OUTBOX"]).unwrap();
    renamed.record(&[Change::Quarantined(&quarantined(0, 3, Fault::Rejected))], false).unwrap();
    let left = file.left(&database, &TABLES, identity(&database)).unwrap();
    assert_eq!(left.quarantine[1].key, RowKey { outbox: OutboxIx(1), rowid: 3 }, "one table in any spelling");
}

#[test]
fn what_was_dealt_with_beside_an_outbox_no_longer_configured_is_not_dealt_with_again() {
    let place = Place::new();
    let database = place.database();
    let file = place.open();
    let mut journal = file.journal(&database, &TABLES).unwrap();
    journal.record(&[Change::Planned(&plan(1, 3)), Change::Planned(&plan(2, 1))], false).unwrap();
    let mut first = file.journal(&database, &TABLES[..1]).unwrap();
    first.record(&[Change::SettledHere { plan: PlanId(1) }, Change::SettledHere { plan: PlanId(2) }], false).unwrap();
    let left = |tables: &[&str]| file.left(&database, tables, identity(&database)).unwrap().plans;
    assert!(left(&TABLES[..1]).is_empty(), "a row that looks like one of them is another");
    let both = left(&TABLES);
    assert_eq!(left_ids(&both), [1], "of the second nothing is left");
    let keys: Vec<_> = both[0].rows.iter().map(|row| row.key).collect();
    assert_eq!((keys, both[0].rows_elsewhere), (vec![RowKey { outbox: OutboxIx(1), rowid: 11 }], 2));
    journal.record(&[Change::SettledHere { plan: PlanId(1) }], false).unwrap();
    assert_eq!(file.open_plans().unwrap(), []);
}

#[test]
fn a_plan_that_cannot_be_read_is_dropped() {
    let place = Place::new();
    let database = place.database();
    let file = place.open();
    let mut journal = file.journal(&database, &TABLES).unwrap();
    journal.reads_from(origin(&database));
    let plans: Vec<_> = (1..=6).map(|id| plan(id, 2)).collect();
    let changes: Vec<_> = plans.iter().map(|plan| Change::Planned(plan)).collect();
    journal.record(&changes, false).unwrap();
    file.shared()
        .connection
        .execute_batch(
            "UPDATE plan_rows SET rows = x'ff' WHERE id & 0xffff = 1;
             DELETE FROM plan_rows WHERE id & 0xffff = 2;
             UPDATE plan SET row_count = 3 WHERE id & 0xffff = 3;
             UPDATE plan_rows SET rows = 'text' WHERE id & 0xffff = 4;
             UPDATE plan_rows SET rows = substr(rows, 1, length(rows) - 1) WHERE id & 0xffff = 5;",
        )
        .unwrap();
    let left = file.left(&database, &TABLES, identity(&database)).unwrap();
    assert_eq!(left_ids(&left.plans), [6]);
    assert_eq!(file.open_plans().unwrap().len(), 1, "for good");
}

#[test]
fn another_database_under_the_name_is_told() {
    let place = Place::new();
    let database = place.database();
    let file = place.open();
    let mut journal = file.journal(&database, &TABLES).unwrap();
    journal.reads_from(origin(&database));
    let changes = [
        Change::Planned(&plan(1, 1)),
        Change::Quarantined(&quarantined(0, 1, Fault::Rejected)),
        Change::Quarantined(&quarantined(0, 2, Fault::Undeletable)),
    ];
    journal.record(&changes, false).unwrap();
    let other = place.folder.path().join("other");
    std::fs::write(&other, "").unwrap();
    let left = file.left(&database, &TABLES, identity(&other)).unwrap();
    assert!(left.plans[0].other_file);
    let rowids: Vec<_> = left.quarantine.iter().map(|row| row.key.rowid).collect();
    assert_eq!(rowids, [1], "a row that looks like a published one may be another event there");
    let left = file.left(&database, &TABLES, identity(&database)).unwrap();
    assert!(!left.plans[0].other_file);
    assert!(file.left(&database, &TABLES, None).unwrap().plans[0].other_file, "what comes is not what was");
}

#[test]
fn a_quarantined_row_has_one_entry_until_it_is_released() {
    let place = Place::new();
    let database = place.database();
    let file = place.open();
    let mut journal = file.journal(&database, &TABLES).unwrap();
    journal.reads_from(origin(&database));
    let read = || file.left(&database, &TABLES, identity(&database)).unwrap().quarantine;
    let first = quarantined(0, 1, Fault::Rejected);
    let mut second = Quarantined { fault: Fault::Unroutable, attempts: u32::MAX, ..first.clone() };
    second.why = Why::new("ü".repeat(3_000));
    let elsewhere = quarantined(1, 1, Fault::Rejected);
    journal.record(&[Change::Quarantined(&first), Change::Quarantined(&elsewhere)], false).unwrap();
    assert_eq!(read(), [first, elsewhere.clone()]);
    journal.record(&[Change::Quarantined(&second)], false).unwrap();
    second.why.text.truncate(TEXT_MAX_BYTES);
    assert_eq!(read(), [second, elsewhere.clone()]);
    let gone = RowKey { outbox: OutboxIx(0), rowid: 1 };
    journal.record(&[Change::Released { key: gone }, Change::Released { key: gone }], false).unwrap();
    assert_eq!(read(), [elsewhere]);
}

#[test]
fn what_a_table_was_is_kept_as_long_as_a_fingerprint_is() {
    let place = Place::new();
    let database = place.database();
    let file = place.open();
    let mut journal = file.journal(&database, &TABLES).unwrap();
    journal.reads_from(origin(&database));
    let mut note = |changes: &[Change<'_>]| journal.record(changes, false).unwrap();
    let read = || file.left(&database, &TABLES, identity(&database)).unwrap().tables;
    let old = Guard { columns: vec!["a".to_owned(), "b".to_owned()], sent: 2, by_value: false };
    let new = Guard { columns: vec!["b".to_owned()], sent: 1, by_value: true };
    let outbox = OutboxIx(0);
    let uncounted = TableIdentity { sequence: None, ..IDENTITY };
    let of_old = Change::Table { outbox, guard: &old, identity: &IDENTITY };
    note(&[of_old, Change::Table { outbox, guard: &new, identity: &uncounted }]);
    assert_eq!(read(), [None, None], "nothing was made of them");
    note(&[of_old, Change::Quarantined(&quarantined(0, 1, Fault::Rejected))]);
    let known = || [Some(KnownTable { guard: old.clone(), identity: Some(IDENTITY) }), None];
    assert_eq!(read(), known());
    note(&[Change::Released { key: RowKey { outbox, rowid: 1 } }, Change::Planned(&plan(1, 1))]);
    assert_eq!(read(), known());
    note(&[Change::Settled { plan: PlanId(1) }]);
    assert_eq!(read(), [None, None]);
    note(&[Change::Planned(&plan(2, 1))]);
    assert_eq!(read(), [None, None], "they were forgotten");
}

/// A row that waits to be sent again.
fn resend(outbox: u16, rowid: i64) -> LeftResend {
    LeftResend {
        key: RowKey { outbox: OutboxIx(outbox), rowid },
        resend: Resend { print: Fingerprint(u128::MAX - rowid as u128), run: RUN, message: u64::MAX - rowid as u64 },
    }
}

#[test]
fn a_file_of_every_version_moves_forward() {
    for version in 0..schema::VERSION {
        let place = Place::new();
        let connection = Connection::open(place.path()).unwrap();
        schema::steps_to(&connection, version).unwrap();
        drop(connection);
        let database = place.database();
        let file = place.open();
        let mut journal = file.journal(&database, &TABLES).unwrap();
        journal.record(&[Change::ToResend { key: resend(1, 3).key, resend: resend(1, 3).resend }], false).unwrap();
        let left = file.left(&database, &TABLES, identity(&database)).unwrap();
        assert_eq!(left.resends, [resend(1, 3)], "from version {version}");
    }
}

#[test]
fn older_fingerprints_have_no_half_for_what_was_sent() {
    let place = Place::new();
    let connection = Connection::open(place.path()).unwrap();
    schema::steps_to(&connection, 2).unwrap();
    connection.pragma_update(None, "foreign_keys", false).unwrap();
    connection.execute_batch("INSERT INTO fingerprint_column VALUES (5, 0, 'id'), (5, 1, 'note')").unwrap();
    let whole = Guard { columns: vec!["id".to_owned(), "note".to_owned()], sent: 2, by_value: false };
    assert_eq!(tables::guard(&connection, 5, 2).unwrap(), Some(whole.clone()), "as a visitor reads it");
    drop(connection);
    let file = place.open();
    assert_eq!(tables::guard(&file.shared().connection, 5, schema::VERSION).unwrap(), Some(whole));
}

/// As the first release made it. Never changed.
pub const VERSION_1: &str = "
    CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1), device INTEGER NOT NULL, inode INTEGER NOT NULL,
        boot_id TEXT NOT NULL, run BLOB NOT NULL);
    CREATE TABLE relay (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE);
    CREATE TABLE outbox (id INTEGER PRIMARY KEY, relay INTEGER NOT NULL REFERENCES relay, table_name TEXT NOT NULL,
        UNIQUE (relay, table_name));
    CREATE TABLE plan (id INTEGER PRIMARY KEY, device INTEGER NOT NULL, inode INTEGER NOT NULL, topic TEXT NOT NULL,
        partition INTEGER NOT NULL, producer_id INTEGER NOT NULL, epoch INTEGER NOT NULL, first_sequence INTEGER NOT NULL,
        run BLOB NOT NULL, noted_offset INTEGER NOT NULL, leader_epoch INTEGER NOT NULL, first_attempt_ms INTEGER NOT NULL,
        row_count INTEGER NOT NULL, acknowledged INTEGER NOT NULL DEFAULT 0, acknowledged_offset INTEGER);
    CREATE TABLE plan_rows (id INTEGER PRIMARY KEY, rows BLOB NOT NULL);
    PRAGMA application_id = 0x6f757462;
    PRAGMA user_version = 1;
    PRAGMA journal_mode = WAL;";

#[test]
fn a_file_of_the_first_version_moves_forward() {
    let place = Place::new();
    let database = place.database();
    let connection = Connection::open(place.path()).unwrap();
    connection.execute_batch(VERSION_1).unwrap();
    let FileId { device, inode, .. } = identity(&place.path()).unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let meta = rusqlite::params![device as i64, inode as i64, boot.trim(), RUN.0.to_be_bytes()];
    connection.execute("INSERT INTO meta VALUES (1, ?, ?, ?, ?)", meta).unwrap();
    connection.execute("INSERT INTO relay VALUES (1, ?)", [database.as_os_str().as_bytes()]).unwrap();
    connection.execute_batch("INSERT INTO outbox VALUES (1, 1, 'users_outbox'), (2, 1, 'orders_outbox')").unwrap();
    for (id, acknowledged) in [(7, 0), (20, 1)] {
        let id = 1i64 << 48 | id;
        let FileId { device, inode, .. } = identity(&database).unwrap();
        let values = rusqlite::params![id, device as i64, inode as i64, RUN.0.to_be_bytes(), acknowledged];
        let sql = "INSERT INTO plan VALUES (?1, ?2, ?3, 'users', 3, 4711, 2, 9, ?4, 55, -1, 123, 3, ?5, 66)";
        connection.execute(sql, values).unwrap();
        let mut blob = Vec::new();
        codec::encode(&plan(1, 3).rows, &[1, 2], &mut blob);
        connection.execute("INSERT INTO plan_rows VALUES (?, ?)", rusqlite::params![id, blob]).unwrap();
    }
    drop(connection);

    let file = place.open();
    assert!(file.same_boot());
    assert_ne!(file.id(), 0);
    let left = file.left(&database, &TABLES, identity(&database)).unwrap();
    let states: Vec<_> = left.plans.iter().map(|plan| plan.state).collect();
    assert_eq!(states, [PlanState::Planned, PlanState::Acknowledged { offset: 66 }]);
    assert_eq!((left.plans[0].rows.len(), left.plans[0].other_file), (3, false));
    assert_eq!((left.quarantine.len(), left.tables), (0, vec![None, None]));
    let mut journal = file.journal(&database, &TABLES).unwrap();
    journal.reads_from(origin(&database));
    assert_eq!(journal.first_plan(), PlanId(21), "above what the first version left");
    journal.record(&[Change::Deleting { delete: 1, plans: &[PlanId(20)] }], false).unwrap();
    let id = file.id();
    drop((journal, file));
    let file = place.open();
    assert_eq!(file.id(), id);
    assert_eq!(file.open_plans().unwrap()[1].state, PlanState::Deleting { delete: 1 });
}

#[test]
fn a_plan_of_the_second_version_is_of_no_known_cluster_and_its_quarantine_is_seen() {
    let place = Place::new();
    let database = place.database();
    let connection = Connection::open(place.path()).unwrap();
    schema::steps_to(&connection, 2).unwrap();
    let path = database.as_os_str().as_bytes();
    connection.execute("INSERT INTO relay (id, path, last_plan) VALUES (1, ?, 7)", [path]).unwrap();
    connection.execute("INSERT INTO outbox (id, relay, table_name) VALUES (1, 1, 'users_outbox')", []).unwrap();
    let mut rows = Vec::new();
    codec::encode(&plan(7, 1).rows, &[1, 2], &mut rows);
    connection
        .execute_batch(
            "INSERT INTO plan (id, device, inode, topic, partition, producer_id, epoch, first_sequence, run, noted_offset,
                 leader_epoch, first_attempt_ms, row_count)
             VALUES (1 << 48 | 7, 0, 0, 'users', 3, 4711, 2, 0, x'00112233445566778899aabbccddeeff', 55, -1, 0, 1);
             INSERT INTO quarantine VALUES (1, 5, zeroblob(16), 'rejected', NULL, 'no', '', 1, 0, 0, 0, 0);",
        )
        .unwrap();
    connection.execute("INSERT INTO plan_rows (id, rows) VALUES (1 << 48 | 7, ?)", [rows]).unwrap();
    drop(connection);
    // By who only looks, too, while it is not brought up to date.
    assert_eq!(Visitor::reading(&place.path()).unwrap().quarantine().unwrap().len(), 1);
    // It is taken for one of this file: its boot and place are noted by the first start.
    let file = place.open();
    let left = file.left(&database, &TABLES[..1], identity(&database)).unwrap();
    assert_eq!((left_ids(&left.plans), left.quarantine.len()), (vec![7], 1));
    assert_eq!(left.plans[0].cluster, None, "judged as ever");
}

/// The same number, made at another time.
fn made_later(file: FileId) -> FileId {
    FileId { born: file.born.map(|born| born + 1), ..file }
}

#[test]
fn a_file_made_later_under_the_same_number_is_another() {
    let place = Place::new();
    let database = place.database();
    let file = place.open();
    let mut journal = file.journal(&database, &TABLES).unwrap();
    journal.reads_from(origin(&database));
    let changes = [Change::Planned(&plan(1, 1)), Change::Quarantined(&quarantined(0, 2, Fault::Undeletable))];
    journal.record(&changes, false).unwrap();
    let now = identity(&database).unwrap();
    if now.born.is_some() {
        let left = file.left(&database, &TABLES, Some(made_later(now))).unwrap();
        assert!(left.plans[0].other_file && left.quarantine.is_empty());
    }
    journal.record(&changes[1..], false).unwrap();
    // Where that is not known, it is as it was.
    let left = file.left(&database, &TABLES, Some(FileId { born: None, ..now })).unwrap();
    assert!(!left.plans[0].other_file && left.quarantine.len() == 1);
}

/// A state file with a plan for each of these databases.
fn planned_for(place: &Place, paths: &[&Path], file: impl Fn(usize) -> FileId) -> StateFile {
    let state = place.open();
    for (at, path) in paths.iter().enumerate() {
        let mut journal = state.journal(path, &TABLES).unwrap();
        assert!(journal.reads_from(Some(Origin { file: file(at), log: None })));
        journal.record(&[Change::Planned(&plan(10 + at as u64, 1))], false).unwrap();
        assert!(!journal.reads_from(Some(Origin { file: file(at), log: None })), "it knows");
    }
    state
}

fn numbered(inode: usize) -> FileId {
    FileId { device: 1, inode: inode as u64, born: Some(7) }
}

#[test]
fn what_was_left_follows_the_file() {
    let place = Place::new();
    let paths = ["a", "b", "c"].map(|name| place.folder.path().join(name));
    let [a, b, c] = [&paths[0], &paths[1], &paths[2]].map(PathBuf::as_path);
    let plans = |state: &StateFile, path: &Path, at| {
        let left = state.left(path, &TABLES, Some(numbered(at))).unwrap();
        left.plans.iter().map(|plan| (plan.id.0, plan.other_file, plan.guessed)).collect::<Vec<_>>()
    };
    let state = planned_for(&place, &[a, b, c], numbered);
    // All three change their places.
    state.follow(&[(a, Some(numbered(1))), (b, Some(numbered(2))), (c, Some(numbered(0)))]).unwrap();
    for (path, at) in [(a, 1), (b, 2), (c, 0)] {
        assert_eq!(plans(&state, path, at), [(10 + at as u64, false, false)]);
    }
    // One is not configured any more, and another lies in the place of the next.
    state.follow(&[(a, Some(numbered(0)))]).unwrap();
    assert_eq!(plans(&state, a, 0), [(10, false, false)]);
    assert_eq!(plans(&state, c, 1), [(11, false, false)], "kept, for who comes to look for it");
    // Their numbers rise on.
    assert_eq!(state.journal(a, &TABLES).unwrap().first_plan(), PlanId(11));
}

#[test]
fn a_number_that_was_given_again_is_not_followed() {
    let place = Place::new();
    let (old, new) = (place.database(), place.folder.path().join("new"));
    for born in [None, Some(8)] {
        let state = planned_for(&place, &[&old], numbered);
        state.follow(&[(&new, Some(FileId { born, ..numbered(0) }))]).unwrap();
        assert!(state.left(&new, &TABLES, Some(numbered(0))).unwrap().plans.is_empty());
        drop(state);
        std::fs::remove_file(place.path()).unwrap();
    }
}

/// On the file system of the place.
fn numbered_in(place: &Place) -> impl Fn(usize) -> FileId {
    let device = std::fs::metadata(place.folder.path()).unwrap().dev();
    move |inode| FileId { device, ..numbered(inode) }
}

#[test]
fn the_only_database_that_is_gone_is_guessed_to_be_the_new_one() {
    let place = Place::new();
    let [old, new] = ["old", "new"].map(|name| place.folder.path().join(name));
    let state = planned_for(&place, &[&old], numbered_in(&place));
    let moved = [(new.as_path(), Some(numbered(5)))];
    std::fs::write(&old, "").unwrap();
    state.follow(&moved).unwrap();
    assert!(state.left(&new, &TABLES, Some(numbered(5))).unwrap().plans.is_empty(), "it is still there");
    std::fs::remove_file(&old).unwrap();
    state.follow(&[moved[0], (old.as_path(), None)]).unwrap();
    assert!(state.left(&new, &TABLES, Some(numbered(5))).unwrap().plans.is_empty(), "it is waited for");
    state.follow(&moved).unwrap();
    for _ in 0..2 {
        let left = state.left(&new, &TABLES, Some(numbered(0))).unwrap();
        assert_eq!(left_ids(&left.plans), [10]);
        assert!(left.plans[0].other_file && left.plans[0].guessed, "whatever file it is");
        // A lesser doubt does not take the place of the greater one.
        let mut journal = state.journal(&new, &TABLES).unwrap();
        journal.record(&[Change::Doubtful { plan: PlanId(10) }], false).unwrap();
    }
}

#[test]
fn a_database_whose_file_system_is_not_mounted_is_not_gone() {
    for (device, guessed) in [(None, true), (Some(1), false)] {
        for name in ["db", "mounted/here/db"] {
            let place = Place::new();
            let [old, new] = [name, "new"].map(|name| place.folder.path().join(name));
            let was = FileId { device: device.unwrap_or(numbered_in(&place)(0).device), ..numbered(0) };
            let state = planned_for(&place, &[&old], |_| was);
            state.follow(&[(&new, Some(numbered(5)))]).unwrap();
            let left = state.left(&new, &TABLES, Some(numbered(5))).unwrap();
            assert_eq!(left.plans.len(), usize::from(guessed), "{name} on {device:?}");
        }
    }
}

#[test]
fn of_two_databases_that_are_gone_none_is_guessed_to_be_the_new_one() {
    let place = Place::new();
    let [a, b, new] = ["a", "b", "new"].map(|name| place.folder.path().join(name));
    let state = planned_for(&place, &[&a, &b], numbered_in(&place));
    state.follow(&[(&new, Some(numbered(5)))]).unwrap();
    assert!(state.left(&new, &TABLES, Some(numbered(5))).unwrap().plans.is_empty());
    assert_eq!(state.open_plans().unwrap().len(), 2);
}

#[test]
fn a_log_is_noted_with_the_next_record_and_read_by_who_only_looks() {
    let place = Place::new();
    let database = place.database();
    let state = place.open();
    let mut journal = state.journal(&database, &TABLES).unwrap();
    let said = || Visitor::reading(&place.path()).unwrap().origins().unwrap();
    assert!(said().is_empty());
    let first = Origin { file: numbered(1), log: Some(numbered(2)) };
    assert!(journal.reads_from(Some(first)));
    journal.record(&[], false).unwrap();
    assert_eq!(said(), [first]);
    assert!(!journal.reads_from(Some(Origin { log: None, ..first })), "a log that is gone is no news");
    let second = Origin { log: Some(made_later(numbered(2))), ..first };
    assert!(journal.reads_from(Some(second)));
    journal.record(&[Change::Planned(&plan(1, 1))], false).unwrap();
    assert_eq!(said(), [second]);
    let mut journal = state.journal(&database, &TABLES).unwrap();
    assert!(!journal.reads_from(Some(second)), "it is known from before");
}
