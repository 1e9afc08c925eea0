//! What the process may have open.
//!
//! Promises: asks for no more than the service manager or the shell allow. Does not know: what the descriptors are for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The file, twice, its -wal, twice too, and the -shm, while it is worked with; its directory, or -journal, for a moment.
const FILES_PER_DATABASE: u64 = 6;
/// The state file, connections to brokers, clients of [http], and whatever else there is one of.
const FILES_BESIDE: u64 = 64;

/// Raises the soft limit on descriptors to the hard one, and says when that may not be enough. The soft one, 1,024 as a rule, is so low
/// for the sake of programs that use select(2).
pub fn raise_open_files(databases: usize) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
    {
        log::warn!("the limit on open files can't be raised: {error}");
    }
    let wanted = databases as u64 * FILES_PER_DATABASE + FILES_BESIDE;
    if let Some(limit) = getrlimit(Resource::Nofile).current.filter(|limit| *limit < wanted) {
        log::warn!(
            "this process may open {limit} files, and {databases} databases may need {wanted} (hint: LimitNOFILE={wanted} in the unit \
             (systemctl edit outboxd), or: ulimit -Hn {wanted})"
        );
    }
}
