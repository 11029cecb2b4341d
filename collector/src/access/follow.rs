//! Follows who the API server's front proxy is: the ConfigMap `kube-system/extension-apiserver-authentication`.
//!
//! By asking once a minute, and at once when a certificate was not believed: a new CA is published long before it
//! signs, and a watch could stand still without anybody knowing.

use std::time::Duration;

use hearth_identity::api_server;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use tracing::{info, warn};

use super::front_proxy::{Settings, Trusted};

/// Where the API server says it.
pub const CONFIG_MAP: &str = "extension-apiserver-authentication";
const NAMESPACE: &str = "kube-system";

/// How often the API server is asked.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// While all is well.
    pub usual: Duration,
    /// Between two at least, whatever happens, and after a failure.
    pub least: Duration,
    /// How long an answer may take.
    pub patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            usual: Duration::from_secs(60),
            least: Duration::from_secs(5),
            patience: Duration::from_secs(10),
        }
    }
}

/// What the API server answered.
enum Found {
    /// This one.
    FrontProxy(Settings),
    /// There is none, and why.
    None(String),
    /// It did not answer: whoever was trusted still is.
    Away(String),
}

/// Keeps `trusted` as the API server has it, until it is dropped.
pub async fn follow(client: Client, trusted: Trusted, pace: Pace) {
    let config_maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    let mut follower = Follower { trusted: trusted.clone(), known: None, said: None };
    loop {
        let wait = match ask(&config_maps, pace.patience).await {
            Found::Away(why) => {
                follower.away(&why);
                pace.least
            }
            found => {
                follower.found(found);
                pace.usual
            }
        };
        tokio::time::sleep(pace.least).await;
        let rest = wait.saturating_sub(pace.least);
        let _ = tokio::time::timeout(rest, trusted.doubted()).await;
    }
}

async fn ask(config_maps: &Api<ConfigMap>, patience: Duration) -> Found {
    match tokio::time::timeout(patience, config_maps.get_opt(CONFIG_MAP)).await {
        Ok(Ok(Some(config_map))) => {
            let data = config_map.data.unwrap_or_default();
            Settings::parse(&data).map_or_else(|error| Found::None(error.to_string()), Found::FrontProxy)
        }
        Ok(Ok(None)) => Found::None("it does not exist yet".to_owned()),
        Ok(Err(kube::Error::Api(status))) if status.code == 401 || status.code == 403 => {
            Found::Away(format!(
                "may not be read: bind the role extension-apiserver-authentication-reader in {NAMESPACE} ({})",
                status.message
            ))
        }
        Ok(Err(error)) => Found::Away(format!("cannot be read: {}", api_server::said(&error))),
        Err(_) => Found::Away(format!("cannot be read: no answer within {patience:?}")),
    }
}

struct Follower {
    trusted: Trusted,
    /// Whom the API server named last; `None` while it names nobody.
    known: Option<Settings>,
    /// What was logged last: once, not once a minute.
    said: Option<String>,
}

impl Follower {
    fn found(&mut self, found: Found) {
        match found {
            Found::FrontProxy(settings) if self.known.as_ref() == Some(&settings) => self.said = None,
            Found::FrontProxy(settings) => match self.trusted.set(settings.clone()) {
                Ok(()) => {
                    info!("requests of the API server's front proxy are believed");
                    (self.known, self.said) = (Some(settings), None);
                }
                Err(error) => self.nobody(&error.to_string()),
            },
            Found::None(why) => self.nobody(&why),
            Found::Away(why) => self.away(&why),
        }
    }

    fn nobody(&mut self, why: &str) {
        self.known = None;
        let why = of_config_map(why);
        self.trusted.forget(&why);
        self.say(why);
    }

    fn away(&mut self, why: &str) {
        let why = of_config_map(why);
        if self.known.is_none() {
            self.trusted.forget(&why);
        }
        self.say(why);
    }

    fn say(&mut self, why: String) {
        if self.said.as_ref() == Some(&why) {
            return;
        }
        match &self.known {
            None => warn!("requests through the API server are refused, bearer tokens are taken: {why}"),
            Some(_) => warn!("the API server's front proxy is believed as before: {why}"),
        }
        self.said = Some(why);
    }
}

fn of_config_map(why: &str) -> String {
    format!("the ConfigMap {NAMESPACE}/{CONFIG_MAP}: {why}")
}
