//! Loads the BPF programs, attaches them to every CPU and reads their maps.

use std::collections::BTreeMap;
use std::io;

use aya::maps::{Array, HashMap as BpfHashMap, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf};
use aya::programs::perf_event::{
    PerfEventConfig, PerfEventLinkId, PerfEventScope, SamplePolicy, SoftwareEvent,
};
use aya::programs::{PerfEvent, ProgramError, RawTracePoint};
use aya::util::{nr_cpus, online_cpus};
use aya::{Ebpf, EbpfError, EbpfLoader};
use hearth_node_agent_ebpf::limits::{MAX_COUNTS, MIN_RING_BYTES};
use hearth_node_agent_ebpf::record::{Decision, EXITS, Exit};
use thiserror::Error;

use super::counts::{Count, Counts};
use super::sample::{BadRecord, RawSample};

static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/hearth-bpf"));

/// Bytes of ring buffer per CPU and sample per second. It is read ten times a second, so that a tenth
/// of a second's samples waits: ten rounds of 640 bytes, or twenty of the mean sample, which is near 300.
const RING_BYTES_PER_SAMPLE: u32 = 640;
const MAX_RING_BYTES: u32 = 1 << 26;

/// How large the tables are whose size is not always the same.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// The ring buffer of samples, bytes; a power of two, as the kernel asks.
    pub ring_bytes: u32,
    /// Threads that are counted without a stack.
    pub counts: u32,
}

impl Sizes {
    /// For so many CPUs that tick at `rate`.
    pub fn for_rate(cpus: usize, rate: u32) -> Self {
        let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
        let ring_bytes = cpus
            .saturating_mul(rate)
            .saturating_mul(RING_BYTES_PER_SAMPLE)
            .clamp(MIN_RING_BYTES, MAX_RING_BYTES)
            .next_power_of_two();
        Self { ring_bytes, counts: MAX_COUNTS }
    }
}

/// What can go wrong between the agent and the kernel.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The programs were refused.
    #[error("cannot load the BPF programs")]
    Load(#[from] EbpfError),
    /// A program could not be loaded or attached.
    #[error("cannot attach the BPF program {name}")]
    Program {
        /// Which.
        name: &'static str,
        /// Why.
        #[source]
        source: ProgramError,
    },
    /// A map is missing or of another type: the programs and the agent differ.
    #[error("the BPF object has no usable map {name}")]
    Map {
        /// Which.
        name: &'static str,
        /// Why.
        #[source]
        source: Option<MapError>,
    },
    /// A map could not be read or written.
    #[error("cannot use a BPF map")]
    MapAccess(#[from] MapError),
    /// The list of CPUs could not be read.
    #[error("cannot read {path}")]
    Cpus {
        /// The file.
        path: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The loaded programs and their maps.
pub struct Programs {
    ebpf: Ebpf,
    sizes: Sizes,
    links: BTreeMap<u32, PerfEventLinkId>,
    /// Ticks per second and CPU; 0 while detached.
    node_rate: u32,
    samples: RingBuf<MapData>,
    config: Array<MapData, [u8; 8]>,
    decisions: BpfHashMap<MapData, u32, Decision>,
    counts: Counts,
    /// Ticks that were taken from there.
    taken: u64,
    ticks: PerCpuArray<MapData, u64>,
    exits: PerCpuArray<MapData, u64>,
    /// The exit counters of the programs that these took over from.
    exits_before: [u64; EXITS as usize],
    /// Why `on_exec` is not attached, if it is not.
    exec_unattached: Option<ProgramError>,
}

impl Programs {
    /// Loads everything; nothing is attached to a CPU before [`Self::set_rate`].
    pub fn load(sizes: Sizes) -> Result<Self, KernelError> {
        let cpus = nr_cpus().map_err(|(path, source)| KernelError::Cpus { path, source })?;
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("SAMPLES", sizes.ring_bytes)
            .map_max_entries("COUNTS", sizes.counts)
            .load(PROGRAMS)?;
        let mut programs = Self {
            sizes,
            links: BTreeMap::new(),
            node_rate: 0,
            samples: map(&mut ebpf, "SAMPLES")?,
            config: map(&mut ebpf, "CONFIG")?,
            decisions: map(&mut ebpf, "DECISIONS")?,
            counts: Counts::new(map(&mut ebpf, "COUNTS")?),
            taken: 0,
            ticks: map(&mut ebpf, "TICKS")?,
            exits: map(&mut ebpf, "EXIT_COUNTERS")?,
            exits_before: [0; EXITS as usize],
            exec_unattached: None,
            ebpf,
        };
        randomize(&mut programs.ticks, cpus)?;
        programs.tick_program()?.load().map_err(|source| KernelError::Program { name: TICK, source })?;
        programs.exec_unattached = programs.attach_exec().err();
        Ok(programs)
    }

    /// The sizes it was loaded with.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Takes over from `old`, which is detached and whose samples and counts were read: the exit
    /// counters go on from where they were. Decisions have to be told again.
    pub fn take_over(self, old: &Self) -> Result<Self, KernelError> {
        Ok(Self { exits_before: old.read_exits()?, taken: old.taken, ..self })
    }

    /// Why a process that replaces its program keeps its old decision until the
    /// side-band records say so, if that is the case.
    pub fn exec_unattached(&self) -> Option<&ProgramError> {
        self.exec_unattached.as_ref()
    }

    /// Samples every online CPU `rate` times a second from now on; 0 detaches.
    pub fn set_rate(&mut self, rate: u32) -> Result<(), KernelError> {
        if rate == self.node_rate {
            return Ok(());
        }
        for cpu in self.links.keys().copied().collect::<Vec<_>>() {
            self.detach(cpu)?;
        }
        let mut config = [0; 8];
        config[..4].copy_from_slice(&rate.to_ne_bytes());
        self.config.set(0, config, 0)?;
        self.node_rate = rate;
        self.follow_cpus(&online()?)?;
        Ok(())
    }

    /// Ticks per second and CPU at the moment; 0 while detached.
    pub fn node_rate(&self) -> u32 {
        self.node_rate
    }

    /// Attaches to CPUs that came online and lets go of those that went away; the CPUs of which either
    /// is true. Cheap when nothing changed.
    ///
    /// A CPU that goes and comes back between two calls is not noticed: its events are dead, but so they
    /// look on one that is idle, which does not always tick.
    pub fn follow_cpus(&mut self, online: &[u32]) -> Result<Vec<u32>, KernelError> {
        if self.node_rate == 0 {
            return Ok(Vec::new());
        }
        let mut changed: Vec<u32> = self.links.keys().copied().filter(|cpu| !online.contains(cpu)).collect();
        for cpu in &changed {
            self.detach(*cpu)?;
        }
        for cpu in online {
            if !self.links.contains_key(cpu) && self.attach(*cpu)? && !changed.contains(cpu) {
                changed.push(*cpu);
            }
        }
        Ok(changed)
    }

    /// CPUs that are sampled now.
    pub fn cpus(&self) -> usize {
        self.links.len()
    }

    /// Tells the kernel how a process is sampled from now on; false where its table is
    /// full, which leaves the process undecided: dearer, not wrong.
    pub fn decide(&mut self, tgid: u32, decision: Decision) -> Result<bool, KernelError> {
        match self.decisions.insert(tgid, decision, 0) {
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::E2BIG) => {
                Ok(false)
            }
            other => Ok(other.map(|()| true)?),
        }
    }

    /// Makes a process undecided again.
    pub fn forget(&mut self, tgid: u32) -> Result<(), KernelError> {
        match self.decisions.remove(&tgid) {
            Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => Ok(other?),
        }
    }

    /// Hands every waiting record of the ring buffer to `take`.
    pub fn read_samples(&mut self, mut take: impl FnMut(Result<RawSample, BadRecord>)) {
        while let Some(record) = self.samples.next() {
            take(RawSample::parse(&record));
        }
    }

    /// What was counted without a stack since the last call; and how many ticks were counted in a
    /// place just when that was given back, and are in no count.
    pub fn take_counts(&mut self) -> Result<(Vec<Count>, u64), KernelError> {
        // A tick is first counted in its place, then by its exit: what the exits know before the
        // places are read is in these, or it is nowhere.
        let exits = self.read_exits()?;
        let counts = self.counts.take()?;
        self.taken += counts.iter().flat_map(|count| &count.ticks).sum::<u64>();
        let placed = exits[Exit::Counted as usize] + exits[Exit::RingFull as usize];
        let slipped = placed.saturating_sub(self.taken);
        self.taken += slipped;
        Ok((counts, slipped))
    }

    /// Ticks of every CPU, from a random start.
    pub fn read_ticks(&self) -> Result<Vec<u64>, KernelError> {
        Ok(self.ticks.get(&0, 0)?.to_vec())
    }

    /// The counter of each way a tick can end, summed over the CPUs, in the order of [`Exit::ALL`].
    pub fn read_exits(&self) -> Result<[u64; EXITS as usize], KernelError> {
        let mut totals = self.exits_before;
        for exit in Exit::ALL {
            totals[*exit as usize] += self.exits.get(&(*exit as u32), 0)?.iter().sum::<u64>();
        }
        Ok(totals)
    }

    /// False where there is no such CPU any more.
    fn attach(&mut self, cpu: u32) -> Result<bool, KernelError> {
        let period = 1_000_000_000 / u64::from(self.node_rate);
        let link = self.tick_program()?.attach(
            PerfEventConfig::Software(SoftwareEvent::CpuClock),
            PerfEventScope::AllProcessesOneCpu { cpu },
            SamplePolicy::Period(period),
            false,
        );
        match link {
            Ok(link) => {
                self.links.insert(cpu, link);
                Ok(true)
            }
            // It went offline after the list of CPUs was read.
            Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENODEV) => {
                Ok(false)
            }
            Err(source) => Err(KernelError::Program { name: TICK, source }),
        }
    }

    fn detach(&mut self, cpu: u32) -> Result<(), KernelError> {
        if let Some(link) = self.links.remove(&cpu) {
            self.tick_program()?
                .detach(link)
                .map_err(|source| KernelError::Program { name: TICK, source })?;
        }
        Ok(())
    }

    fn tick_program(&mut self) -> Result<&mut PerfEvent, KernelError> {
        let missing = |source| KernelError::Program { name: TICK, source };
        let program = self.ebpf.program_mut(TICK).ok_or_else(|| missing(ProgramError::NotLoaded))?;
        program.try_into().map_err(missing)
    }

    fn attach_exec(&mut self) -> Result<(), ProgramError> {
        let program: &mut RawTracePoint =
            self.ebpf.program_mut(EXEC).ok_or(ProgramError::NotLoaded)?.try_into()?;
        program.load()?;
        program.attach("sched_process_exec")?;
        Ok(())
    }
}

const TICK: &str = "on_tick";
const EXEC: &str = "on_exec";

fn map<M: TryFrom<aya::maps::Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, KernelError> {
    let map = ebpf.take_map(name).ok_or(KernelError::Map { name, source: None })?;
    M::try_from(map).map_err(|source| KernelError::Map { name, source: Some(source) })
}

/// The CPUs that are online.
pub fn online() -> Result<Vec<u32>, KernelError> {
    online_cpus().map_err(|(path, source)| KernelError::Cpus { path, source })
}

/// Lets every CPU's virtual clock begin at a random tick: else thinned samples of
/// all CPUs and of all nodes would fall on the same beats.
fn randomize(ticks: &mut PerCpuArray<MapData, u64>, cpus: usize) -> Result<(), KernelError> {
    let starts = (0..cpus).map(|_| u64::from(uuid::Uuid::new_v4().as_fields().0)).collect::<Vec<_>>();
    let starts = PerCpuValues::try_from(starts)
        .map_err(|source| KernelError::Cpus { path: "the number of possible CPUs", source })?;
    Ok(ticks.set(0, starts, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_buffer_follows_the_rate_in_use() {
        let mib = |cpus, rate| Sizes::for_rate(cpus, rate).ring_bytes >> 20;
        assert_eq!([mib(2, 99), mib(64, 99), mib(64, 997), mib(1024, 1000)], [1, 4, 64, 64]);
    }
}
