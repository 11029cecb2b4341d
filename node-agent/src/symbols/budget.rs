//! Bounds on memory that many processes share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What all processes may take together. Its copies share one account.
#[derive(Debug, Clone)]
pub struct Budget {
    account: Arc<Account>,
}

#[derive(Debug)]
struct Account {
    used: AtomicUsize,
    refused: AtomicU64,
    total: usize,
}

impl Budget {
    /// A budget of `total`, in whatever unit its user counts.
    pub fn new(total: usize) -> Self {
        Self { account: Arc::new(Account { used: AtomicUsize::new(0), refused: AtomicU64::new(0), total }) }
    }

    /// What is taken now.
    pub fn used(&self) -> usize {
        self.account.used.load(Ordering::Relaxed)
    }

    /// How many things were left out.
    pub fn refused(&self) -> u64 {
        self.account.refused.load(Ordering::Relaxed)
    }

    /// What is left.
    pub(super) fn left(&self) -> usize {
        self.account.total.saturating_sub(self.used())
    }

    pub(super) fn total(&self) -> usize {
        self.account.total
    }

    /// Counts so many that were left out.
    pub(super) fn refuse(&self, count: u64) {
        self.account.refused.fetch_add(count, Ordering::Relaxed);
    }

    /// Takes `amount`, which may be more than is left: the caller asked before.
    pub(super) fn charge(&self, amount: usize) -> Charge {
        let mut charge = Charge { budget: self.clone(), amount: 0 };
        charge.set(amount);
        charge
    }
}

/// A part of a budget that is taken until it is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    budget: Budget,
    amount: usize,
}

impl Charge {
    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(super) fn amount(&self) -> usize {
        self.amount
    }

    pub(super) fn set(&mut self, amount: usize) {
        let used = &self.budget.account.used;
        used.fetch_add(amount, Ordering::Relaxed);
        used.fetch_sub(self.amount, Ordering::Relaxed);
        self.amount = amount;
    }
}

impl Clone for Charge {
    /// The copy takes as much again.
    fn clone(&self) -> Self {
        self.budget.charge(self.amount)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}
