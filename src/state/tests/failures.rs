//! Disks that fill up, rights that are lost, pages that go wrong while the file is open.

use super::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::os::unix::fs::PermissionsExt;

const FULL: &str = "OUTBOXD_TEST_STATE_FULL";
const RIGHTS: &str = "OUTBOXD_TEST_STATE_RIGHTS";

/// In a process of its own: no file may grow beyond a limit, then it may again.
fn full(path: &Path, mode: &str) {
    let file = StateFile::open(path, RUN).unwrap();
    file.shared().connection.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |_| Ok(())).unwrap();
    let mut journal = file.journal(Path::new("/nowhere/db"), &TABLES).unwrap();
    journal.record(&[Change::Planned(&plan(1, 10))], true).unwrap();
    let before = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: Some(200_000), maximum: before.maximum }).unwrap();
    for sync in [false, true] {
        let error = journal.record(&[Change::Planned(&plan(2, 20_000))], sync).unwrap_err();
        assert!(error.text.contains("full"), "{error}");
    }
    assert_eq!(file.open_plans().unwrap().len(), 1, "nothing of it is there, and it can be read");
    setrlimit(Resource::Fsize, before).unwrap();
    journal.record(&[Change::Planned(&plan(2, 20_000))], true).unwrap();
    drop((journal, file));
    assert_eq!(StateFile::open(path, RUN).unwrap().open_plans().unwrap().len(), 2);
    println!("healed");
}

#[test]
fn a_full_disk_is_an_error_that_heals() {
    if let Ok(path) = std::env::var(FULL) {
        let (path, mode) = path.split_once('|').unwrap();
        return full(Path::new(path), mode);
    }
    for mode in ["WAL", "DELETE"] {
        let place = Place::new();
        let variable = format!("{}|{mode}", place.path().display());
        let test = "state::tests::failures::a_full_disk_is_an_error_that_heals";
        let output = rerun(test, "trap '' XFSZ;", &[(FULL, &variable)]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("healed"), "{mode}: {output:?}");
    }
}

/// In a process without root's privileges, in a folder of its own.
fn rights(path: &Path) {
    let folder = path.parent().unwrap();
    let allow = |mode| std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).unwrap();
    let file = StateFile::open(path, RUN).unwrap();
    let mut journal = file.journal(Path::new("/nowhere/db"), &TABLES).unwrap();
    allow(0o555);
    journal.record(&[Change::Planned(&plan(1, 1))], true).unwrap();
    allow(0o755);
    // Where the file system can't do WAL, a journal is made for each transaction.
    file.shared().connection.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).unwrap();
    allow(0o555);
    let error = journal.record(&[Change::Planned(&plan(2, 1))], true).unwrap_err();
    assert!(error.text.contains("write access"), "{error}");
    allow(0o755);
    journal.record(&[Change::Planned(&plan(2, 1))], true).unwrap();
    assert_eq!(file.open_plans().unwrap().len(), 2);
    println!("healed");
}

#[test]
fn lost_rights_are_an_error_that_heals() {
    if let Ok(path) = std::env::var(RIGHTS) {
        return rights(Path::new(&path));
    }
    let place = Place::new();
    let folder = place.folder.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    let binary = place.folder.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    let mut command = std::process::Command::new(&binary);
    if rustix::process::geteuid().is_root() {
        for path in [place.folder.path(), &folder] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
        }
        std::os::unix::fs::chown(&folder, Some(65534), Some(65534)).unwrap();
        command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary);
    }
    let output = command
        .args(["--exact", "state::tests::failures::lost_rights_are_an_error_that_heals", "--nocapture"])
        .env(RIGHTS, folder.join("state.db"))
        .current_dir(&folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("healed"), "{output:?}");
}

#[test]
fn damage_met_while_running_is_an_error_and_the_next_start_begins_anew() {
    let place = Place::new();
    let file = place.open();
    let mut journal = file.journal(&place.database(), &TABLES).unwrap();
    let plans: Vec<_> = (1..=40).map(|id| plan(id, 200)).collect();
    let changes: Vec<_> = plans.iter().map(|plan| Change::Planned(plan)).collect();
    journal.record(&changes, true).unwrap();
    let shared = file.shared();
    shared.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    shared.connection.execute_batch("PRAGMA shrink_memory").unwrap();
    drop(shared);
    let size = std::fs::metadata(place.path()).unwrap().len() as usize;
    {
        use std::os::unix::fs::FileExt;
        let on_disk = std::fs::OpenOptions::new().write(true).open(place.path()).unwrap();
        on_disk.write_all_at(&vec![0xa5; size - 4096], 4096).unwrap();
        // Closing it would take SQLite's locks away, as nobody outside this process could.
        std::mem::forget(on_disk);
    }
    for _ in 0..2 {
        let error = journal.record(&[Change::Settled { plan: PlanId(3) }], false).unwrap_err();
        assert!(error.text.contains("restart outboxd"), "{error}");
    }
    drop((journal, file));
    let file = place.open();
    assert_eq!(file.open_plans().unwrap(), []);
    assert!(place.names().iter().any(|name| name.starts_with("state.db.corrupt-")), "{:?}", place.names());
}
