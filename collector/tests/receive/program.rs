//! The program itself: arguments, start, stop.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use hearth_tls::testing::Ca;

use crate::harness::{engine_program, free_address};

fn collector(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearth-collector"));
    command.args(arguments).env("NO_COLOR", "1");
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

#[test]
fn schema_is_printed() {
    let output = collector(&["schema", "--retention-raw", "5h"]).output().unwrap();
    assert!(output.status.success());
    assert!(text(&output).contains("TTL time + toIntervalSecond(18000)"), "{}", text(&output));
    let output = collector(&["schema", "--replicated", "--clickhouse-cluster", "prod"]).output().unwrap();
    assert!(output.status.success());
    assert!(text(&output).contains("profile.stacks ON CLUSTER 'prod'"), "{}", text(&output));
}

#[test]
fn usage_errors_exit_with_2() {
    for arguments in [
        &[] as &[&str],
        &["--nosuch"],
        &["--data-dir", "d", "--http", "0.0.0.0:1"],
        &["--data-dir", "d", "--retention-raw", "30d"],
        &["schema", "--retention-raw", "30d"],
        &["schema", "--replicated"],
    ] {
        let output = collector(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output));
    }
}

/// The program with an engine of its own.
struct Running {
    child: Child,
    http: String,
    engine: String,
    client: reqwest::Client,
}

impl Running {
    /// Starts it and waits until it is ready.
    async fn start(data_dir: &Path, arguments: &[&str]) -> Self {
        Self::start_in(data_dir, arguments, &[]).await
    }

    /// As [`Running::start`], with these variables.
    async fn start_in(data_dir: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        engine_program();
        let [http, grpc, engine] = [free_address(), free_address(), free_address()].map(|a| a.to_string());
        let mut command = collector(&["--http", &http, "--grpc", &grpc, "--clickhouse-http", &engine]);
        // Of an engine that somebody runs beside ours.
        let password = data_dir.with_file_name("password");
        std::fs::write(&password, "secret").unwrap();
        command.env("HEARTH_CLICKHOUSE_PASSWORD_FILE", password).envs(environment.iter().copied());
        let mut child =
            command.arg("--data-dir").arg(data_dir).args(arguments).stderr(Stdio::inherit()).spawn().unwrap();
        let client = reqwest::Client::new();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            assert!(child.try_wait().unwrap().is_none(), "it ended");
            assert!(tokio::time::Instant::now() < deadline, "it does not get ready");
            match client.get(format!("http://{http}/readyz")).send().await {
                Ok(response) if response.status().is_success() => break,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        Self { child, http, engine, client }
    }

    /// Status and text of the answer to `GET path` with these headers.
    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let mut request = self.client.get(format!("http://{}{path}", self.http));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// The answer to SQL, with the password beside the data.
    async fn sql(&self, data_dir: &Path, statement: &str) -> String {
        let password = std::fs::read_to_string(data_dir.join("clickhouse-password")).unwrap();
        let request = self.client.post(format!("http://{}/", self.engine));
        let request = request.header("X-ClickHouse-Key", password.trim()).body(statement.to_owned());
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{statement}: {}", answer.text().await.unwrap());
        answer.text().await.unwrap()
    }

    /// Asks it to end, its engine with it.
    fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    /// Its exit code after SIGTERM.
    async fn stop(self) -> Option<i32> {
        let mut ending = self;
        ending.terminate();
        tokio::task::spawn_blocking(move || ending.child.wait()).await.unwrap().unwrap().code()
    }
}

impl Drop for Running {
    /// A failed test leaves no engine behind.
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.terminate();
            self.child.wait().unwrap();
        }
    }
}

/// Starts with an engine of its own, answers, asks for the token, and ends with
/// 0 at SIGTERM, the engine with it.
#[tokio::test(flavor = "multi_thread")]
async fn starts_answers_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "a-token-of-sufficient-length\n").unwrap();
    let data_dir = dir.path().join("data");
    let machines = free_address().to_string();
    let arguments = ["--token-file", token.to_str().unwrap(), "--metrics", &machines];
    let collector = Running::start(&data_dir, &arguments).await;
    let bearer = ("authorization", "Bearer a-token-of-sufficient-length");

    let (status, text) = collector.get("/api/v1/apps", &[]).await;
    let needed = r#"{"error":"a bearer token is needed: send the header Authorization: Bearer TOKEN"}"#;
    assert_eq!((status, text.as_str()), (401, needed));
    assert_eq!(collector.get("/api/v1/apps", &[bearer]).await.0, 200);
    let (_, metrics) = collector.get("/metrics", &[bearer]).await;
    assert!(metrics.contains("hearth_collector_rows_total 0"), "{metrics}");
    // Whoever knows the token may use any name, such as a proxy's, but not send a browser.
    assert_eq!(collector.get("/api/v1/apps", &[bearer, ("host", "hearth.example")]).await.0, 200);
    assert_eq!(collector.get("/api/v1/apps", &[bearer, ("origin", "http://evil.example")]).await.0, 403);
    // A port for machines tells nothing that was profiled.
    for (path, status) in
        [("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/api/v1/apps", 404), ("/", 404)]
    {
        let answer = collector.client.get(format!("http://{machines}{path}")).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path}");
    }

    assert_eq!(collector.stop().await, Some(0));
    // The engine has given its directory back.
    let lock = std::fs::File::open(data_dir.join("hearth-clickhouse.lock")).unwrap();
    lock.try_lock().unwrap();
}

/// Without a token, what a page on the web makes a browser send is refused, also
/// by a name that it let point to this machine.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Running::start(&dir.path().join("data"), &[]).await;
    for (header, reason) in [
        (("origin", "http://evil.example"), "a page of http://evil.example made the browser send this"),
        (("host", "evil.example:20416"), "Host is evil.example:20416: use localhost, or the address itself"),
    ] {
        let answer = collector.get("/api/v1/apps", &[header]).await;
        assert_eq!(answer, (403, format!(r#"{{"error":"{reason}"}}"#)));
        // As every error of the API that was asked.
        let answer = collector.get("/api/v1/flamegraph?format=pprof", &[header]).await;
        assert_eq!(answer, (403, format!("{reason}\n")));
        let (status, text) = collector.get("/v1/profile/ProfileTracing", &[header]).await;
        let envelope =
            format!(r#"{{"OPT_STATUS":"FAIL","DESCRIPTION":"{reason}","result":null,"debug":null}}"#);
        assert_eq!((status, text), (403, envelope));
    }
    let port = collector.http.rsplit(':').next().unwrap();
    let localhost = format!("localhost:{port}");
    assert_eq!(collector.get("/api/v1/apps", &[("host", &localhost)]).await.0, 200);
    assert_eq!(collector.stop().await, Some(0));
}

/// SQL is asked with the password that the collector left beside its data, by
/// whoever may read it, also after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn sql_is_asked_with_the_password_beside_the_data() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    for _ in 0..2 {
        let collector = Running::start(&data_dir, &[]).await;
        let password = std::fs::read_to_string(data_dir.join("clickhouse-password")).unwrap();
        let ask = |password: &str| {
            let request = collector.client.post(format!("http://{}/", collector.engine));
            request.header("X-ClickHouse-Key", password).body("SELECT count() FROM profile.in_process").send()
        };
        assert_eq!(ask("").await.unwrap().status().as_u16(), 403);
        let answer = ask(password.trim()).await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "0\n");
        assert_eq!(collector.stop().await, Some(0));
    }
}

/// A builder that dies with an hour filled and not swapped has done nothing, and
/// the next one builds it.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollup_survives_its_builder() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let arguments = ["--rollup-check", "1s"];
    let stop_at = [(hearth_kill_points::VARIABLE, "collector-during-rebuild")];
    let mut killed = Running::start_in(&data_dir, &arguments, &stop_at).await;
    let rows = "INSERT INTO profile.in_process_local (time, app_service, sample_count, profile_value) \
                SELECT toStartOfHour(now()) - 7200 + number, 'a', 1, number FROM numbers(100)";
    killed.sql(&data_dir, rows).await;
    let stat = format!("/proc/{}/stat", killed.child.id());
    while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let count = "SELECT count(), sum(profile_value) FROM profile.in_process_1m";
    assert_eq!(killed.sql(&data_dir, count).await, "0\t0\n");
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();

    let next = Running::start(&data_dir, &arguments).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while next.sql(&data_dir, count).await.starts_with('0') {
        assert!(tokio::time::Instant::now() < deadline, "it is not built");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(next.sql(&data_dir, count).await.ends_with("\t4950\n"));
    let (_, metrics) = next.get("/metrics", &[]).await;
    assert!(metrics.contains("hearth_collector_rollups_built_total{step=\"Minute\"} 1"), "{metrics}");
    assert_eq!(next.stop().await, Some(0));
}

/// A ClickHouse that cannot be the store is an error with its remedy, at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_clickhouse_that_is_too_old_ends_the_start() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let old = axum::Router::new().fallback(|| async { "23.8.1.1\t0\tdefault\n" });
    tokio::spawn(axum::serve(listener, old).into_future());
    let [http, grpc] = [free_address(), free_address()].map(|address| address.to_string());
    let mut command = collector(&["--http", &http, "--grpc", &grpc, "--clickhouse-url", &url]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(
        said.contains(&format!("--clickhouse-url {url}: ClickHouse 23.8.1.1 is too old: 25.8")),
        "{said}"
    );
}

/// An API server that nobody listens for.
const KUBECONFIG: &str = "\
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
";

#[tokio::test]
async fn over_https_the_api_server_says_who_is_let_in() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let ca = Ca::new("hearth");
    let pair = ca.server(&["127.0.0.1"]);
    let (certificate, key) = (file("tls.crt", &pair.certificate), file("tls.key", &pair.key));
    let (kubeconfig, https) = (file("kubeconfig", KUBECONFIG), free_address().to_string());
    let environment = [("KUBECONFIG", kubeconfig.as_str())];
    let mut arguments = vec!["--https", &https, "--tls-cert", &certificate, "--tls-key", &key];

    let ports = ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--data-dir", "d"];
    let output = collector(&arguments).args(ports).env("KUBECONFIG", file("none", "")).output().unwrap();
    let expected = "--https asks the API server who may read: cannot find the API server: run in a pod with a service \
                    account, or set KUBECONFIG";
    assert!(output.status.code() == Some(1) && text(&output).contains(expected), "{}", text(&output));

    arguments.extend(["--cluster", "c1"]);
    let running = Running::start_in(&dir.path().join("data"), &arguments, &environment).await;
    let ca = reqwest::Certificate::from_pem(ca.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().use_rustls_tls().add_root_certificate(ca).build().unwrap();
    for (path, status, part) in [
        ("/apis/query.hearth.dev/v1alpha1", 200, "APIResourceList"),
        ("/readyz", 200, "the ConfigMap kube-system/extension-apiserver-authentication"),
        ("/api/v1/apps", 503, "the API server does not say who you are"),
    ] {
        let answer = client.get(format!("https://{https}{path}")).bearer_auth("token").send().await.unwrap();
        let (answered, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        assert!(answered == status && text.contains(part), "{path}: {answered} {text}");
    }
    let (_, metrics) = running.get("/metrics", &[]).await;
    let counted = "hearth_collector_https_refused_total{reason=\"ApiServerAway\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
    assert_eq!(running.stop().await, Some(0));
}
