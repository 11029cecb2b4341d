//! Loads the BPF programs, attaches them to every CPU and reads their maps.

use std::collections::{BTreeMap, HashMap};
use std::io;

use aya::maps::{
    Array, HashMap as BpfHashMap, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues, RingBuf,
};
use aya::programs::perf_event::{
    PerfEventConfig, PerfEventLinkId, PerfEventScope, SamplePolicy, SoftwareEvent,
};
use aya::programs::{PerfEvent, ProgramError, RawTracePoint};
use aya::util::{nr_cpus, online_cpus};
use aya::{Ebpf, EbpfError, EbpfLoader};
use hearth_node_agent_ebpf::limits::MIN_RING_BYTES;
use hearth_node_agent_ebpf::record::{CountKey, Decision, EXITS, Exit};
use thiserror::Error;

use super::sample::{BadRecord, CountKeyBytes, RawSample, count_key};

static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/hearth-bpf"));

/// Bytes of ring buffer per CPU and sample per second: at 100 ms between reads a
/// tenth of the samples waits, so 64 leaves room for records of 640 bytes, the
/// mean being near 300, and for a pause of several reads at usual depths.
const RING_BYTES_PER_SAMPLE: u32 = 640;
const MAX_RING_BYTES: u32 = 1 << 26;

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
    links: BTreeMap<u32, PerfEventLinkId>,
    /// Ticks per second and CPU; 0 while detached.
    node_rate: u32,
    samples: RingBuf<MapData>,
    config: Array<MapData, [u8; 8]>,
    decisions: BpfHashMap<MapData, u32, Decision>,
    counts: PerCpuHashMap<MapData, CountKeyBytes, u64>,
    exits: PerCpuArray<MapData, u64>,
    /// Why `on_exec` is not attached, if it is not.
    exec_unattached: Option<ProgramError>,
}

impl Programs {
    /// Loads everything; nothing is attached to a CPU before [`Self::set_rate`].
    ///
    /// `max_rate` is the highest node rate that will be asked for, in samples per
    /// second and CPU; the ring buffer's size follows from it.
    pub fn load(max_rate: u32) -> Result<Self, KernelError> {
        let cpus = nr_cpus().map_err(|(path, source)| KernelError::Cpus { path, source })?;
        let mut ebpf =
            EbpfLoader::new().map_max_entries("SAMPLES", ring_bytes(cpus, max_rate)).load(PROGRAMS)?;
        let ticks: PerCpuArray<_, u64> = map(&mut ebpf, "TICKS")?;
        let mut programs = Self {
            links: BTreeMap::new(),
            node_rate: 0,
            samples: map(&mut ebpf, "SAMPLES")?,
            config: map(&mut ebpf, "CONFIG")?,
            decisions: map(&mut ebpf, "DECISIONS")?,
            counts: map(&mut ebpf, "COUNTS")?,
            exits: map(&mut ebpf, "EXIT_COUNTERS")?,
            exec_unattached: None,
            ebpf,
        };
        programs.tick_program()?.load().map_err(|source| KernelError::Program { name: TICK, source })?;
        programs.exec_unattached = programs.attach_exec().err();
        // Not before: the programs are loaded with the maps' descriptors, and this one is closed here.
        randomize(ticks, cpus)?;
        Ok(programs)
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
        self.follow_cpus()
    }

    /// Ticks per second and CPU at the moment; 0 while detached.
    pub fn node_rate(&self) -> u32 {
        self.node_rate
    }

    /// Attaches to CPUs that came online and lets go of those that went away, so
    /// that one which comes back is attached anew. Cheap when nothing changed.
    pub fn follow_cpus(&mut self) -> Result<(), KernelError> {
        if self.node_rate == 0 {
            return Ok(());
        }
        let online = online_cpus().map_err(|(path, source)| KernelError::Cpus { path, source })?;
        for cpu in self.links.keys().copied().filter(|cpu| !online.contains(cpu)).collect::<Vec<_>>() {
            self.detach(cpu)?;
        }
        for cpu in online {
            if !self.links.contains_key(&cpu) {
                self.attach(cpu)?;
            }
        }
        Ok(())
    }

    /// CPUs that are sampled now.
    pub fn cpus(&self) -> usize {
        self.links.len()
    }

    /// Tells the kernel how a process is sampled from now on.
    pub fn decide(&mut self, tgid: u32, decision: Decision) -> Result<(), KernelError> {
        match self.decisions.insert(tgid, decision, 0) {
            // A full table leaves the process undecided: dearer, not wrong.
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::E2BIG) => {
                Ok(())
            }
            other => Ok(other?),
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

    /// The counts so far, summed over the CPUs. They only grow.
    pub fn read_counts(&self, into: &mut HashMap<CountKey, u64>) -> Result<(), KernelError> {
        for entry in self.counts.iter() {
            let (key, ticks) = match entry {
                Ok(entry) => entry,
                // Removed while the table was walked.
                Err(MapError::KeyNotFound) => continue,
                Err(error) => return Err(error.into()),
            };
            into.insert(count_key(&key), ticks.iter().sum());
        }
        Ok(())
    }

    /// Takes a count out of the table, for a thread that is no more.
    pub fn remove_count(&mut self, key: &CountKey) -> Result<(), KernelError> {
        let mut bytes: CountKeyBytes = [0; size_of::<CountKey>()];
        bytes[..4].copy_from_slice(&key.tgid.to_ne_bytes());
        bytes[4..6].copy_from_slice(&key.kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&key.main_thread.to_ne_bytes());
        bytes[8..].copy_from_slice(&key.comm);
        match self.counts.remove(&bytes) {
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => Ok(other?),
        }
    }

    /// The counter of each way a tick can end, summed over the CPUs, in the order of [`Exit::ALL`].
    pub fn read_exits(&self) -> Result<[u64; EXITS as usize], KernelError> {
        let mut totals = [0; EXITS as usize];
        for exit in Exit::ALL {
            totals[*exit as usize] = self.exits.get(&(*exit as u32), 0)?.iter().sum();
        }
        Ok(totals)
    }

    fn attach(&mut self, cpu: u32) -> Result<(), KernelError> {
        let period = 1_000_000_000 / u64::from(self.node_rate);
        let link = self
            .tick_program()?
            .attach(
                PerfEventConfig::Software(SoftwareEvent::CpuClock),
                PerfEventScope::AllProcessesOneCpu { cpu },
                SamplePolicy::Period(period),
                false,
            )
            .map_err(|source| KernelError::Program { name: TICK, source })?;
        self.links.insert(cpu, link);
        Ok(())
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

/// The size of the ring buffer: a power of two, as the kernel asks.
fn ring_bytes(cpus: usize, max_rate: u32) -> u32 {
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    cpus.saturating_mul(max_rate)
        .saturating_mul(RING_BYTES_PER_SAMPLE)
        .clamp(MIN_RING_BYTES, MAX_RING_BYTES)
        .next_power_of_two()
}

/// Lets every CPU's virtual clock begin at a random tick: else thinned samples of
/// all CPUs and of all nodes would fall on the same beats.
fn randomize(mut ticks: PerCpuArray<MapData, u64>, cpus: usize) -> Result<(), KernelError> {
    let starts = (0..cpus).map(|_| u64::from(uuid::Uuid::new_v4().as_fields().0)).collect::<Vec<_>>();
    let starts = PerCpuValues::try_from(starts)
        .map_err(|source| KernelError::Cpus { path: "the number of possible CPUs", source })?;
    Ok(ticks.set(0, starts, 0)?)
}
