//! How an operator gives thousands of agents their configuration, and how they find the next one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use hearth_e2e::api_proxy::{ApiProxy, Asked, is_write, tally};
use hearth_e2e::cluster::{Cluster, Turn};
use hearth_e2e::hearth::install_kinds;
use hearth_e2e::operator::Identity;
use hearth_e2e::simulated::Agents;
use hearth_node_agent::config::retry::Waits;
use hearth_node_agent::remote::Credentials;
use hearth_policy::ClusterProfilingPolicy;
use hearth_proto::config::v1::Config;
use hearth_tls::testing::Ca;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource as _};
use serde_json::json;

use crate::Bench;
use crate::cgroup::{Cgroup, Charge};
use crate::child::{Running, wait_until};
use crate::table::{Table, median, range};

const AGENTS: usize = 5_000;
const POLICIES: usize = 50;
/// The policy that is edited.
const EDITED: &str = "policy-0";
const NAMESPACE: &str = "hearth";
/// The service account of agents.
const ACCOUNT: &str = "hearth-node-agent";
/// Objects that are created at a time.
const AT_A_TIME: usize = 32;
/// A policy's status is written at most once in this.
const PACE: Duration = Duration::from_secs(5);

pub(crate) fn measure(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    let turn = Turn::wait();
    let cluster = Cluster::up(&turn, 0);
    install_kinds(&cluster);
    // Nobody reports for the nodes here, and these would write that of each.
    cluster.daemon("stop", "kube-controller-manager");
    cluster.daemon("stop", "kube-scheduler");
    let api = bench.runtime.block_on(fill(&cluster.kubeconfig()))?;
    let credentials = bench.runtime.block_on(credentials(&api, bench.dir.path()))?;

    let proxy = ApiProxy::start(&cluster);
    let certificate = Certificate::new(bench.dir.path())?;
    let leader = Operator::start(bench, &proxy, "operator-a", &certificate)?;
    leader.wait_for(bench, "hearth_operator_leading", 1.0)?;
    let standby = Operator::start(bench, &proxy, "operator-b", &certificate)?;
    standby.wait_for(bench, "hearth_operator_nodes", AGENTS as f64)?;
    let before = leader.cgroup.charge()?;

    let began = Instant::now();
    // A standby tells them where the leader is.
    let fleet = Fleet::start(&standby.identity, credentials, &certificate);
    fleet.wait_for_all("the first configuration", 99)?;
    let first = began.elapsed();
    let settled = |status: &serde_json::Value| status["nodes"]["applied"] == AGENTS;
    bench.runtime.block_on(wait_for_status(&api, settled))?;
    std::thread::sleep(PACE);

    let rounds: Vec<Round> = (0..bench.rounds)
        .map(|round| edit(bench, &api, &proxy, &leader, &fleet, round))
        .collect::<Result<_, _>>()?;
    let charge = leader.cgroup.charge()?;
    let peak = leader.cgroup.peak()?;
    report_edits(table, &rounds, first);
    report_memory(table, &before, &charge, peak);
    change_leader(bench, table, leader, &standby)?;
    drop(fleet);
    Ok(())
}

/// One edit of one policy of the cluster.
struct Round {
    /// Seconds until 99 of 100 agents worked by it, from before the edit was sent.
    p99: f64,
    /// The same for the last one.
    last: f64,
    /// Seconds until the status said so.
    status: f64,
    /// CPU seconds of the operator.
    cpu: f64,
    /// What it wrote.
    writes: BTreeMap<String, usize>,
    /// Patches of one status within [`PACE`], at most.
    patches: usize,
}

fn edit(
    bench: &Bench,
    api: &Client,
    proxy: &ApiProxy,
    leader: &Operator,
    fleet: &Fleet,
    round: usize,
) -> anyhow::Result<Round> {
    let frequency = 101 + u64::try_from(round)?;
    let cpu = leader.cgroup.cpu()?;
    proxy.take();
    let began = Instant::now();
    let generation = bench.runtime.block_on(set_frequency(api, frequency))?;
    let times = fleet.wait_for_all("the edit", frequency)?;
    let settled = move |status: &serde_json::Value| {
        status["observedGeneration"] == generation && status["nodes"]["applied"] == AGENTS
    };
    bench.runtime.block_on(wait_for_status(api, settled))?;
    let status = began.elapsed().as_secs_f64();
    let cpu = (leader.cgroup.cpu()? - cpu).as_secs_f64();
    // Whatever is written late counts too.
    std::thread::sleep(2 * PACE);
    let mut seconds: Vec<f64> = times.iter().map(|at| (*at - began).as_secs_f64()).collect();
    seconds.sort_by(f64::total_cmp);
    let asked: Vec<Asked> = proxy.take().into_iter().filter(|asked| is_write(&asked.what)).collect();
    let writes = tally(&asked).into_iter().map(|(what, count)| (what.to_owned(), count)).collect();
    Ok(Round {
        p99: seconds[AGENTS * 99 / 100 - 1],
        last: seconds[AGENTS - 1],
        status,
        cpu,
        patches: most_patches(&asked),
        writes,
    })
}

/// How often one status was written within [`PACE`], at most.
fn most_patches(writes: &[Asked]) -> usize {
    let statuses = writes.iter().filter(|asked| asked.what.ends_with("/status"));
    let within = |first: &Asked| {
        let same = writes.iter().filter(|asked| asked.what == first.what && asked.at >= first.at);
        same.filter(|asked| asked.at - first.at < PACE).count()
    };
    statuses.map(within).max().unwrap_or(0)
}

fn report_edits(table: &mut Table, rounds: &[Round], first: Duration) {
    let of = |value: fn(&Round) -> f64| {
        let values: Vec<f64> = rounds.iter().map(value).collect();
        (median(&values), range(&values))
    };
    let (p99, (least, most)) = of(|round| round.p99);
    let (last, _) = of(|round| round.last);
    let (status, _) = of(|round| round.status);
    let (cpu, _) = of(|round| round.cpu);
    table.row(
        &format!(
            "configuration by TLS to {AGENTS} agents that proved their nodes, on the same cores, {POLICIES} policies, one of \
             them edited: 99 % work by it"
        ),
        "≤ 2 s",
        &format!(
            "{p99:.2} s ({least:.2}–{most:.2}), the last {last:.2} s, the status says so after {status:.1} s; {cpu:.2} s \
             of CPU in the operator; all at once at the start {:.1} s",
            first.as_secs_f64()
        ),
        "–",
        "–",
        rounds.len(),
    );
    let sum = |wanted: fn(&str) -> bool| -> usize {
        rounds
            .iter()
            .flat_map(|round| &round.writes)
            .filter(|(what, _)| wanted(what))
            .map(|(_, count)| count)
            .sum()
    };
    let statuses = sum(|what| what.ends_with("/status"));
    let leases = sum(|what| what.contains("leases"));
    let others = sum(|what| !what.ends_with("/status") && !what.contains("leases"));
    let patches = rounds.iter().map(|round| round.patches).max().unwrap_or(0);
    table.row(
        "writes to the API server, counted by a proxy",
        "0 per node; ≤ 1 of a policy's status in 5 s",
        &format!(
            "{} of statuses for {} edits, at most {patches} of one status in 5 s; {leases} of the lease; {others} others",
            statuses,
            rounds.len()
        ),
        "–",
        "–",
        rounds.len(),
    );
}

fn report_memory(table: &mut Table, before: &Charge, after: &Charge, peak: u64) {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    table.row(
        &format!("memory of the operator with {AGENTS} agents"),
        "≤ 200 MiB",
        &format!(
            "{:.0} MiB at most, {:.0} after the edits ({:.0} its own, {:.0} kernel), {:.0} before the first agent",
            mib(peak),
            mib(after.total),
            mib(after.anonymous),
            mib(after.kernel),
            mib(before.total)
        ),
        "–",
        "–",
        1,
    );
}

/// The leader is killed; its agents find the standby.
fn change_leader(
    bench: &Bench,
    table: &mut Table,
    leader: Operator,
    standby: &Operator,
) -> anyhow::Result<()> {
    drop(leader);
    let began = Instant::now();
    standby.wait_for(bench, "hearth_operator_leading", 1.0)?;
    let leads = began.elapsed();
    let mut streams: Vec<(Duration, f64)> = Vec::new();
    loop {
        let count = standby.metric(bench, "hearth_operator_streams")?;
        streams.push((began.elapsed(), count));
        if count >= AGENTS as f64 * 0.99 {
            break;
        }
        anyhow::ensure!(began.elapsed() < Duration::from_secs(180), "only {count} agents have come back");
        std::thread::sleep(Duration::from_millis(100));
    }
    let back = streams.last().map_or(Duration::ZERO, |(at, _)| *at);
    let in_a_second = |&(from, had): &(Duration, f64)| {
        let until = streams.iter().take_while(|(at, _)| *at <= from + Duration::from_secs(1)).last();
        until.map_or(0.0, |(_, count)| count - had)
    };
    let most = streams.iter().map(in_a_second).fold(0.0, f64::max);
    table.row(
        &format!("the leader is killed: its {AGENTS} agents find the standby"),
        "spread over 30 s",
        &format!(
            "the standby leads after {:.1} s, 99 % of the agents are with it {:.1} s later, at most {most:.0} of them in \
             one second; {:.0} MiB then",
            leads.as_secs_f64(),
            (back - leads).as_secs_f64(),
            standby.cgroup.peak()? as f64 / f64::from(1 << 20)
        ),
        "–",
        "–",
        1,
    );
    Ok(())
}

/// An operator in a cgroup of its own.
struct Operator {
    identity: Identity,
    _running: Running,
    /// After `_running`: a cgroup can only be removed when it is empty.
    cgroup: Cgroup,
}

impl Operator {
    fn start(bench: &Bench, proxy: &ApiProxy, name: &str, certificate: &Certificate) -> anyhow::Result<Self> {
        let identity = Identity::new(name);
        let cgroup = Cgroup::create()?;
        let mut command = cgroup.command(&bench.bin.join("hearth-operator"));
        command.args(identity.arguments(NAMESPACE)).env("KUBECONFIG", proxy.kubeconfig());
        command.arg("--tls-cert").arg(&certificate.certificate).arg("--tls-key").arg(&certificate.key);
        command.args(["--agent-account", &format!("{NAMESPACE}/{ACCOUNT}")]);
        // A line for each of thousands of agents is not what is measured.
        command.env("HEARTH_LOG", "warn");
        let running = Running::start(command, name, &bench.dir.path().join(format!("{name}.log")))?;
        Ok(Self { identity, _running: running, cgroup })
    }

    fn metric(&self, bench: &Bench, name: &str) -> anyhow::Result<f64> {
        let url = format!("http://{}/metrics", self.identity.metrics());
        let text = bench.runtime.block_on(async { bench.http.get(&url).send().await?.text().await })?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value
            .and_then(|value| value.parse().ok())
            .with_context(|| format!("the operator has no metric {name}"))
    }

    fn wait_for(&self, bench: &Bench, metric: &str, value: f64) -> anyhow::Result<()> {
        // Nobody listens there at first.
        wait_until(metric, || Ok(self.metric(bench, metric).is_ok_and(|found| found == value)))
    }
}

/// What operators serve with.
struct Certificate {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificate {
    fn new(folder: &Path) -> anyhow::Result<Self> {
        let issuer = Ca::new("bench");
        let pair = issuer.server(&["127.0.0.1"]);
        let write = |name: &str, text: &str| -> anyhow::Result<PathBuf> {
            let path = folder.join(name);
            std::fs::write(&path, text)?;
            Ok(path)
        };
        Ok(Self {
            ca: write("ca.crt", &issuer.pem())?,
            certificate: write("tls.crt", &pair.certificate)?,
            key: write("tls.key", &pair.key)?,
        })
    }
}

/// The agents, and when each last began to work by another rate of the edited policy.
struct Fleet {
    _agents: Agents,
    applied: Arc<Vec<Mutex<(u64, Instant)>>>,
}

impl Fleet {
    /// With a token for each, by which it proves its node.
    fn start(operator: &Identity, tokens: Vec<PathBuf>, certificate: &Certificate) -> Self {
        let now = Instant::now();
        let applied: Arc<Vec<_>> = Arc::new((0..AGENTS).map(|_| Mutex::new((0, now))).collect());
        let credentials = |token| Credentials { ca: Some(certificate.ca.clone()), token_file: Some(token) };
        let nodes = (0..AGENTS).map(node_name).zip(tokens.into_iter().map(credentials));
        let seen = Arc::clone(&applied);
        let agents = Agents::start(nodes, &operator.tls_url(), Waits::default(), move |agent, config| {
            let frequency = frequency(config);
            *seen[agent].lock().unwrap_or_else(PoisonError::into_inner) = (frequency, Instant::now());
        });
        Self { _agents: agents, applied }
    }

    /// When each agent had it.
    fn wait_for_all(&self, what: &str, frequency: u64) -> anyhow::Result<Vec<Instant>> {
        let mut times = Vec::new();
        wait_until(what, || {
            let all = self.applied.iter().map(|one| *one.lock().unwrap_or_else(PoisonError::into_inner));
            times = all.filter(|(applied, _)| *applied == frequency).map(|(_, at)| at).collect();
            Ok(times.len() == AGENTS)
        })?;
        Ok(times)
    }
}

/// The rate of the edited policy; 0 without it.
fn frequency(config: &Config) -> u64 {
    let edited = config.policies.iter().find(|policy| policy.name == EDITED);
    let spec = edited.and_then(|policy| serde_json::from_str::<serde_json::Value>(&policy.spec).ok());
    spec.and_then(|spec| spec["frequency"].as_u64()).unwrap_or(0)
}

fn node_name(number: usize) -> String {
    format!("ip-10-{}-{}-{}.eu-central-1.compute.internal", number / 65_536, number / 256 % 256, number % 256)
}

/// Nodes and policies.
async fn fill(kubeconfig: &Path) -> anyhow::Result<Client> {
    let config = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let client = Client::try_from(kube::Config::from_custom_kubeconfig(config, &Default::default()).await?)?;
    let params = PostParams::default();
    let namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
    Api::<Namespace>::all(client.clone()).create(&params, &namespace).await?;
    let nodes: Api<Node> = Api::all(client.clone());
    let create = async |number: usize| -> anyhow::Result<()> {
        let node = serde_json::from_value(json!({"metadata": {"name": node_name(number), "labels": {
            "kubernetes.io/hostname": node_name(number),
            "kubernetes.io/arch": "amd64",
            "kubernetes.io/os": "linux",
            "node.kubernetes.io/instance-type": "m7a.2xlarge",
            "topology.kubernetes.io/region": "eu-central-1",
            "topology.kubernetes.io/zone": format!("eu-central-1{}", ["a", "b", "c"][number % 3]),
            "eks.amazonaws.com/nodegroup": format!("workers-{}", number % 20),
        }}}))?;
        nodes.create(&params, &node).await?;
        Ok(())
    };
    stream::iter((0..AGENTS).map(create)).buffer_unordered(AT_A_TIME).try_collect::<Vec<_>>().await?;
    let policies: Api<ClusterProfilingPolicy> = Api::all(client.clone());
    for number in 0..POLICIES {
        let policy = serde_json::from_value(json!({
            "apiVersion": hearth_policy::API_VERSION,
            "kind": "ClusterProfilingPolicy",
            "metadata": {"name": format!("policy-{number}")},
            "spec": {
                "regex": format!("^(?:team-{number}|service-{number}|worker-{number})-[a-z0-9]+(?:-canary)?$"),
                "frequency": 99,
                "priority": number,
                "podSelector": {"matchLabels": {"app.kubernetes.io/part-of": format!("product-{number}")}},
                "namespaceSelector": {"matchExpressions": [
                    {"key": "team", "operator": "In", "values": [format!("team-{number}"), "platform"]},
                ]},
                "appService": "workload",
            },
        }))?;
        policies.create(&params, &policy).await?;
    }
    Ok(client)
}

/// A pod of the agents' account on every node, and a file with a token of it.
async fn credentials(client: &Client, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let params = PostParams::default();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let account = serde_json::from_value(json!({"metadata": {"name": ACCOUNT}}))?;
    accounts.create(&params, &account).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let credential = async |number: usize| -> anyhow::Result<PathBuf> {
        let name = format!("agent-{number}");
        let pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": {
            "nodeName": node_name(number),
            "serviceAccountName": ACCOUNT,
            "containers": [{"name": "agent", "image": "none"}],
        }}))?;
        let pod = pods.create(&params, &pod).await?;
        let bound = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(name.clone()),
            uid: pod.metadata.uid,
        };
        let spec = TokenRequestSpec {
            audiences: Some(vec!["hearth".to_owned()]),
            bound_object_ref: Some(bound),
            expiration_seconds: Some(3600),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let issued = accounts.create_token_request(ACCOUNT, &params, &request).await?;
        let path = folder.join(name);
        let token = issued.status.and_then(|status| status.token).context("no token was issued")?;
        std::fs::write(&path, token)?;
        Ok(path)
    };
    stream::iter((0..AGENTS).map(credential)).buffered(AT_A_TIME).try_collect().await
}

/// The policy's new generation.
async fn set_frequency(client: &Client, frequency: u64) -> anyhow::Result<i64> {
    let policies: Api<ClusterProfilingPolicy> = Api::all(client.clone());
    let patch = Patch::Merge(json!({"spec": {"frequency": frequency}}));
    let policy = policies.patch(EDITED, &PatchParams::default(), &patch).await?;
    policy.meta().generation.context("the API server counts generations")
}

async fn wait_for_status(
    client: &Client,
    settled: impl Fn(&serde_json::Value) -> bool,
) -> anyhow::Result<()> {
    let policies: Api<ClusterProfilingPolicy> = Api::all(client.clone());
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let status = serde_json::to_value(policies.get(EDITED).await?.status)?;
        if settled(&status) {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "the status stays {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
