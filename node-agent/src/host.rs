//! What this host is called and where it is.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use tonic::transport::Uri;
use tracing::debug;

/// How long the collector's name may take to be resolved, for the address alone:
/// the stream resolves it again and waits as long as it must.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(2);
/// Addresses that are nobody's (RFC 5737, RFC 3849): the way to them is the default route.
const NOBODY: [&str; 2] = ["192.0.2.1:9", "[2001:db8::1]:9"];

/// The host's name; may be empty.
pub fn name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The host's address as `collector`, a URL, sees it; else that of its default
/// route; empty if it has neither, such as without a network.
pub async fn address(collector: &str) -> String {
    let mut targets = Vec::new();
    if let Some(authority) = collector.parse::<Uri>().ok().as_ref().and_then(Uri::authority) {
        let port = authority.port_u16().unwrap_or(80);
        let target = format!("{}:{port}", authority.host());
        match tokio::time::timeout(RESOLVE_PATIENCE, tokio::net::lookup_host(&target)).await {
            Ok(Ok(addresses)) => targets.extend(addresses),
            Ok(Err(error)) => debug!("{target}: {error}"),
            Err(_) => debug!("{target} is not resolved within {RESOLVE_PATIENCE:?}"),
        }
    }
    targets.extend(NOBODY.iter().filter_map(|address| address.parse::<SocketAddr>().ok()));
    first_global(targets.into_iter().filter_map(source))
        .map(|address| address.to_string())
        .unwrap_or_default()
}

/// The address that a packet to `target` would leave from. None is sent: a
/// datagram socket that is connected has only looked up its route.
fn source(target: SocketAddr) -> Option<IpAddr> {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let looked_up = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(target)?;
        socket.local_addr()
    });
    match looked_up {
        Ok(address) => Some(address.ip()),
        Err(error) => {
            debug!("no route to {target}: {error}");
            None
        }
    }
}

/// The first that means something to other hosts.
fn first_global(mut addresses: impl Iterator<Item = IpAddr>) -> Option<IpAddr> {
    addresses.find(|address| {
        let link_local = match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        !(address.is_loopback() || address.is_unspecified() || link_local)
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_only_this_host_understands_is_skipped() {
        let check = |addresses: &str, expected: &str| {
            let addresses = addresses.split_whitespace().map(|address| address.parse().unwrap());
            let found = first_global(addresses).map(|address| address.to_string());
            assert_eq!(found.unwrap_or_default(), expected);
        };
        check("127.0.0.1 ::1 0.0.0.0 :: 169.254.1.1 fe80::1 10.0.0.7 10.0.0.8", "10.0.0.7");
        check("127.0.0.1 fd00::7", "fd00::7");
        check("127.0.0.1", "");
    }

    #[test]
    fn the_way_to_a_loopback_address_is_that_address() {
        assert_eq!(source("127.0.0.1:9".parse().unwrap()), Some("127.0.0.1".parse().unwrap()));
    }

    /// Whatever this machine has: an address or nothing, and never its loopback.
    #[tokio::test]
    async fn a_collector_on_this_host_does_not_make_it_127_0_0_1() {
        for collector in ["http://127.0.0.1:20417", "http://localhost:20417", "http://[::1]:20417", "no url"]
        {
            let address = address(collector).await;
            assert!(address.is_empty() || !address.parse::<IpAddr>().unwrap().is_loopback(), "{address}");
        }
    }
}
