//! One at a time, and who waits may stop waiting: a mutex with a patience.
//!
//! Promises: a turn ends with its value, also in a panic. Does not know: what is taken in turns.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug)]
pub struct Turns<T> {
    taken: Mutex<bool>,
    free: Condvar,
    /// Only ever locked by whoever has the turn.
    value: Mutex<T>,
}

/// The value is ours until this goes.
#[derive(Debug)]
pub struct Turn<'a, T> {
    // The order matters: the value is let go of before the turn is passed on.
    value: MutexGuard<'a, T>,
    _end: End<'a>,
}

#[derive(Debug)]
struct End<'a> {
    taken: &'a Mutex<bool>,
    free: &'a Condvar,
}

impl<T> Turns<T> {
    pub fn new(value: T) -> Self {
        Turns { taken: Mutex::new(false), free: Condvar::new(), value: Mutex::new(value) }
    }

    pub fn turn(&self) -> Turn<'_, T> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = self.free.wait_while(taken, |taken| *taken).unwrap_or_else(PoisonError::into_inner);
        self.begin(taken)
    }

    /// `None`: somebody else has it for longer.
    pub fn turn_within(&self, patience: Duration) -> Option<Turn<'_, T>> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.free.wait_timeout_while(taken, patience, |taken| *taken);
        let (taken, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (!*taken).then(|| self.begin(taken))
    }

    fn begin(&self, mut taken: MutexGuard<'_, bool>) -> Turn<'_, T> {
        *taken = true;
        let end = End { taken: &self.taken, free: &self.free };
        drop(taken);
        // A panic inside rolled its transaction back: what it guards is whole.
        Turn { value: self.value.lock().unwrap_or_else(PoisonError::into_inner), _end: end }
    }
}

impl<T> Deref for Turn<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Turn<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.free.notify_one();
    }
}
