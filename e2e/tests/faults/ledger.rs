//! What was sent and acknowledged, and how the store differs from it.

use std::collections::{BTreeMap, BTreeSet};

use hearth_e2e::Collector;

/// Samples by agent, app and stack, as the view shows it.
pub(crate) type Stacks = BTreeMap<[String; 3], u64>;

/// What a batch brought.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sent {
    pub(crate) rows: u64,
    pub(crate) samples: u64,
    /// Without those of no app, of which there are no stacks.
    pub(crate) stacks: Stacks,
    /// The collector said that it is stored.
    pub(crate) acknowledged: bool,
}

/// Everything that was sent to one store.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// By the `batch` column.
    pub(crate) batches: BTreeMap<u64, Sent>,
}

/// Samples that are missing, and that are there too often.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
}

/// The `batch` column: xxh3-64 over the instance and the sequence.
pub(crate) fn batch_key(instance: &[u8], sequence: u64) -> u64 {
    let mut bytes = instance.to_vec();
    bytes.extend(sequence.to_le_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

impl Outcome {
    /// How much `stored` differs from what there should be.
    pub(crate) fn of(expected: u64, stored: u64) -> Self {
        Self { lost: expected.saturating_sub(stored), doubled: stored.saturating_sub(expected) }
    }

    /// Both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { lost: self.lost + other.lost, doubled: self.doubled + other.doubled }
    }

    /// The worse of two views of the same thing.
    fn or(self, other: Self) -> Self {
        Self { lost: self.lost.max(other.lost), doubled: self.doubled.max(other.doubled) }
    }
}

/// What the store has of a batch.
#[derive(Debug, Clone, Copy, Default)]
struct Stored {
    rows: u64,
    samples: u64,
    /// Rows of one INSERT carry the same moment.
    inserts: u64,
}

impl Ledger {
    /// Takes over what another knows.
    pub(crate) fn add(&mut self, other: Self) {
        self.batches.extend(other.batches);
    }

    /// Samples of all batches.
    pub(crate) fn samples(&self) -> u64 {
        self.batches.values().map(|sent| sent.samples).sum()
    }

    /// Stacks of these batches.
    pub(crate) fn stacks(&self, is_counted: impl Fn(u64, &Sent) -> bool) -> Stacks {
        let mut sums = Stacks::new();
        for (_, sent) in self.batches.iter().filter(|(batch, sent)| is_counted(**batch, sent)) {
            for (stack, samples) in &sent.stacks {
                *sums.entry(stack.clone()).or_default() += samples;
            }
        }
        sums
    }

    /// How the store differs.
    ///
    /// # Panics
    /// If it has what nobody sent.
    pub(crate) fn compare(&self, collector: &Collector) -> Outcome {
        let stored = stored_batches(collector);
        for batch in stored.keys() {
            assert!(self.batches.contains_key(batch), "batch {batch} is stored and was never sent");
        }
        let by_batch = self.batches.iter().map(|(batch, sent)| {
            let stored = stored.get(batch).copied().unwrap_or_default();
            compare_batch(sent, stored)
        });
        // What was not acknowledged may be there, and then with its stacks.
        let stacks = self.stacks(|batch, sent| sent.acknowledged || stored.contains_key(&batch));
        by_batch.fold(Outcome::default(), Outcome::and).or(compare_sums(&stacks, &stored_stacks(collector)))
    }
}

/// How what was found under each key differs from what there should be. What nobody sent has another stack
/// than was sent, or another app, or another node.
pub(crate) fn compare_sums<K: Ord>(expected: &BTreeMap<K, u64>, found: &BTreeMap<K, u64>) -> Outcome {
    let samples = |sums: &BTreeMap<K, u64>, key: &K| sums.get(key).copied().unwrap_or_default();
    let keys: BTreeSet<&K> = expected.keys().chain(found.keys()).collect();
    let each = keys.into_iter().map(|key| Outcome::of(samples(expected, key), samples(found, key)));
    each.fold(Outcome::default(), Outcome::and)
}

fn stored_stacks(collector: &Collector) -> Stacks {
    let lines = collector.sql(
        "SELECT pod_node, app_service, profile_location_str, sum(sample_count) FROM profile.in_process \
         WHERE app_service != 'Total' GROUP BY ALL FORMAT TSVRaw",
    );
    let parse = |line: &String| {
        let columns: Vec<&str> = line.split('\t').collect();
        let [node, app, stack, samples] = columns[..] else { panic!("{line:?}") };
        ([node, app, stack].map(str::to_owned), samples.parse().unwrap())
    };
    lines.iter().map(parse).collect()
}

fn compare_batch(sent: &Sent, stored: Stored) -> Outcome {
    // What was not acknowledged may be there or not, but as a whole: it is never looked at again.
    if !sent.acknowledged && stored.rows == 0 {
        return Outcome::default();
    }
    let mut outcome = Outcome::of(sent.samples, stored.samples);
    if stored.rows > sent.rows || stored.inserts > 1 {
        outcome.doubled = outcome.doubled.max(1);
    }
    if stored.rows < sent.rows {
        outcome.lost = outcome.lost.max(1);
    }
    outcome
}

fn stored_batches(collector: &Collector) -> BTreeMap<u64, Stored> {
    let lines = collector.sql(
        "SELECT batch, count(), sum(sample_count), uniqExact(profile_in_timestamp) \
         FROM profile.in_process_local GROUP BY batch",
    );
    let parse = |line: &String| {
        let numbers: Vec<u64> = line.split('\t').map(|number| number.parse().unwrap()).collect();
        let [batch, rows, samples, inserts] = numbers[..] else { panic!("{line:?}") };
        (batch, Stored { rows, samples, inserts })
    };
    lines.iter().map(parse).collect()
}

#[test]
fn what_stands_under_another_key_is_lost_and_doubled() {
    let check = |found: &[(&str, u64)], lost, doubled| {
        let sent = BTreeMap::from([("a", 3), ("b", 5)]);
        let outcome = compare_sums(&sent, &found.iter().copied().collect());
        assert_eq!(outcome, Outcome { lost, doubled }, "{found:?}");
    };
    check(&[("a", 3), ("b", 5)], 0, 0);
    check(&[("a", 3), ("c", 5)], 5, 5);
    check(&[("a", 4), ("b", 4)], 1, 1);
    check(&[], 8, 0);
}

#[test]
fn a_batch_is_lost_doubled_or_neither() {
    let check = |acknowledged, [rows, samples, inserts]: [u64; 3], lost, doubled| {
        let sent = Sent { rows: 2, samples: 10, acknowledged, ..Sent::default() };
        let outcome = compare_batch(&sent, Stored { rows, samples, inserts });
        assert_eq!(outcome, Outcome { lost, doubled }, "{rows} rows, {samples} samples, {inserts} inserts");
    };
    check(true, [2, 10, 1], 0, 0);
    check(true, [0, 0, 0], 10, 0);
    check(true, [1, 4, 1], 6, 0);
    check(true, [4, 20, 2], 0, 10);
    check(true, [2, 10, 2], 0, 1);
    check(false, [0, 0, 0], 0, 0);
    check(false, [2, 10, 1], 0, 0);
    check(false, [1, 4, 1], 6, 0);
    check(false, [4, 20, 1], 0, 10);
}
