//! How a command is ended that must not just stop.

use std::io;

use hearth_program::asked_to_stop;
use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGTERM, SIGINT, or SIGHUP of a terminal that was closed, and says which came. From this call on none of them
/// ends the process.
///
/// # Errors
/// The signals cannot be caught.
pub(crate) fn asked_to_end() -> io::Result<impl Future<Output = &'static str> + Send> {
    let mut hangup = signal(SignalKind::hangup())?;
    let asked = asked_to_stop()?;
    Ok(async move {
        tokio::select! {
            _ = hangup.recv() => "SIGHUP",
            name = asked => name,
        }
    })
}
