//! What each of Hearth's programs does in the same way: log, be stopped, refuse to listen, say what went wrong,
//! tell this machine from others.

#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{self, IsTerminal as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The exit code of a command line that makes no sense; clap's own.
pub const USAGE: u8 = 2;

/// A gRPC port that everybody on the network could speak to, or listen in on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "--grpc {address} is not a loopback address, and {lacking}: give {give}, listen on 127.0.0.1, \
     or add --grpc-insecure on a network that you trust"
)]
pub struct GrpcOpen {
    address: SocketAddr,
    lacking: &'static str,
    give: &'static str,
}

/// A gRPC port, as the command line asks for it.
#[derive(Clone, Copy, Debug)]
pub struct GrpcPort {
    /// `--grpc`.
    pub address: SocketAddr,
    /// Whether it has a certificate.
    pub tls: bool,
    /// Whether agents must prove their service account, `--agent-account`.
    pub account: bool,
    /// `--grpc-insecure`.
    pub insecure: bool,
}

/// Whether there may be such a port: beyond the machine with a certificate and proven agents, or with
/// `--grpc-insecure`.
///
/// # Errors
/// There may not.
pub fn check_grpc(port: GrpcPort) -> Result<(), GrpcOpen> {
    let GrpcPort { address, tls, account, insecure } = port;
    let (lacking, give) = match (tls, account) {
        _ if insecure || address.ip().is_loopback() => return Ok(()),
        (true, true) => return Ok(()),
        (false, true) => ("nothing is encrypted there", "--tls-cert and --tls-key"),
        (true, false) => ("agents need not prove who they are", "--agent-account"),
        (false, false) => (
            "nothing is encrypted there nor need agents prove who they are",
            "--tls-cert, --tls-key and --agent-account",
        ),
    };
    Err(GrpcOpen { address, lacking, give })
}

/// Whether what is sent to a URL's host stays on this machine, so that a secret may go in the clear. An address of IPv6 may have
/// its brackets.
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    address.map_or_else(
        |_| host.eq_ignore_ascii_case("localhost"),
        |address| address.to_canonical().is_loopback(),
    )
}

/// A time as flags have it: a whole number of seconds, minutes, hours or days, such as `90s`, `15m`, `72h` or `14d`.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit).map(Duration::from_secs)
}

/// What went wrong, with its causes, without what they repeat.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    and_causes(error.to_string(), error)
}

/// The same, of an error that is told by another text than its own.
pub fn and_causes(mut text: String, error: &(dyn Error + 'static)) -> String {
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text += &format!(": {said}");
        }
        cause = error.source();
    }
    text
}

/// kube says of each request that it failed; what matters of that is said where it is known for how long. Whatever
/// level is asked for: a cluster sets `info`.
const QUIET: &str = "kube_client::client::builder=off";

/// Logs to standard error what `HEARTH_LOG` asks for, or from `info` on. Once, at the start.
pub fn start_log() {
    let filter = EnvFilter::try_from_env("HEARTH_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter.add_directive(QUIET.parse().expect("a directive of ours")))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// Waits for SIGTERM or SIGINT, and says which came. From this call on, not only from the first poll, neither
/// ends the process.
///
/// # Errors
/// The signals cannot be caught.
pub fn asked_to_stop() -> io::Result<impl Future<Output = &'static str> + Send> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is given of "tls", "account" and "insecure".
    fn check(address: &str, given: &str, expected: &str) {
        let has = |what| given.split(' ').any(|given| given == what);
        let address = address.parse().expect("an address");
        let port = GrpcPort { address, tls: has("tls"), account: has("account"), insecure: has("insecure") };
        let checked = check_grpc(port).map_or_else(|refused| refused.to_string(), |()| "ok".to_owned());
        assert_eq!(checked, expected, "{address} {given}");
    }

    #[test]
    fn a_time_is_a_number_and_a_unit() {
        let seconds = |text| duration(text).map(|duration| duration.as_secs());
        assert_eq!(["90s", "15m", "72h", "14d"].map(seconds), [90, 900, 259_200, 1_209_600].map(Some));
        for text in ["", "s", "7", "1.5h", "-1s", "1 h", "1w", "1ü", "18446744073709551615d"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_host_is_this_machine_by_its_name_or_address() {
        for host in ["127.0.0.1", "127.8.0.1", "localhost", "LocalHost", "::1", "[::1]", "[::ffff:127.0.0.1]"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "10.0.0.7",
            "0.0.0.0",
            "[::]",
            "[2001:db8::1]",
            "c",
            "localhost.example",
            "127.0.0.1.example",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn causes_follow_and_what_is_repeated_does_not() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Link(&'static str, #[source] Option<Box<Link>>);

        let link = |text, cause: Option<Link>| Link(text, cause.map(Box::new));
        let error = link("cannot ask: refused", Some(link("refused", Some(link("port 1", None)))));
        assert_eq!(with_causes(&error), "cannot ask: refused: port 1");
    }

    #[test]
    fn beyond_the_machine_only_encrypted_and_with_proven_agents() {
        check("127.0.0.1:1", "", "ok");
        check("[::1]:1", "", "ok");
        check("0.0.0.0:1", "tls account", "ok");
        check(
            "0.0.0.0:1",
            "",
            "--grpc 0.0.0.0:1 is not a loopback address, and nothing is encrypted there nor need agents prove \
             who they are: give --tls-cert, --tls-key and --agent-account, listen on 127.0.0.1, or add \
             --grpc-insecure on a network that you trust",
        );
        check(
            "10.0.0.7:1",
            "tls",
            "--grpc 10.0.0.7:1 is not a loopback address, and agents need not prove who they are: give \
             --agent-account, listen on 127.0.0.1, or add --grpc-insecure on a network that you trust",
        );
        check(
            "[::]:1",
            "account",
            "--grpc [::]:1 is not a loopback address, and nothing is encrypted there: give --tls-cert and \
             --tls-key, listen on 127.0.0.1, or add --grpc-insecure on a network that you trust",
        );
    }

    #[test]
    fn a_network_that_is_trusted_needs_neither() {
        for given in ["insecure", "insecure tls", "insecure account"] {
            check("0.0.0.0:1", given, "ok");
        }
    }
}
