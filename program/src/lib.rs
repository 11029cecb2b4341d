//! What each of Hearth's programs does in the same way: log, be stopped, refuse to listen.

#![forbid(unsafe_code)]

use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The exit code of a command line that makes no sense; clap's own.
pub const USAGE: u8 = 2;

/// A gRPC port that everybody on the network could speak to.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "--grpc {0} is not a loopback address, and agents cannot prove who they are yet: listen on 127.0.0.1, \
     or add --grpc-insecure on a network that you trust"
)]
pub struct GrpcWithoutTls(SocketAddr);

/// Whether `--grpc` may be this address: beyond the machine only with `--grpc-insecure`.
///
/// # Errors
/// It may not.
pub fn check_grpc(address: SocketAddr, insecure: bool) -> Result<(), GrpcWithoutTls> {
    if address.ip().is_loopback() || insecure { Ok(()) } else { Err(GrpcWithoutTls(address)) }
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

/// What is logged where `HEARTH_LOG` asks for nothing. kube says of each request that it failed; what matters of
/// that is said where it is known for how long.
const LOGGED: &str = "info,kube_client::client::builder=off";

/// Logs to standard error what `HEARTH_LOG` asks for, or from `info` on. Once, at the start.
pub fn start_log() {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_env("HEARTH_LOG").unwrap_or_else(|_| EnvFilter::new(LOGGED)))
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

    #[test]
    fn a_time_is_a_number_and_a_unit() {
        let seconds = |text| duration(text).map(|duration| duration.as_secs());
        assert_eq!(["90s", "15m", "72h", "14d"].map(seconds), [90, 900, 259_200, 1_209_600].map(Some));
        for text in ["", "s", "7", "1.5h", "-1s", "1 h", "1w", "1ü", "18446744073709551615d"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn beyond_the_machine_only_where_that_is_asked_for() {
        let check = |ip: [u8; 4], insecure| {
            let checked = check_grpc(SocketAddr::from((ip, 1)), insecure);
            checked.map_or_else(|refused| refused.to_string(), |()| "ok".to_owned())
        };
        assert_eq!(check([127, 0, 0, 1], false), "ok");
        assert_eq!(check([0, 0, 0, 0], true), "ok");
        for ip in [[0, 0, 0, 0], [10, 0, 0, 7]] {
            let refused = check(ip, false);
            assert!(refused.contains("is not a loopback address"), "{refused}");
            assert!(refused.ends_with("or add --grpc-insecure on a network that you trust"), "{refused}");
        }
    }
}
