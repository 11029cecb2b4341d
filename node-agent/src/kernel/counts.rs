//! What the kernel counts without a stack.

use std::collections::HashMap;
use std::io;

use aya::maps::{MapData, MapError, PerCpuHashMap};
use hearth_node_agent_ebpf::record::{COUNT_UNMATCHED, CountKey};

use super::sample::{CountKeyBytes, count_key, count_key_bytes};

/// The kernel's table of counts, and what was taken out of it.
pub(super) struct Counts {
    map: PerCpuHashMap<MapData, CountKeyBytes, u64>,
    /// The ticks at the last taking, as [`Count::ticks`].
    seen: HashMap<CountKey, Vec<u64>>,
}

/// Ticks of one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// Whose, and of which kind.
    pub key: CountKey,
    /// Of each CPU; of lost samples, whose policy may keep it. Else one number for all.
    pub ticks: Vec<u64>,
}

impl Counts {
    pub(super) fn new(map: PerCpuHashMap<MapData, CountKeyBytes, u64>) -> Self {
        Self { map, seen: HashMap::new() }
    }

    /// What was counted since the last taking.
    ///
    /// A thread that was not counted meanwhile gives its place back, whether it lives or not: else a
    /// service that gives its threads ever new names would fill the table.
    pub(super) fn take(&mut self) -> Result<Vec<Count>, MapError> {
        let mut now = HashMap::with_capacity(self.seen.len());
        for entry in self.map.iter() {
            match entry {
                Ok((key, ticks)) => {
                    let key = count_key(&key);
                    now.insert(key, by_cpu(key.kind, &ticks));
                }
                // Removed while the table was walked.
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        let mut taken = Vec::new();
        let mut idle = Vec::new();
        for (key, ticks) in &now {
            match self.seen.get(key) {
                Some(before) if before == ticks => idle.push(*key),
                before => taken.push(Count { key: *key, ticks: since(before, ticks) }),
            }
        }
        for key in idle {
            let before = now.remove(&key);
            let last = self.remove(&key)?;
            if last != before
                && let Some(last) = last
            {
                taken.push(Count { key, ticks: since(before.as_ref(), &last) });
            }
        }
        self.seen = now;
        Ok(taken)
    }

    /// Takes a thread out, with what it had counted at that moment: it may have begun to tick again
    /// while the table was walked.
    fn remove(&mut self, key: &CountKey) -> Result<Option<Vec<u64>>, MapError> {
        let bytes = count_key_bytes(key);
        let last = match self.map.get(&bytes, 0) {
            Ok(ticks) => by_cpu(key.kind, &ticks),
            Err(MapError::KeyNotFound) => return Ok(None),
            Err(error) => return Err(error),
        };
        match self.map.remove(&bytes) {
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        Ok(Some(last))
    }
}

fn by_cpu(kind: u16, ticks: &[u64]) -> Vec<u64> {
    if kind == COUNT_UNMATCHED { vec![ticks.iter().sum()] } else { ticks.to_vec() }
}

fn since(before: Option<&Vec<u64>>, now: &[u64]) -> Vec<u64> {
    let before = |cpu: usize| before.and_then(|before| before.get(cpu)).copied().unwrap_or(0);
    now.iter().enumerate().map(|(cpu, ticks)| ticks.saturating_sub(before(cpu))).collect()
}
