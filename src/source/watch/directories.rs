//! The inotify of all watched databases: the directories in it, each as long as a database lies there, and what its limits are.
//!
//! Promises: one watch for a directory however many databases lie in it. Does not know: names in a directory.

use crate::model::Why;
use crate::source::failure;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;

/// See the module's words.
#[derive(Debug)]
pub(super) struct Directories {
    pub inotify: OwnedFd,
    /// How many databases lie in the directory of each watch.
    databases: HashMap<i32, usize>,
}

impl Directories {
    pub fn new() -> Result<Directories, Why> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|errno| no_instance(errno, &setting))?;
        Ok(Directories { inotify, databases: HashMap::new() })
    }

    pub fn add(&mut self, directory: &Path) -> Result<i32, Errno> {
        let flags = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::CLOSE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let watch = inotify::add_watch(&self.inotify, directory, flags)?;
        *self.databases.entry(watch).or_default() += 1;
        Ok(watch)
    }

    /// One database fewer lies there.
    pub fn remove(&mut self, watch: i32) {
        let Some(count) = self.databases.get_mut(&watch) else { return };
        *count -= 1;
        if *count == 0 {
            self.lost(watch);
        }
    }

    /// The path that led there does so no longer. One that was moved would go on telling of itself.
    pub fn lost(&mut self, watch: i32) {
        if self.databases.remove(&watch).is_some() {
            let _ = inotify::remove_watch(&self.inotify, watch);
        }
    }
}

/// Why a directory can't be watched.
pub(super) fn no_watch(errno: Errno) -> Why {
    match errno {
        Errno::NOSPC => {}
        Errno::ACCESS => return Why::new(errno.to_string()).hint("let outboxd's user or group read it: chmod ug+r"),
        _ => return Why::new(errno.to_string()),
    }
    taken("fs.inotify.max_user_watches", "watches", &setting)
}

fn no_instance(errno: Errno, setting: &dyn Fn(&str) -> Option<u64>) -> Why {
    if let Some(errno) = failure::out_of_descriptors() {
        return Why::new(errno.to_string()).hint(failure::MORE_DESCRIPTORS);
    }
    if errno != Errno::MFILE {
        return Why::new(errno.to_string());
    }
    taken("fs.inotify.max_user_instances", "instances", setting)
}

/// All that this user may have are in use.
fn taken(name: &str, what: &str, setting: &dyn Fn(&str) -> Option<u64>) -> Why {
    let Some(limit) = setting(name) else {
        return Why::new(format!("{name}, the limit on inotify {what}, is reached"));
    };
    Why::new(format!("this user's processes have all {limit} inotify {what} that {name} lets them"))
        .hint(format!("raise it: sysctl -w {name}={}, and for good in /etc/sysctl.d", limit.saturating_mul(2).max(128)))
}

fn setting(name: &str) -> Option<u64> {
    std::fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_reached_is_named_with_its_value_and_what_to_type() {
        let why = no_instance(Errno::MFILE, &|name| (name == "fs.inotify.max_user_instances").then_some(128));
        assert_eq!(
            why.to_string(),
            "this user's processes have all 128 inotify instances that fs.inotify.max_user_instances lets them (hint: raise it: \
             sysctl -w fs.inotify.max_user_instances=256, and for good in /etc/sysctl.d)"
        );
        assert!(setting("fs.inotify.max_user_watches").is_some_and(|limit| limit > 0));
        assert!(no_watch(Errno::NOSPC).hint.contains("sysctl -w fs.inotify.max_user_watches="));
        assert!(no_watch(Errno::ACCESS).hint.contains("chmod ug+r"));
        assert_eq!(no_watch(Errno::NOENT).to_string(), Errno::NOENT.to_string());
    }

    #[test]
    fn a_directory_is_watched_as_long_as_a_database_lies_there() {
        let place = tempfile::tempdir().unwrap();
        let mut directories = Directories::new().unwrap();
        let watch = directories.add(place.path()).unwrap();
        assert_eq!(directories.add(place.path()).unwrap(), watch);
        let watched = |directories: &Directories| {
            use std::os::fd::AsRawFd;
            let info = format!("/proc/self/fdinfo/{}", directories.inotify.as_raw_fd());
            std::fs::read_to_string(info).unwrap().matches("inotify wd:").count()
        };
        directories.remove(watch);
        assert_eq!(watched(&directories), 1);
        directories.remove(watch);
        assert_eq!(watched(&directories), 0);
        // Lost for all of them at once; that another one leaves it later changes nothing.
        let watch = directories.add(place.path()).unwrap();
        directories.add(place.path()).unwrap();
        directories.lost(watch);
        assert_eq!(watched(&directories), 0);
        let next = directories.add(place.path()).unwrap();
        directories.remove(watch);
        assert!(next != watch && watched(&directories) == 1);
    }
}
