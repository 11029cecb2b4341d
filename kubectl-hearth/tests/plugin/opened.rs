//! `open`: who is answered, and with what.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::binary::{kubeconfig, plugin, signal};
use crate::fake::Fake;
use serde_json::json;

struct Opened {
    child: Child,
    host: String,
    secret: String,
}

async fn opened(mut command: Command) -> Opened {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    let (host, secret) = line.trim_end().strip_prefix("http://").unwrap().split_once('/').unwrap();
    Opened { host: host.to_owned(), secret: secret.trim_end_matches('/').to_owned(), child }
}

impl Opened {
    /// The whole answer as text.
    async fn ask(&self, line: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(&self.host).await.unwrap();
        let line = line.replace("SECRET", &self.secret);
        let host = if headers.contains("Host:") { String::new() } else { format!("Host: {}\r\n", self.host) };
        let request = format!("{line} HTTP/1.1\r\n{host}{headers}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn check(&self, line: &str, headers: &str, status: &str, has: &str) {
        let answer = self.ask(line, headers).await;
        let begin = format!("HTTP/1.1 {status}");
        assert!(answer.starts_with(&begin) && answer.contains(has), "{line} {headers}: {answer}");
    }
}

#[tokio::test]
async fn the_page_and_the_api_are_answered_with_the_users_rights() {
    let fake = Fake::new();
    fake.answer(
        "apps",
        &[],
        json!({"apps": [{"name": "redis", "samples": 3, "value": 1_500_000}], "notes": ["noted"]}),
    );
    fake.bytes("flamegraph", &["app_service=redis", "format=html"], b"<page>");
    fake.values("pod", &["limit=3"], &[("web-1", 1)]);
    let address = fake.serve().await;
    let folder = kubeconfig(address);
    let mut open = opened(plugin(folder.path(), "open")).await;
    open.check(
        "GET /SECRET/",
        "",
        "200",
        "<a href=\"api/v1/flamegraph?app_service=redis&amp;format=html\">redis</a>",
    )
    .await;
    open.check("GET /SECRET/api/v1/flamegraph?app_service=redis&format=html", "", "200", "<page>").await;
    open.check(
        "GET /SECRET/api/v1/flamegraph?app_service=redis&format=html",
        "",
        "200",
        "hearth-note: of one node",
    )
    .await;
    open.check("GET /SECRET/api/v1/tags/pod/values?limit=3", "", "200", "web-1").await;
    let log = fake.log();
    assert!(
        log.iter().all(|line| line.contains("/namespaces/shop/profiles/") && line.contains("Bearer T0KEN")),
        "{log:?}"
    );
    assert!(log.iter().any(|line| line.contains("/values?tag=pod&limit=3")), "{log:?}");

    // Who does not know the path, or comes from elsewhere, gets nothing; nothing else is forwarded.
    let before = fake.log().len();
    open.check("GET /", "", "404", "kubectl hearth open").await;
    open.check("GET /api/v1/apps", "", "404", "").await;
    open.check("GET /SECRETx/", "", "404", "").await;
    open.check("GET /SECRET/../../api/v1/pods", "", "404", "").await;
    open.check("GET /SECRET/api/v1/pods", "", "404", "").await;
    open.check("GET /SECRET/api/v1/tags/a/b/values", "", "404", "").await;
    open.check("POST /SECRET/api/v1/apps", "", "405", "").await;
    open.check("GET /SECRET/api/v1/apps", "Host: evil.example\r\n", "403", "for you alone").await;
    open.check("GET /SECRET/api/v1/apps", "Sec-Fetch-Site: cross-site\r\n", "403", "for you alone").await;
    open.check("GET /SECRET/api/v1/apps", "Sec-Fetch-Site: same-site\r\n", "403", "for you alone").await;
    assert_eq!(fake.log().len(), before);

    signal(&open.child, rustix::process::Signal::INT);
    assert_eq!(open.child.wait().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn what_the_api_server_refuses_is_said_before_the_port_is_opened() {
    let fake = Fake::new();
    fake.fail("/apis/query.hearth.dev", 403, "eve may not");
    let folder = kubeconfig(fake.serve().await);
    let done = plugin(folder.path(), "open").output().await.unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&done.stderr).starts_with("error: you may not do this: eve may not; "));
    assert!(done.stdout.is_empty());
}
