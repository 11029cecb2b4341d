//! Who the front proxy is, as the API server publishes it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hearth_collector::access::follow::{Pace, follow};
use hearth_tls::testing::Ca;
use kube::client::Body;
use serde_json::{Value, json};

use crate::port::{PROXY, Port, get, until};

const PATH: &str = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
const PACE: Pace = Pace {
    usual: Duration::from_millis(50),
    least: Duration::from_millis(5),
    patience: Duration::from_secs(5),
};

/// An API server that has one ConfigMap, or answers with a status.
#[derive(Clone)]
struct ApiServer(Arc<Mutex<Result<Value, u16>>>);

impl ApiServer {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Err(404))))
    }

    fn set(&self, answer: Result<Value, u16>) {
        *self.0.lock().unwrap() = answer;
    }

    fn client(&self) -> kube::Client {
        let answer = self.0.clone();
        let service = tower::service_fn(move |request: axum::http::Request<Body>| {
            assert_eq!(request.uri().path(), PATH);
            let (code, body) = match answer.lock().unwrap().clone() {
                Ok(config_map) => (200, config_map),
                Err(code) => {
                    let reason = if code == 404 { "NotFound" } else { "Forbidden" };
                    let status = json!({
                        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
                        "message": "no",
                    });
                    (code, status)
                }
            };
            let body = Body::from(body.to_string().into_bytes());
            let response = axum::http::Response::builder().status(code).body(body).unwrap();
            async move { Ok::<_, std::io::Error>(response) }
        });
        kube::Client::new(service, "default")
    }
}

fn config_map(ca: &Ca) -> Value {
    json!({
        "kind": "ConfigMap", "apiVersion": "v1",
        "metadata": { "name": "extension-apiserver-authentication", "namespace": "kube-system" },
        "data": {
            "requestheader-allowed-names": format!("[{PROXY:?}]"),
            "requestheader-client-ca-file": ca.pem(),
            "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
            "requestheader-group-headers": "[\"X-Remote-Group\"]",
            "requestheader-username-headers": "[\"X-Remote-User\"]",
        },
    })
}

/// What a new connection with a certificate of this CA is answered; `None` if it does not come about.
async fn asked(port: &Port, ca: &Ca) -> Option<u16> {
    let url = port.url("/apis/query.hearth.dev/v1alpha1/profiles/tags");
    let request = port.client(Some(&ca.client(PROXY))).get(url).header("x-remote-user", "jane");
    request.send().await.ok().map(|response| response.status().as_u16())
}

#[tokio::test]
async fn the_front_proxy_is_who_the_api_server_says_it_is_now() {
    let (port, api_server) = (Port::start("follow").await, ApiServer::new());
    port.api.grant("jane", None, None);
    let (name, value) = port.user("jane");
    tokio::spawn(follow(api_server.client(), port.trusted.clone(), PACE));
    let ready = async |part: &str| {
        until(part, async || port.get("/readyz", &[]).await.text.contains(part)).await;
    };

    ready("the ConfigMap kube-system/extension-apiserver-authentication: it does not exist yet").await;
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    assert_eq!(asked(&port, &old).await, Some(401));
    // Tokens do not need it.
    assert_eq!(port.get("/api/v1/tags", &[(name, &value)]).await.status, 200);

    api_server.set(Err(403));
    ready("may not be read: bind the role extension-apiserver-authentication-reader in kube-system (no)")
        .await;

    api_server.set(Ok(config_map(&old)));
    until("the old one is believed", async || asked(&port, &old).await == Some(200)).await;
    assert_eq!(port.get("/readyz", &[]).await.text, "ok\n");
    assert_eq!(asked(&port, &new).await, None);

    // An API server that does not answer has not changed its mind.
    let proxy = port.client(Some(&old.client(PROXY)));
    let url = port.url("/apis/query.hearth.dev/v1alpha1/profiles/tags");
    api_server.set(Err(500));
    for _ in 0..20 {
        assert_eq!(get(&proxy, &url, &[("x-remote-user", "jane")]).await.status, 200);
    }

    api_server.set(Ok(config_map(&new)));
    until("the new one is believed", async || asked(&port, &new).await == Some(200)).await;
    assert_eq!(asked(&port, &old).await, None);

    api_server.set(Ok(json!({ "kind": "ConfigMap", "apiVersion": "v1", "metadata": {}, "data": {} })));
    ready("it has no requestheader-client-ca-file: the API server is not set up for aggregated APIs").await;
    assert_eq!(asked(&port, &new).await, Some(401));
}
