//! What the process may have open.
//!
//! Promises: asks for no more than the service manager or the shell allow. Does not know: what the descriptors are for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit on descriptors to the hard one: six for each database, one for each connection. The soft one, 1,024 as a
/// rule, is so low for the sake of programs that use select(2).
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        log::warn!("the limit on open files can't be raised: {error}");
    }
}
