//! Node agents without a sampler: the agent's own client of the operator, which takes whatever it is sent.

use std::sync::Arc;

use hearth_node_agent::config::client::{Apply, Client, Options};
use hearth_node_agent::config::retry::Waits;
use hearth_node_agent::remote::Credentials;
use hearth_proto::config::v1::{Config, Counts, Directory, Policy, PolicyCount};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Running agents; they end when dropped.
pub struct Agents {
    _runtime: Runtime,
}

/// Told of each configuration that an agent takes, by the agent's number.
pub type OnConfig = dyn Fn(usize, &Config) + Send + Sync;

impl Agents {
    /// One for each node of these names, which proves it by these credentials, on streams to `operator`, a URL.
    ///
    /// Each says of every policy of its configuration that it profiles one process.
    pub fn start(
        nodes: impl IntoIterator<Item = (String, Credentials)>,
        operator: &str,
        waits: Waits,
        on_config: impl Fn(usize, &Config) + Send + Sync + 'static,
    ) -> Self {
        let runtime = Runtime::new().expect("the agents' threads can be started");
        let on_config: Arc<OnConfig> = Arc::new(on_config);
        for (number, (node, credentials)) in nodes.into_iter().enumerate() {
            let (counts, counted) = watch::channel(Counts::default());
            let agent = Agent { number, on_config: Arc::clone(&on_config), counts };
            let instance = uuid::Uuid::new_v4().into_bytes().to_vec();
            let options = Options { operator: operator.to_owned(), credentials, node, instance, waits };
            let wants = watch::channel(Default::default()).1;
            let _in_runtime = runtime.enter();
            let client = Client::new(options, String::new(), agent, counted, wants).expect("a URL");
            runtime.spawn(client.run());
        }
        Self { _runtime: runtime }
    }
}

struct Agent {
    number: usize,
    on_config: Arc<OnConfig>,
    counts: watch::Sender<Counts>,
}

impl Apply for Agent {
    async fn apply(&mut self, config: Config) -> Result<(), String> {
        (self.on_config)(self.number, &config);
        let policies = config.policies.iter().map(|policy| PolicyCount {
            policy: id(policy),
            pods: 1,
            processes: 1,
            selected_pods: 1,
            ..PolicyCount::default()
        });
        self.counts.send_replace(Counts { policies: policies.collect(), ..Counts::default() });
        Ok(())
    }

    fn know(&mut self, _: Directory) {}
}

/// `namespace/name`, or `name` of a cluster-wide one.
pub fn id(policy: &Policy) -> String {
    if policy.namespace.is_empty() {
        policy.name.clone()
    } else {
        format!("{}/{}", policy.namespace, policy.name)
    }
}
