//! Why there is no answer, each with what to do next.

use std::error::Error;
use std::io;

use hearth_program::{USAGE, with_causes};
use kube::client::AuthError;

/// Characters of what another program said.
const SHOWN_CHARS: usize = 500;

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// There is no kubeconfig, or it does not lead to a cluster.
    #[error(
        "no cluster: {0}; choose a file by --kubeconfig or KUBECONFIG and a context by --context \
         (kubectl config get-contexts lists them), or ask a collector without Kubernetes by --server URL"
    )]
    NoCluster(String),
    /// Nobody answers there.
    #[error("{url} cannot be reached: {cause}; {remedy}")]
    Unreachable {
        /// Of the API server or the collector.
        url: String,
        /// What the library says.
        cause: String,
        /// What to look at.
        remedy: &'static str,
    },
    /// No answer in time.
    #[error(
        "no answer within {seconds} s from {url}: ask for a shorter range, or give it more time by --request-timeout"
    )]
    Timeout {
        /// As above.
        url: String,
        /// `--request-timeout`.
        seconds: u64,
    },
    /// The credentials could not be had.
    #[error(
        "your credentials cannot be used: {0}; try kubectl get pods, and log in again if that fails as well"
    )]
    Credentials(String),
    /// The other side does not know who asks.
    #[error("{url} does not accept your credentials ({said}); {remedy}")]
    Unauthorized {
        /// As above.
        url: String,
        /// Its own words.
        said: String,
        /// How to bring others.
        remedy: &'static str,
    },
    /// The other side knows, and says no.
    #[error("you may not do this: {said}; {remedy}")]
    Forbidden {
        /// Its own words.
        said: String,
        /// Whom to ask for what.
        remedy: String,
    },
    /// The cluster has no such API.
    #[error(
        "this cluster has no API {0}: install Hearth in it, or choose another cluster by --context \
         (kubectl get apiservices shows which APIs there are)"
    )]
    NotInstalled(&'static str),
    /// The API server has nobody to pass the question to.
    #[error(
        "the collector does not answer ({0}): see kubectl get apiservice v1alpha1.query.hearth.dev, and whether \
         the collector's pod runs: kubectl hearth status"
    )]
    CollectorAway(String),
    /// The collector says what is wrong with the question, or with itself.
    #[error("{0}")]
    Refused(String),
    /// What came is not what was expected.
    #[error("{url} answers {problem}; is it Hearth's, and of about this version ({})?", env!("CARGO_PKG_VERSION"))]
    Unexpected {
        /// Of the request.
        url: String,
        /// What came instead.
        problem: String,
    },
    /// There is no such namespace.
    #[error("namespace {0} does not exist: kubectl get namespaces lists them, -n chooses one")]
    NoNamespace(String),
    /// There is no such object, and nothing stored of one either.
    #[error("{0}")]
    NoObject(String),
    /// A name that is not enough.
    #[error("{0}")]
    Several(String),
    /// There is an answer, and nothing in it.
    #[error("nothing to show for {of}: {reason}{next}")]
    Empty {
        /// What was asked for.
        of: String,
        /// The API's own words.
        reason: String,
        /// Empty, or `; ` and what to do.
        next: String,
    },
    /// A target that only a cluster can tell what it is.
    #[error(
        "{0} needs Kubernetes, and --server asks a collector alone: use app/NAME, node/NAME or total, with --filter where less is meant"
    )]
    NeedsKubernetes(String),
    /// The recording did not begin, or not end as it should.
    #[error("{0}")]
    Recording(String),
    /// The user, or the system, has stopped it.
    #[error("stopped by {0}")]
    Stopped(&'static str),
    /// A file.
    #[error("{path}: {cause}")]
    File {
        /// Its path as given.
        path: String,
        /// What the system says.
        cause: io::Error,
    },
    /// Standard output.
    #[error("standard output cannot be written to: {0}")]
    Output(#[source] io::Error),
    /// The terminal.
    #[error(
        "the flame graph cannot be shown in this terminal: {0}; choose a format by -o, such as -o folded"
    )]
    Terminal(String),
    /// The local port of `open`.
    #[error("{0}")]
    Port(String),
}

impl Failure {
    /// The exit code: 2 of a command line that makes no sense, else 1.
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::NeedsKubernetes(_) => USAGE,
            _ => 1,
        }
    }
}

/// What a way to credentials said, if that is what failed. What a program printed on its standard output is left
/// out, as it may be a token, and so is its command, which comes with its environment.
pub(crate) fn credentials(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<AuthError>() {
            Some(AuthError::AuthExecRun { cmd: _, out }) => {
                let said = String::from_utf8_lossy(&out.stderr);
                let said: String = said.trim().chars().take(SHOWN_CHARS).collect();
                return Some(format!("the program of the kubeconfig ended with {}: {said}", out.status));
            }
            Some(AuthError::AuthExecParse(_)) => {
                return Some("what the program of the kubeconfig printed is no ExecCredential".to_owned());
            }
            Some(auth) => return Some(with_causes(auth)),
            None => {}
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{ExitStatus, Output};

    use super::*;

    #[test]
    fn a_token_on_standard_output_is_not_repeated() {
        let out = Output {
            status: ExitStatus::from_raw(256),
            stdout: b"SECRET".to_vec(),
            stderr: b"login expired\n".to_vec(),
        };
        let error = kube::Error::Auth(AuthError::AuthExecRun {
            cmd: "KEY=SECRET get-token".to_owned(),
            out: Box::new(out),
        });
        let said = credentials(&error).unwrap_or_default();
        assert_eq!(said, "the program of the kubeconfig ended with exit status: 1: login expired");
    }

    #[test]
    fn only_a_command_line_that_makes_no_sense_is_two() {
        assert_eq!(Failure::Usage(String::new()).code(), 2);
        assert_eq!(Failure::NeedsKubernetes("pod/x".to_owned()).code(), 2);
        assert_eq!(Failure::Refused(String::new()).code(), 1);
    }
}
