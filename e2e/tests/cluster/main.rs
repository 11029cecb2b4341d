//! On a real Kubernetes cluster: its API server, its nodes, its pods.
//!
//! Needs root, and what `scripts/setup-cluster.sh` builds. Each module is a subject. The tests share one
//! cluster of two nodes and run one after the other; each makes its own namespace.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bounds;
mod capabilities;
mod chart;
mod departures;
mod identity;
mod nodes;
mod operator;
mod outages;
mod profiles;
mod readers;
mod readme;
mod rights;
mod status;
mod trace;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use hearth_e2e::Cluster;
use hearth_e2e::cluster::Turn;
use libtest_mimic::{Arguments, Trial, run};

use trace::Trace;

/// Started by the first test that wants it.
static RUN: Mutex<Option<Run>> = Mutex::new(None);

/// A cluster, and how the machine was before it.
struct Run {
    turn: Turn,
    before: Trace,
    cluster: Cluster,
}

impl Run {
    fn start() -> Self {
        let turn = Turn::wait();
        let before = Trace::of_machine();
        let cluster = Cluster::up(&turn, 2);
        Self { turn, before, cluster }
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share nodes, and sampling is of the whole machine.
    arguments.test_threads = Some(1);
    let tests = run(
        &arguments,
        [
            // First: they bring the kinds, and take them away again.
            chart::tests(),
            readme::tests(),
            bounds::tests(),
            nodes::tests(),
            // Those have operators of their own; from here on one is installed.
            operator::tests(),
            rights::tests(),
            profiles::tests(),
            readers::tests(),
            identity::tests(),
            status::tests(),
            capabilities::tests(),
            departures::tests(),
            outages::tests(),
            rights::last_tests(),
        ]
        .into_iter()
        .flatten()
        .collect(),
    );
    let last = RUN.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(Run { turn, before, cluster }) = last else { return tests.exit_code() };
    // Whatever tests were chosen: this one is of the cluster itself.
    arguments.filter = None;
    let last = run(
        &arguments,
        vec![Trial::test("trace::a_cluster_leaves_nothing_behind", move || {
            cluster.down();
            before.assert_unchanged();
            drop(turn);
            Ok(())
        })],
    );
    if tests.has_failed() || last.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A test on the cluster. One that fails prints what the cluster says.
fn on_cluster(name: &str, test: impl FnOnce(&Cluster) + Send + 'static) -> Trial {
    Trial::test(name, move || {
        let mut run = RUN.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = &run.get_or_insert_with(Run::start).cluster;
        if let Err(failure) = catch_unwind(AssertUnwindSafe(|| test(cluster))) {
            eprintln!("{}", cluster.diagnosis());
            resume_unwind(failure);
        }
        Ok(())
    })
}
