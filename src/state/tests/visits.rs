//! Operators' commands beside a daemon and without one.

use super::*;
use crate::model::Action;

#[test]
fn a_visit_is_no_run() {
    let place = Place::new();
    let database = place.database();
    let changes = [Change::Planned(&plan(1, 1)), Change::Quarantined(&quarantined(0, 1, Fault::Rejected))];
    place.open().journal(&database, &TABLES).unwrap().record(&changes, true).unwrap();
    Connection::open(place.path()).unwrap().execute("UPDATE meta SET boot_id = 'before'", []).unwrap();
    let mut visitor = Visitor::working(&place.path()).unwrap();
    assert!(visitor.is_alone());
    let error = place.refused();
    assert!(matches!(error, StateError::Locked { .. }), "no daemon starts meanwhile: {error}");
    let entries = visitor.quarantine().unwrap();
    assert_eq!((visitor.open_plans().unwrap().len(), entries.len()), (1, 1));
    visitor.release(&entries.iter().collect::<Vec<_>>()).unwrap();
    assert_eq!(visitor.quarantine().unwrap(), []);
    drop(visitor);
    let file = place.open();
    assert!(!file.same_boot(), "it would hide that notes may be missing");
    assert_eq!(file.journal(&database, &TABLES).unwrap().first_plan(), PlanId(2));
}

#[test]
fn a_copy_does_not_speak_for_the_file() {
    let place = Place::new();
    let id = place.open().id();
    assert_eq!(Visitor::working(&place.path()).unwrap().id().unwrap(), Some(id));
    let copy = place.folder.path().join("copy");
    std::fs::copy(place.path(), &copy).unwrap();
    assert_eq!(Visitor::working(&copy).unwrap().id().unwrap(), None);
    assert!(matches!(Visitor::reading(&place.folder.path().join("none")), Err(StateError::NotThere { .. })));
}

#[test]
fn a_file_of_the_first_version_is_moved_forward_by_who_works_with_it() {
    let place = Place::new();
    let connection = Connection::open(place.path()).unwrap();
    connection.execute_batch(left::VERSION_1).unwrap();
    drop(connection);
    assert_eq!(Visitor::reading(&place.path()).unwrap().quarantine().unwrap(), []);
    let visitor = Visitor::working(&place.path()).unwrap();
    assert_eq!((visitor.quarantine().unwrap(), visitor.id().unwrap()), (Vec::new(), None));
}

#[test]
fn beside_a_daemon_one_asks() {
    let place = Place::new();
    let file = place.open();
    let mut journal = file.journal(&place.database(), &TABLES).unwrap();
    journal.record(&[Change::Quarantined(&quarantined(1, 5, Fault::Rejected))], false).unwrap();
    let visitor = Visitor::working(&place.path()).unwrap();
    assert_eq!((visitor.is_alone(), visitor.daemon()), (false, Some(std::process::id())));
    let entry = &visitor.quarantine().unwrap()[0];
    assert_eq!(
        (entry.table.as_str(), entry.rowid, entry.print),
        (TABLES[1], 5, quarantined(1, 5, Fault::Rejected).print)
    );
    let request = visitor.ask(Action::Discard, entry, Some(5)).unwrap();
    assert_eq!(visitor.answer(request).unwrap(), Answer::Waiting);
    let heard = journal.requests().unwrap();
    assert_eq!((heard.len(), heard[0].id, heard[0].outbox), (1, request, OutboxIx(1)));
    journal.record(&[Change::Answered { request, failed: true, text: "no" }], false).unwrap();
    let answer = Answer::Given { failed: true, text: "no".into() };
    assert_eq!(visitor.answer(request).unwrap(), answer);
    visitor.withdraw(request).unwrap();
    assert_eq!(visitor.answer(request).unwrap(), answer, "too late");
    let second = visitor.ask(Action::Retry, entry, None).unwrap();
    visitor.withdraw(second).unwrap();
    assert_eq!(visitor.answer(second).unwrap(), Answer::Gone);
    assert_eq!(journal.requests().unwrap(), []);
    assert!(!visitor.daemon_has_ended());
    drop((journal, file));
    assert!(visitor.daemon_has_ended());
    place.open();
}
