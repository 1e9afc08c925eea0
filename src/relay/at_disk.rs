//! What may wait for a disk for as long as the disk likes, and that the relay does so now.
//!
//! Promises: nothing that reads or writes can be asked without the figures saying so meanwhile. Does not know: what is asked.

use crate::telemetry::figures::Figures;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// The source or the journal. What it knows already can be asked as it is; whatever needs `&mut` is asked through
/// [`Disk::at_disk`].
#[derive(Debug)]
pub(super) struct Disk<T> {
    inner: T,
    figures: Arc<Figures>,
}

impl<T> Disk<T> {
    pub(super) fn new(inner: T, figures: &Arc<Figures>) -> Self {
        Disk { inner, figures: Arc::clone(figures) }
    }

    pub(super) fn at_disk(&mut self) -> AtDisk<'_, T> {
        let outer = self.figures.at_disk.swap(true, Relaxed);
        AtDisk { disk: self, outer }
    }
}

impl<T> Deref for Disk<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

/// Asked at this moment.
pub(super) struct AtDisk<'a, T> {
    disk: &'a mut Disk<T>,
    /// Inside of another question: the state file is told of a delete within the delete.
    outer: bool,
}

impl<T> Deref for AtDisk<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.disk.inner
    }
}

impl<T> DerefMut for AtDisk<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.disk.inner
    }
}

impl<T> Drop for AtDisk<'_, T> {
    fn drop(&mut self) {
        self.disk.figures.at_disk.store(self.outer, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_until_the_outermost_question_is_answered() {
        let figures = Arc::new(Figures::new("/db".into(), vec!["users".into()]));
        let (mut source, mut journal) = (Disk::new(1, &figures), Disk::new(2, &figures));
        let said = || figures.at_disk.load(Relaxed);
        {
            let asked = source.at_disk();
            assert!(said());
            assert_eq!(*journal.at_disk(), 2);
            assert!(said(), "the delete goes on");
            assert_eq!(*asked, 1);
        }
        assert!(!said());
        assert_eq!(*source, 1);
        assert!(!said(), "what is known already needs no disk");
    }
}
