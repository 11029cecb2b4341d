//! Who may use the machine: sampling and CPU time are of all of it.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static MACHINE: RwLock<()> = RwLock::new(());

/// For tests that mind no other load. Held as long as the answer lives.
pub fn together() -> RwLockReadGuard<'static, ()> {
    // A test that failed leaves nothing behind that matters to the next.
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// For tests that measure shares of the machine: nobody else runs meanwhile.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}
