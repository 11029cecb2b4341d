//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::connect::Connection;
use crate::error::Failure;
pub use crate::output::Format;
use crate::target::Target;
use crate::time::{Moment, Range, Span};

/// Flame graphs of what runs in a cluster, with the rights that you have in it.
///
/// Questions go to the API server as kubectl's do, with the credentials of your kubeconfig, and from there to
/// Hearth's collector. You see the pods of the namespaces in which you may get profiles.query.hearth.dev.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "kubectl-hearth",
    bin_name = "kubectl hearth",
    version,
    after_help = "TARGET is pod/x, deploy/x, sts/x, ds/x, rs/x, job/x, cj/x, app/NAME (what policies call a process), \
        node/x, or total; a name alone is a pod's.\n\n\
        Examples:\n  \
        # what a pod is busy with, in this terminal\n  \
        kubectl hearth flame pod/web-7d9f6-abcde\n\n  \
        # of all pods of a Deployment, the functions that take the most CPU time\n  \
        kubectl hearth top deploy/web -n shop --since 1h\n\n  \
        # what the last rollout changed\n  \
        kubectl hearth diff deploy/web\n\n  \
        # without Kubernetes\n  \
        kubectl-hearth flame app/redis-server --server http://127.0.0.1:20416\n\n\
        Exit codes: 0 done, 1 failure (nothing to show is one), 2 bad usage."
)]
pub struct Cli {
    /// Whom to ask.
    #[command(flatten)]
    pub connection: Connection,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// A flame graph: in this terminal, or as a file
    #[command(after_help = "Examples:\n  \
        kubectl hearth flame deploy/web                          # walk through it: arrows, Enter zooms, / searches, q ends\n  \
        kubectl hearth flame web-0 -f web.svg                    # the name of the file says the format\n  \
        kubectl hearth flame app/java -A --since 6h -o html > java.html\n  \
        kubectl hearth flame pod/db-0 -o pprof -f db.pb.gz && go tool pprof -top db.pb.gz\n  \
        kubectl hearth flame node/n1 --app nginx | inferno-flamegraph > nginx.svg\n\n\
        In a pipe the format is folded: a line for each stack, its frames from the root on joined by ';', and \
        microseconds.")]
    Flame(FlameArgs),
    /// The functions that take the most CPU time
    #[command(after_help = "Examples:\n  \
        kubectl hearth top pod/web-0\n  \
        kubectl hearth top deploy/web --by total --lines 50\n  \
        kubectl hearth top total                                 # every process of the cluster\n\n\
        SELF is the time in a function itself, TOTAL with what it called; both with their share.")]
    Top(TopArgs),
    /// Two profiles compared
    #[command(after_help = "Examples:\n  \
        kubectl hearth diff deploy/web                           # its newest ReplicaSet with the one before\n  \
        kubectl hearth diff pod/web-1 pod/web-2                  # the first with the second as base\n  \
        kubectl hearth diff app/redis --since 15m --before 1d    # with the same quarter of an hour of yesterday\n  \
        kubectl hearth diff app/redis --base-from -75m --base-until -60m -f diff.html\n\n\
        Shares are compared, whatever the load was; --absolute compares times.")]
    Diff(DiffArgs),
    /// What was profiled, by app
    #[command(after_help = "Examples:\n  \
        kubectl hearth apps                                      # of the context's namespace\n  \
        kubectl hearth apps -A --since 1d")]
    Apps(AppsArgs),
    /// Which policy decides for the processes of a pod, and why
    #[command(after_help = "Examples:\n  \
        kubectl hearth explain pod/web-0\n  \
        kubectl hearth explain web-0 --process nginx --cmdline 'nginx: worker process'\n\n\
        The names of processes are those that were seen in the range, or those of --process. The decision is the \
        one that agents make, by the policies that you may read.")]
    Explain(ExplainArgs),
    /// How Hearth itself is: agents, policies, losses, certificates
    #[command(after_help = "Examples:\n  \
        kubectl hearth status\n  \
        kubectl hearth status --hearth-namespace profiling\n\n\
        Exits with 1 where something is wrong.")]
    Status,
    /// Profile for a while what no policy profiles, or more often
    #[command(after_help = "Examples:\n  \
        kubectl hearth record pod/web-0 --for 30s --frequency 499\n  \
        kubectl hearth record deploy/web --for 2m -f web.svg\n\n\
        Makes a ProfilingPolicy (which you must be allowed to), waits until the node works by it, samples, shows the \
        flame graph of that time and deletes the policy, also when it is interrupted. A policy selects pods by \
        labels: other pods with the same labels are sampled meanwhile as well.")]
    Record(RecordArgs),
    /// A page in your browser, by a port on this machine alone
    #[command(after_help = "Examples:\n  \
        kubectl hearth open\n  \
        kubectl hearth open -A --port 8080\n\n\
        Prints the address, which holds a secret: whoever has it sees what you may see, until Ctrl-C.")]
    Open(OpenArgs),
    /// Completion of this command line by your shell
    #[command(after_help = "Examples:\n  \
        kubectl hearth completion bash > /etc/bash_completion.d/kubectl-hearth   # for kubectl-hearth\n  \
        kubectl hearth completion bash --install-dir ~/.local/bin                # for kubectl hearth\n\n\
        kubectl 1.26 and newer completes a plugin by a program kubectl_complete-hearth on the PATH; --install-dir \
        writes it there.")]
    Completion(CompletionArgs),
    /// What kubectl_complete-hearth asks
    #[command(name = "__complete", hide = true)]
    Complete {
        /// The words so far.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

/// A range of time.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Range")]
pub struct RangeArgs {
    /// So long until now, or until --until [default: 15m]
    #[arg(long, value_name = "TIME", conflicts_with = "from")]
    pub since: Option<Span>,
    /// The start: 2026-02-21T05:37:00Z, Unix seconds, or -15m
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub from: Option<Moment>,
    /// The end, likewise [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub until: Option<Moment>,
}

/// What of it is asked for.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Selection")]
pub struct QueryArgs {
    /// What was sampled
    #[arg(long, value_name = "NAME", default_value = "on-cpu")]
    pub event: String,
    /// A further condition on tags, such as "container = 'app'"
    #[arg(long, value_name = "TAG_FILTER")]
    pub filter: Option<String>,
    /// Of these processes only the ones that policies call so
    #[arg(long, value_name = "NAME")]
    pub app: Option<String>,
}

/// Where a profile goes to.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// The format [default: tui on a terminal, by the file's name, else folded]
    #[arg(short, long, value_enum)]
    pub output: Option<Format>,
    /// The file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// `flame`.
#[derive(Debug, Clone, Args)]
pub struct FlameArgs {
    /// What is asked about
    pub target: Target,
    /// When.
    #[command(flatten)]
    pub range: RangeArgs,
    /// What of it.
    #[command(flatten)]
    pub query: QueryArgs,
    /// Where to.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What a list is ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// The time in the function itself
    #[value(name = "self")]
    SelfTime,
    /// The time in it and in what it called
    Total,
}

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// For people
    Table,
    /// For scripts
    Json,
}

/// `top`.
#[derive(Debug, Clone, Args)]
pub struct TopArgs {
    /// What is asked about
    pub target: Target,
    /// How many lines
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    pub lines: usize,
    /// The order
    #[arg(long, value_enum, default_value = "self")]
    pub by: By,
    /// The format
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: ListFormat,
    /// When.
    #[command(flatten)]
    pub range: RangeArgs,
    /// What of it.
    #[command(flatten)]
    pub query: QueryArgs,
}

/// How a comparison is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DiffFormat {
    /// The functions whose shares differ most
    Table,
    /// A page: red is more, blue is less
    Html,
    /// Lines `stack base new`, for inferno-flamegraph and flamegraph.pl
    Folded,
    /// For scripts
    Json,
}

/// `diff`.
#[derive(Debug, Clone, Args)]
pub struct DiffArgs {
    /// What is asked about
    pub target: Target,
    /// What it is compared with [default: the same at another time; of a Deployment its ReplicaSet before]
    pub base: Option<Target>,
    /// The base is so much earlier
    #[arg(long, value_name = "TIME", conflicts_with_all = ["base_from", "base_until"])]
    pub before: Option<Span>,
    /// The base's start
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, requires = "base_until")]
    pub base_from: Option<Moment>,
    /// The base's end
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, requires = "base_from")]
    pub base_until: Option<Moment>,
    /// Compare times, not shares
    #[arg(long)]
    pub absolute: bool,
    /// How many lines of a table
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    pub lines: usize,
    /// The format [default: html for a file called so, else table]
    #[arg(short, long, value_enum)]
    pub output: Option<DiffFormat>,
    /// The file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// When.
    #[command(flatten)]
    pub range: RangeArgs,
    /// What of it.
    #[command(flatten)]
    pub query: QueryArgs,
}

/// `apps`.
#[derive(Debug, Clone, Args)]
pub struct AppsArgs {
    /// The format
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: ListFormat,
    /// When.
    #[command(flatten)]
    pub range: RangeArgs,
}

/// `explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// The pod
    pub target: Target,
    /// The name of a process, at most 15 bytes [default: those that were seen]
    #[arg(long, value_name = "NAME")]
    pub process: Option<String>,
    /// Its command line, for policies with match: cmdline
    #[arg(long, value_name = "TEXT", requires = "process")]
    pub cmdline: Option<String>,
    /// The path of its program, for policies with match: exe
    #[arg(long, value_name = "PATH", requires = "process")]
    pub exe: Option<String>,
    /// When.
    #[command(flatten)]
    pub range: RangeArgs,
}

/// `record`.
#[derive(Debug, Clone, Args)]
pub struct RecordArgs {
    /// A pod or a workload
    pub target: Target,
    /// How long to sample, 1s to 23h
    #[arg(long = "for", value_name = "TIME", default_value = "30s")]
    pub span: Span,
    /// Samples per second and CPU
    #[arg(long, value_name = "NUMBER", default_value_t = 499, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub frequency: u32,
    /// How long to wait until the node works by the policy
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub wait: Span,
    /// Where to.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `open`.
#[derive(Debug, Clone, Args)]
pub struct OpenArgs {
    /// The port on 127.0.0.1 [default: a free one]
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true)]
    pub port: u16,
}

/// `completion`.
#[derive(Debug, Clone, Args)]
pub struct CompletionArgs {
    /// Whose
    #[arg(value_enum)]
    pub shell: Shell,
    /// Write kubectl_complete-hearth into this directory of your PATH
    #[arg(long, value_name = "DIRECTORY")]
    pub install_dir: Option<PathBuf>,
}

impl RangeArgs {
    /// Both ends.
    ///
    /// # Errors
    /// It would end before it begins.
    pub fn range(&self, now: i64) -> Result<Range, Failure> {
        Range::new(self.since, self.from, self.until, now)
    }
}
