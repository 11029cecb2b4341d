//! A token that was stolen from an agent: what it opens, and what it does not.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use hearth_e2e::Cluster;
use hearth_e2e::cluster::text;
use hearth_e2e::collector::curl;
use hearth_e2e::hearth::{agent_token, authority, collector_pod, operator_pods};
use hearth_proto::collector::v1::collector_client::CollectorClient;
use hearth_proto::collector::v1::{AgentIdentity, SampleBatch};
use hearth_proto::config::v1::node_configs_client::NodeConfigsClient;
use hearth_proto::config::v1::node_report::Report;
use hearth_proto::config::v1::{Hello, NodeReport};
use hearth_tls::Connector;
use libtest_mimic::Trial;
use tokio_stream::StreamExt as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::profiles::{on_hearth, unix_seconds};

pub(crate) fn tests() -> Vec<Trial> {
    vec![on_hearth("identity::a_stolen_token_speaks_for_its_own_node_alone", a_stolen_token_is_of_its_node)]
}

fn a_stolen_token_is_of_its_node(cluster: &Cluster) {
    let folder = tempfile::tempdir().unwrap();
    let trusted = folder.path().join("ca.crt");
    std::fs::write(&trusted, authority(cluster)).unwrap();
    let stolen = agent_token(cluster, "node1");
    let for_the_api = cluster.kubectl(&["-n", "hearth", "create", "token", "hearth-node-agent"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let collector = channel(&trusted, collector_pod(cluster), 20417, "hearth-collector.hearth.svc");
        let send = |token: Option<&str>, node: &str| send(collector.clone(), request(token), node.to_owned());
        let own = send(Some(&stolen), "node1").await;
        assert!(own.is_none(), "its own node: {own:?}");
        refused(send(Some(&stolen), "node2").await, Code::PermissionDenied, "node2");
        refused(send(None, "node1").await, Code::Unauthenticated, "token");
        refused(send(Some(for_the_api.trim()), "node1").await, Code::Unauthenticated, "audience");

        // Of the two, one leads.
        let mut led = 0;
        for pod in operator_pods(cluster) {
            let operator = channel(&trusted, pod, 20418, "hearth-operator.hearth.svc");
            let follow = |token: Option<&str>| follow(operator.clone(), request(token), "node2".to_owned());
            let status = follow(Some(&stolen)).await.unwrap();
            if status.code() == Code::PermissionDenied {
                led += 1;
                refused(Some(status), Code::PermissionDenied, "node2");
                refused(follow(None).await, Code::Unauthenticated, "token");
            }
        }
        assert_eq!(led, 1);
    });
    the_api_server_knows_nobody_by_it(cluster, &stolen);
}

/// Neither for reading nor for writing.
fn the_api_server_knows_nobody_by_it(cluster: &Cluster, token: &str) {
    let server =
        cluster.kubectl(&["config", "view", "--raw", "-o", "jsonpath={.clusters[0].cluster.server}"]);
    let pods = format!("{server}/api/v1/pods");
    let bearer = format!("Authorization: Bearer {token}");
    // Whether it is the API server is not what is asked here.
    assert_eq!(curl(&["-k", "-H", &bearer, &pods]).status, 401);
    // As for whoever steals the other token, which the agent asks for pods by.
    let account = "--as=system:serviceaccount:hearth:hearth-node-agent";
    let write =
        ["create", "profilingpolicy", "patch", "pods", "get", "secrets", "get", "profiles.query.hearth.dev"];
    for pair in write.chunks(2) {
        let answer = cluster.kubectl_with(&["auth", "can-i", pair[0], pair[1], "-A", account], "");
        assert_eq!(text(&answer).lines().last(), Some("no"), "{pair:?}");
    }
}

fn refused(status: Option<Status>, code: Code, said: &str) {
    let status = status.expect("it is refused");
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(said), "{status}");
}

fn channel(trusted: &Path, pod: IpAddr, port: u16, name: &str) -> Channel {
    let connector = Connector::new(trusted.to_owned()).with_server_name(name).unwrap();
    let endpoint = Endpoint::from_shared(format!("https://{}", SocketAddr::from((pod, port)))).unwrap();
    endpoint.connect_with_connector_lazy(connector)
}

fn request(token: Option<&str>) -> Request<()> {
    let mut request = Request::new(());
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    request
}

/// How the collector refuses a stream of this node; `None`: it takes it.
async fn send(channel: Channel, request: Request<()>, node: String) -> Option<Status> {
    let instance = uuid::Uuid::new_v4().into_bytes().to_vec();
    let agent = AgentIdentity { instance, node, version: "test".to_owned(), ..AgentIdentity::default() };
    let now = unix_seconds();
    let first = SampleBatch {
        agent: Some(agent),
        sequence: 1,
        window_start: now - now % 10 - 10,
        window_seconds: 10,
        sent_at_micros: now * 1_000_000,
        ..SampleBatch::default()
    };
    let stream = tokio_stream::once(first);
    let answer = CollectorClient::new(channel).export(request.map(|()| stream)).await;
    match answer {
        Err(status) => Some(status),
        Ok(acks) => acks.into_inner().next().await.and_then(Result::err),
    }
}

/// How the operator ends a stream of this node.
async fn follow(channel: Channel, request: Request<()>, node: String) -> Option<Status> {
    let instance = uuid::Uuid::new_v4().into_bytes().to_vec();
    let hello = Hello { node, instance, version: "test".to_owned(), ..Hello::default() };
    let first = tokio_stream::once(NodeReport { report: Some(Report::Hello(hello)) });
    let stream = first.chain(tokio_stream::pending());
    match NodeConfigsClient::new(channel).stream(request.map(|()| stream)).await {
        Err(status) => Some(status),
        Ok(updates) => updates.into_inner().next().await.and_then(Result::err),
    }
}
