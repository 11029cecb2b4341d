//! The program itself: kubeconfig, environment, signals, exit codes.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::fake::{Fake, condition};

/// A folder with a kubeconfig `config`: two contexts, of which `shop` is the current one.
pub(crate) fn kubeconfig(address: SocketAddr) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let cluster = |name: &str, server: &str| json!({"name": name, "cluster": {"server": server}});
    let context = |name: &str, cluster: &str, user: &str, namespace: &str| json!({"name": name, "context": {"cluster": cluster, "user": user, "namespace": namespace}});
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "shop",
        "clusters": [cluster("here", &format!("http://{address}")), cluster("nowhere", "http://127.0.0.1:1")],
        "users": [
            {"name": "ann", "user": {"token": "T0KEN"}},
            {"name": "exec", "user": {"exec": {
                "apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "interactiveMode": "Never",
                "args": ["-c", "echo SECRET; echo login expired >&2; exit 3"],
            }}},
        ],
        "contexts": [
            context("shop", "here", "ann", "shop"), context("away", "nowhere", "ann", "shop"),
            context("other", "here", "ann", "other"),
        ],
    });
    std::fs::write(folder.path().join("config"), config.to_string()).unwrap();
    folder
}

/// The program with that kubeconfig; words are separated by one blank.
pub(crate) fn plugin(folder: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-hearth"));
    command
        .args(line.split(' '))
        .env("KUBECONFIG", folder.join("config"))
        .env("HOME", folder)
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env_remove("HTTPS_PROXY")
        .env_remove("https_proxy")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

async fn output(folder: &Path, line: &str) -> Output {
    plugin(folder, line).output().await.unwrap()
}

async fn check_error(folder: &Path, line: &str, code: i32, expected: &str) {
    let done = output(folder, line).await;
    let err = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(code), "{line}: {err}");
    assert!(err.starts_with(expected), "{line}: {err}");
    assert!(done.stdout.is_empty(), "{line}");
}

#[tokio::test]
async fn the_kubeconfig_says_whom_to_ask_and_as_whom() {
    let fake = Fake::new();
    fake.flame("redis", &[]);
    let folder = kubeconfig(fake.serve().await);
    for (line, begin, who) in [
        (
            "flame app/redis",
            "GET /apis/query.hearth.dev/v1alpha1/namespaces/shop/",
            " authorization=Bearer T0KEN",
        ),
        ("flame app/redis --context other", "GET /apis/query.hearth.dev/v1alpha1/namespaces/other/", "T0KEN"),
        ("flame app/redis --context away --cluster here", "GET ", "T0KEN"),
        ("flame app/redis --user nobody", "GET ", ""),
        (
            "flame app/redis --as eve --as-group a --as-group b",
            "GET ",
            " impersonate-user=eve impersonate-group=a impersonate-group=b",
        ),
    ] {
        let done = output(folder.path(), line).await;
        assert_eq!(done.status.code(), Some(0), "{line}: {}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(String::from_utf8_lossy(&done.stdout).lines().count(), 2, "{line}");
        let asked = fake.log().pop().unwrap();
        assert!(asked.starts_with(begin) && asked.ends_with(who), "{line}: {asked}");
    }
    assert!(!fake.log()[3].contains("T0KEN"), "{:?}", fake.log());
}

#[tokio::test]
async fn a_cluster_that_cannot_be_had_is_explained() {
    let folder = kubeconfig(Fake::new().serve().await);
    let folder = folder.path();
    check_error(folder, "apps --context away", 1, "error: http://127.0.0.1:1 cannot be reached: ").await;
    let missing = "error: no cluster: failed to read kubeconfig from";
    check_error(folder, "apps --kubeconfig /nowhere/config", 1, missing).await;
    let unknown = "error: no cluster: failed to load current context: none; choose a file by --kubeconfig or KUBECONFIG and a context \
                   by --context (kubectl config get-contexts lists them), or ask a collector without Kubernetes by --server URL";
    check_error(folder, "apps --context none", 1, unknown).await;
    let credentials = "error: your credentials cannot be used: ";
    check_error(folder, "apps --user exec", 1, credentials).await;
    let done = output(folder, "apps --user exec").await;
    let err = String::from_utf8_lossy(&done.stderr);
    assert!(err.contains("login expired") && !err.contains("SECRET"), "{err}");
    check_error(folder, "apps --as-group g", 2, "error: --as-group needs --as").await;
    check_error(folder, "apps --server c:1", 2, "error: --server c:1").await;
    check_error(folder, "apps --server http://u:p@c", 2, "error: --server has a password in it").await;
    check_error(
        folder,
        "apps --server http://127.0.0.1:1 --token-file /none",
        1,
        "error: /none: No such file",
    )
    .await;
    std::fs::write(folder.join("empty"), "two words\n").unwrap();
    let line = format!("apps --server http://127.0.0.1:1 --token-file {}/empty", folder.display());
    check_error(folder, &line, 2, &format!("error: --token-file {}/empty has no token: ", folder.display()))
        .await;
    let in_clear = "error: --token-file would go in the clear to another host: write https://HOST:PORT";
    check_error(folder, "apps --server http://c:1 --token-file /none", 2, in_clear).await;
    check_error(folder, "apps --server https://c:1 --token-file /none", 1, "error: /none: No such file")
        .await;
    check_error(folder, "apps --nonsense", 2, "error: unexpected argument '--nonsense' found").await;
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_not_waited_for_for_ever() {
    let fake = Fake::new();
    fake.hang();
    let address = fake.serve().await;
    let folder = kubeconfig(address);
    let line = format!("apps --server http://{address} --request-timeout 1s");
    let expected = format!("error: no answer within 1 s from http://{address}: ask for a shorter range");
    check_error(folder.path(), &line, 1, &expected).await;
}

#[tokio::test]
async fn a_collector_is_asked_with_the_token_of_a_file() {
    let fake = Fake::new();
    fake.flame("redis", &[]);
    let address = fake.serve().await;
    let folder = kubeconfig(address);
    let token = folder.path().join("token");
    std::fs::write(&token, "from-file\n").unwrap();
    let line = format!("flame app/redis --server http://{address} --token-file {}", token.display());
    assert_eq!(output(folder.path(), &line).await.status.code(), Some(0));
    let asked = fake.log().pop().unwrap();
    assert!(
        asked.starts_with("GET /api/v1/flamegraph?") && asked.ends_with(" authorization=Bearer from-file"),
        "{asked}"
    );
}

#[tokio::test]
async fn a_collector_is_trusted_by_the_certificates_of_a_file() {
    let fake = Fake::new();
    fake.flame("redis", &[]);
    let (address, certificate) = fake.serve_tls().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.crt");
    std::fs::write(&path, certificate).unwrap();
    let line = format!("flame app/redis --server https://{address}");
    let refused = format!("error: https://{address} cannot be reached: ");
    check_error(folder.path(), &line, 1, &refused).await;
    assert_eq!(fake.log(), [""; 0]);
    let done = output(folder.path(), &format!("{line} --ca {}", path.display())).await;
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
}

/// A recording that is interrupted once it has come so far.
async fn interrupted(with: Signal, programmed: bool, name: &str) {
    let fake = Fake::new();
    fake.pod("web-1", "n1", json!({"app": "web"}));
    if !programmed {
        fake.make_policies(json!([condition("Programmed", "False", "Reconciling", "")]));
    }
    let folder = kubeconfig(fake.serve().await);
    let child = plugin(folder.path(), "record pod/web-1 --for 600s --wait 600s")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let looked = || {
        fake.log().iter().any(|line| line.starts_with("GET ") && line.contains("/profilingpolicies/record-"))
    };
    until(looked).await;
    assert_eq!(fake.paths("profilingpolicies").len(), 1);
    signal(&child, with);
    let done =
        tokio::time::timeout(Duration::from_secs(20), child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&done.stderr), format!("error: stopped by {name}\n"));
    assert_eq!(fake.paths("profilingpolicies"), [""; 0]);
}

#[tokio::test]
async fn a_recording_that_is_interrupted_deletes_its_policy() {
    interrupted(Signal::INT, true, "SIGINT").await;
    interrupted(Signal::TERM, true, "SIGTERM").await;
    // A terminal that was closed.
    interrupted(Signal::HUP, true, "SIGHUP").await;
    interrupted(Signal::INT, false, "SIGINT").await;
}

#[tokio::test]
async fn help_has_examples_for_each_command() {
    let folder = tempfile::tempdir().unwrap();
    let commands = ["flame", "top", "diff", "apps", "explain", "status", "record", "open", "completion"];
    for command in commands {
        let help = output(folder.path(), &format!("{command} --help")).await;
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(help.contains("Usage: kubectl hearth ") && help.contains("Examples:"), "{command}: {help}");
    }
    let help = String::from_utf8(output(folder.path(), "--help").await.stdout).unwrap();
    assert!(commands.iter().all(|command| help.contains(&format!("  {command} "))), "{help}");
    let version = String::from_utf8(output(folder.path(), "--version").await.stdout).unwrap();
    assert_eq!(version, format!("kubectl-hearth {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn kubectl_completes_by_the_program_that_is_installed() {
    let folder = tempfile::tempdir().unwrap();
    let done =
        output(folder.path(), &format!("completion bash --install-dir {}", folder.path().display())).await;
    assert_eq!(done.status.code(), Some(0));
    let program = Path::new(env!("CARGO_BIN_EXE_kubectl-hearth")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let script = folder.path().join("kubectl_complete-hearth");
    let done = Command::new(script).args(["flame", "po"]).env("PATH", path).output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout), "pod/\n:6\n");
    for shell in ["bash", "zsh", "fish"] {
        let script = output(folder.path(), &format!("completion {shell}")).await;
        assert!(String::from_utf8_lossy(&script.stdout).contains("kubectl-hearth"), "{shell}");
    }
}

/// Waits for a condition, at most half a minute.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap();
}
