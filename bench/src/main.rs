//! Benchmarks, side by side with `perf` and `bpftrace` in the same run.
//!
//! Prints one Markdown table. What is measured and how is described in
//! `docs/benchmarks.md`; each module in `rows` measures one or two of its rows.
#![forbid(unsafe_code)]

mod bpf;
mod cgroup;
mod child;
mod fixtures;
mod generate;
mod machine;
mod profiler;
mod rows;
mod sink;
mod store;
mod table;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};

use crate::table::Table;

/// Measures Hearth beside perf and bpftrace, and prints a Markdown table.
#[derive(Debug, Parser)]
#[command(
    name = "hearth-bench",
    after_help = "Examples:\n  make bench\n  hearth-bench --rounds 2 --rows kernel,agent\n  \
                  hearth-bench --write docs/benchmarks.md\n\n\
                  Needs root, gcc, perf and bpftrace, and the other binaries beside itself."
)]
struct Cli {
    /// Rounds of each measurement; the table has medians.
    #[arg(long, env = "HEARTH_BENCH_ROUNDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds that one profiler is measured in one round.
    #[arg(long, env = "HEARTH_BENCH_SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..))]
    seconds: u32,
    /// What to measure [default: everything].
    #[arg(long, env = "HEARTH_BENCH_ROWS", value_enum, value_delimiter = ',')]
    rows: Vec<Row>,
    /// Also write the table into this file, between its two marks.
    #[arg(long, value_name = "FILE", env = "HEARTH_BENCH_WRITE")]
    write: Option<PathBuf>,
    /// The engine of the embedded store; without it the store's rows are left out.
    #[arg(long, value_name = "PATH", env = "HEARTH_BENCH_LIBCHDB")]
    libchdb: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Row {
    /// Kernel time per sample.
    Kernel,
    /// CPU of the agent, steady and at its start.
    Agent,
    /// Memory of the agent.
    Memory,
    /// Bytes on the wire per row.
    Wire,
    /// What a program loses by being profiled.
    Slowdown,
    /// Bytes per row, ingest and queries of the store.
    Store,
    /// How an operator gives 5,000 agents their configuration.
    Config,
    /// CPU and memory of an agent with 250 pods on its node.
    Pods,
    /// From `helm install` to a flame graph, and what an installation costs.
    Install,
}

/// What every measurement needs.
pub(crate) struct Bench {
    /// Where our binaries are.
    pub(crate) bin: PathBuf,
    /// For everything that is written; removed at the end.
    pub(crate) dir: tempfile::TempDir,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) http: reqwest::Client,
    pub(crate) rounds: usize,
    pub(crate) seconds: u64,
    pub(crate) libchdb: Option<PathBuf>,
}

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let cli = Cli::parse();
    anyhow::ensure!(rustix::process::geteuid().is_root(), "run it as root: BPF programs are measured");
    let exe = std::env::current_exe().context("cannot tell where this program is")?;
    let bench = Bench {
        bin: exe.parent().context("this program is in no folder")?.to_owned(),
        dir: tempfile::Builder::new().prefix("hearth-bench-").tempdir()?,
        runtime: tokio::runtime::Runtime::new()?,
        http: reqwest::Client::builder().no_proxy().build()?,
        rounds: cli.rounds as usize,
        seconds: cli.seconds.into(),
        libchdb: cli.libchdb,
    };
    end_on_signals(&bench)?;
    let before = machine::Usage::now()?;
    let others = machine::busy_percent(std::time::Duration::from_secs(3))?;
    let mut table = Table::default();
    let wanted = |row| cli.rows.is_empty() || cli.rows.contains(&row);
    for (row, measure) in MEASUREMENTS {
        if wanted(*row) {
            eprintln!("== {row:?}");
            measure(&bench, &mut table).with_context(|| format!("cannot measure {row:?}"))?;
        }
    }
    let text = format!("{}\n\n{table}", machine::describe(&before, others)?);
    println!("{text}");
    match cli.write {
        Some(file) => table::write_between_marks(&file, &text),
        None => Ok(()),
    }
}

/// On Ctrl-C and SIGTERM ends every program that was started, removes what was written, and exits.
fn end_on_signals(bench: &Bench) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let _runtime = bench.runtime.enter();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let dir = bench.dir.path().to_owned();
    bench.runtime.spawn(async move {
        let code = tokio::select! {
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
        };
        let _nothing_starts_now = child::kill_all();
        hearth_e2e::cluster::take_down();
        cgroup::remove_all();
        if let Err(error) = std::fs::remove_dir_all(&dir) {
            eprintln!("cannot remove {}: {error}", dir.display());
        }
        std::process::exit(code);
    });
    Ok(())
}

type Measure = fn(&Bench, &mut Table) -> anyhow::Result<()>;

const MEASUREMENTS: &[(Row, Measure)] = &[
    (Row::Kernel, rows::kernel::measure),
    (Row::Agent, rows::agent::measure),
    (Row::Memory, rows::memory::measure),
    (Row::Wire, rows::wire::measure),
    (Row::Slowdown, rows::slowdown::measure),
    (Row::Store, rows::store::measure),
    (Row::Config, rows::config::measure),
    (Row::Pods, rows::pods::measure),
    (Row::Install, rows::install::measure),
];

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_flag_has_its_variable() {
        let command = Cli::command();
        command.clone().debug_assert();
        for argument in command.get_arguments() {
            let flag = argument.get_long().unwrap();
            let variable = format!("HEARTH_BENCH_{}", flag.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env().unwrap().to_str().unwrap(), variable, "{flag}");
        }
    }

    #[test]
    fn help_has_examples() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("Examples:"), "{help}");
    }
}
