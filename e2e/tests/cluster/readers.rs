//! Who may read what: through the API server, and by a token at the collector itself.

use std::net::SocketAddr;
use std::process::Output;

use hearth_e2e::cluster::text;
use hearth_e2e::collector::{Answer, curl};
use hearth_e2e::daemon::wait_for;
use hearth_e2e::hearth::{agent_token, authority, collector_pod};
use hearth_e2e::{Cluster, random_letters};
use libtest_mimic::Trial;

use crate::profiles::{Workload, on_hearth};

const API: &str = "/apis/query.hearth.dev/v1alpha1";
/// Where the collector's own port is, in its pod.
const HTTPS: u16 = 20443;

pub(crate) fn tests() -> Vec<Trial> {
    vec![on_hearth(
        "readers::each_sees_the_namespaces_in_which_they_may_get_profiles",
        each_sees_what_they_may,
    )]
}

/// A namespace with a program that is profiled.
struct Team {
    namespace: String,
    comm: String,
    workload: Workload,
}

impl Team {
    fn new(cluster: &Cluster, name: &str) -> Self {
        let namespace = format!("{name}-{}", random_letters(6));
        let comm = format!("{name}-{}", random_letters(6));
        cluster.kubectl(&["create", "namespace", &namespace]);
        wait_for("the namespace's service account", || {
            let account = ["-n", &namespace, "get", "serviceaccount", "default"];
            cluster.kubectl_with(&account, "").status.success().then_some(())
        });
        let workload = Workload::new(cluster, &comm);
        workload.start(cluster, &namespace, "app", "node1");
        cluster.apply(&format!(
            "apiVersion: profiling.hearth.dev/v1alpha1\nkind: ProfilingPolicy\n\
             metadata: {{name: all, namespace: {namespace}}}\nspec: {{podSelector: {{}}}}\n"
        ));
        Self { namespace, comm, workload }
    }

    /// Lets them see the namespace, as its administrator does: `--user=NAME` or `--serviceaccount=NAMESPACE:NAME`.
    fn let_in(&self, cluster: &Cluster, binding: &str, whom: &str) {
        let role = ["create", "rolebinding", binding, "--clusterrole=view", whom];
        cluster.kubectl(&[&["-n", &self.namespace], &role[..]].concat());
    }

    fn account(&self, cluster: &Cluster, name: &str) -> String {
        cluster.kubectl(&["-n", &self.namespace, "create", "serviceaccount", name]);
        let token = cluster.kubectl(&["-n", &self.namespace, "create", "token", name]);
        token.trim().to_owned()
    }

    fn flame_path(&self) -> String {
        format!(
            "{API}/namespaces/{}/profiles/flamegraph?app_service={}&format=folded",
            self.namespace, self.comm
        )
    }
}

fn each_sees_what_they_may(cluster: &Cluster) {
    let (red, blue) = (Team::new(cluster, "red"), Team::new(cluster, "blue"));
    through_the_api_server(cluster, &red, &blue);
    by_a_token(cluster, &red, &blue);
    for team in [red, blue] {
        cluster.kubectl(&["delete", "namespace", &team.namespace, "--wait=false"]);
    }
}

fn through_the_api_server(cluster: &Cluster, red: &Team, blue: &Team) {
    let jane = |path: &str| cluster.kubectl_with(&["get", "--raw", path, "--as=jane"], "");
    assert_forbidden(&jane(&red.flame_path()), &format!("in the namespace \"{}\"", red.namespace));
    red.let_in(cluster, "jane", "--user=jane");
    wait_for("a profile of her namespace", || {
        let flame = jane(&red.flame_path());
        flame.status.success().then(|| text(&flame)).filter(|flame| flame.contains(&red.workload.inner))
    });
    assert_forbidden(&jane(&blue.flame_path()), &format!("in the namespace \"{}\"", blue.namespace));
    assert_forbidden(&jane(&format!("{API}/profiles/apps")), "at the cluster scope");
    // Whatever she asks in her own namespace.
    let filter = format!("filter=pod_ns%20%3D%20%27{}%27", blue.namespace);
    let answer = text(&jane(&format!("{API}/namespaces/{}/profiles/apps?{filter}", red.namespace)));
    assert!(!answer.contains(&blue.comm), "{answer}");

    wait_for("both namespaces, for an administrator", || {
        let apps = cluster.kubectl(&["get", "--raw", &format!("{API}/profiles/apps")]);
        (apps.contains(&red.comm) && apps.contains(&blue.comm)).then_some(())
    });
}

fn assert_forbidden(output: &Output, at: &str) {
    let said = text(output);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("cannot get resource \"profiles\" in API group \"query.hearth.dev\""), "{said}");
    assert!(said.contains(at), "{said}");
}

fn by_a_token(cluster: &Cluster, red: &Team, blue: &Team) {
    let collector = Https::of(cluster);
    let reader = red.account(cluster, "reader");
    red.let_in(cluster, "reader", &format!("--serviceaccount={}:reader", red.namespace));
    let apps = wait_for("the apps of its namespace", || {
        let answer = collector.get("/api/v1/apps", &[&bearer(&reader)]);
        (answer.status == 200 && answer.body.contains(&red.comm)).then_some(answer.body)
    });
    assert!(!apps.contains(&blue.comm), "{apps}");

    let nobody = blue.account(cluster, "nobody");
    assert_eq!(collector.get("/api/v1/apps", &[&bearer(&nobody)]).status, 403);
    assert_eq!(collector.get("/api/v1/apps", &[]).status, 401);
    // What an agent has proves where it runs, and nothing here.
    let agent = agent_token(cluster, "node1");
    assert_eq!(collector.get("/api/v1/apps", &[&bearer(&agent)]).status, 401);
    // Only the API server may say who asks.
    let root = ["X-Remote-User: admin", "X-Remote-Group: system:masters"];
    assert_eq!(collector.get(&format!("{API}/profiles/apps"), &root).status, 401);
    let own = [bearer(&nobody), root[0].to_owned(), root[1].to_owned()];
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    assert_eq!(collector.get(&format!("{API}/profiles/apps"), &own).status, 403);
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

/// The collector's own port, verified by the operator's CA.
struct Https {
    authority: tempfile::TempDir,
    pod: SocketAddr,
}

impl Https {
    fn of(cluster: &Cluster) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.crt"), authority(cluster)).unwrap();
        Self { authority: folder, pod: SocketAddr::from((collector_pod(cluster), HTTPS)) }
    }

    fn get(&self, path: &str, headers: &[&str]) -> Answer {
        let name = "hearth-collector.hearth.svc";
        let to = format!("{name}:{HTTPS}:{}", self.pod.ip());
        let url = format!("https://{name}:{HTTPS}{path}");
        let authority = self.authority.path().join("ca.crt");
        let mut arguments = vec!["--cacert", authority.to_str().unwrap(), "--resolve", &to, &url];
        for header in headers {
            arguments.extend(["-H", header]);
        }
        curl(&arguments)
    }
}
