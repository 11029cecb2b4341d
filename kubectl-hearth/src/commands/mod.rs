//! What each command does.

mod apps;
mod completion;
mod diff;
mod explain;
mod flame;
mod judge;
mod open;
mod record;
mod status;
mod top;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kube::Client;

use crate::cli::{Cli, Command, QueryArgs, RangeArgs};
use crate::connect::{self, Connection};
use crate::error::Failure;
use crate::profile::Ask;
use crate::resolve::Selection;
use crate::screen::Screen;
use crate::surface::{Access, Place, Surface};
use crate::target::Target;

/// Whom to ask about what, for one command.
pub struct Session {
    pub(crate) surface: Surface,
    /// The one that was asked for, or the context's.
    pub(crate) namespace: String,
    /// By `-n`.
    pub(crate) namespace_given: bool,
    /// By `-A`.
    pub(crate) all_namespaces: bool,
    pub(crate) hearth_namespace: String,
    /// Unix seconds.
    pub(crate) now: i64,
}

impl Session {
    /// By kubeconfig or `--server`.
    ///
    /// # Errors
    /// There is none, or it cannot be used.
    pub async fn connect(connection: &Connection) -> Result<Self, Failure> {
        Self::new(connect::surface(connection).await?, connection)
    }

    /// With a client that is there already.
    ///
    /// # Errors
    /// The flags make no sense.
    pub fn of_client(client: Client, connection: &Connection) -> Result<Self, Failure> {
        let access = if connection.server.is_some() { Access::Server } else { Access::Kubernetes };
        let url = connection.server.clone().unwrap_or_else(|| "the API server".to_owned());
        Self::new(Surface { client, access, url, timeout: Duration::from_secs(30) }, connection)
    }

    fn new(surface: Surface, connection: &Connection) -> Result<Self, Failure> {
        let given = connection.namespace.clone();
        for namespace in given.iter().chain([&connection.hearth_namespace]) {
            if !is_namespace(namespace) {
                return Err(Failure::Usage(format!("{namespace:?} is no name of a namespace")));
            }
        }
        Ok(Self {
            namespace_given: given.is_some(),
            namespace: given.unwrap_or_else(|| surface.client.default_namespace().to_owned()),
            all_namespaces: connection.all_namespaces,
            hearth_namespace: connection.hearth_namespace.clone(),
            now: now(),
            surface,
        })
    }

    /// Where apps are looked for. A collector alone has no namespaces to ask below.
    pub(crate) fn place(&self) -> Place {
        if self.all_namespaces || self.surface.access == Access::Server {
            Place::Cluster
        } else {
            Place::Namespace(self.namespace.clone())
        }
    }

    /// A question of one target by the flags that most commands have.
    pub(crate) async fn ask_about(
        &self,
        target: &Target,
        range: &RangeArgs,
        query: &QueryArgs,
    ) -> Result<Ask, Failure> {
        let range = range.range(self.now)?;
        let selection = self.resolve(target).await?;
        let selection = selection.narrowed(query.app.as_deref(), query.filter.as_deref());
        Ok(self.ask(selection, range, &query.event))
    }

    pub(crate) fn ask(&self, selection: Selection, range: crate::time::Range, event: &str) -> Ask {
        Ask { selection, range, event: event.to_owned(), grouped: true }
    }

    /// That a command needs a cluster, if there is none.
    pub(crate) fn need_kubernetes(&self, command: &str) -> Result<(), Failure> {
        match self.surface.access {
            Access::Kubernetes => Ok(()),
            Access::Server => Err(Failure::NeedsKubernetes(command.to_owned())),
        }
    }
}

/// Does what the command line says.
///
/// # Errors
/// Why it could not.
pub async fn run(cli: Cli, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let Cli { connection, command } = cli;
    match command {
        // These ask nobody.
        Command::Completion(arguments) => completion::completion(&arguments, screen),
        Command::Complete { words } => completion::complete(&words, screen),
        command => run_in(&Session::connect(&connection).await?, command, screen).await,
    }
}

/// Does what a command says, with a connection that is there already.
///
/// # Errors
/// Why it could not.
pub async fn run_in(session: &Session, command: Command, screen: &mut Screen<'_>) -> Result<(), Failure> {
    match command {
        Command::Flame(arguments) => flame::flame(session, &arguments, screen).await,
        Command::Top(arguments) => top::top(session, &arguments, screen).await,
        Command::Diff(arguments) => diff::diff(session, &arguments, screen).await,
        Command::Apps(arguments) => apps::apps(session, &arguments, screen).await,
        Command::Explain(arguments) => explain::explain(session, &arguments, screen).await,
        Command::Status => status::status(session, screen).await,
        Command::Record(arguments) => record::record(session, &arguments, screen).await,
        Command::Open(arguments) => open::open(session, &arguments, screen).await,
        Command::Completion(arguments) => completion::completion(&arguments, screen),
        Command::Complete { words } => completion::complete(&words, screen),
    }
}

/// Now, in Unix seconds.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A DNS label: goes into paths as it is.
fn is_namespace(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}
