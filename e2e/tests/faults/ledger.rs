//! What was sent and acknowledged, and how the store differs from it.

use std::collections::BTreeMap;

use hearth_e2e::Collector;

/// What a batch brought.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) rows: u64,
    pub(crate) samples: u64,
    /// The collector said that it is stored.
    pub(crate) acknowledged: bool,
}

/// Everything that was sent to one store.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// By the `batch` column.
    pub(crate) batches: BTreeMap<u64, Sent>,
    /// Samples by agent, app and stack, of senders that know them.
    pub(crate) stacks: BTreeMap<[String; 3], u64>,
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
        for (key, samples) in other.stacks {
            *self.stacks.entry(key).or_default() += samples;
        }
    }

    /// Samples of all batches.
    pub(crate) fn samples(&self) -> u64 {
        self.batches.values().map(|sent| sent.samples).sum()
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
            compare_batch(*sent, stored)
        });
        by_batch.fold(Outcome::default(), Outcome::and).or(self.compare_stacks(collector))
    }

    fn compare_stacks(&self, collector: &Collector) -> Outcome {
        if self.stacks.is_empty() {
            return Outcome::default();
        }
        let lines = collector.sql(
            "SELECT pod_node, app_service, profile_location_str, sum(sample_count) FROM profile.in_process \
             WHERE app_service != 'Total' GROUP BY ALL",
        );
        let mut found: BTreeMap<[String; 3], u64> = lines
            .iter()
            .map(|line| {
                let columns: Vec<&str> = line.split('\t').collect();
                let [node, app, stack, samples] = columns[..] else { panic!("{line:?}") };
                ([node, app, stack].map(str::to_owned), samples.parse().unwrap())
            })
            .collect();
        let known =
            self.stacks.iter().map(|(key, samples)| (*samples, found.remove(key).unwrap_or_default()));
        let known: Vec<_> = known.collect();
        // What is left has another stack than was sent, or another app, or another node.
        let wrong = found.into_values().map(|samples| (0, samples));
        known
            .into_iter()
            .chain(wrong)
            .map(|(sent, found)| Outcome::of(sent, found))
            .fold(Outcome::default(), Outcome::and)
    }
}

fn compare_batch(sent: Sent, stored: Stored) -> Outcome {
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
fn a_batch_is_lost_doubled_or_neither() {
    let check = |acknowledged, [rows, samples, inserts]: [u64; 3], lost, doubled| {
        let sent = Sent { rows: 2, samples: 10, acknowledged };
        let outcome = compare_batch(sent, Stored { rows, samples, inserts });
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
