//! TLS of every port and every client: certificates that change while they are used, and refusals that say why.
//!
//! A server has a [`ServerTls`], whose certificate and client CAs may be replaced at any time, and a [`Listener`],
//! which is the same for plain TCP. A client has a [`Connector`], which reads its CAs anew for each connection.
//! [`http`] answers HTTP on a listener, each connection within bounds.
//! Nothing is resumed: each connection proves its certificates in full, so that what is replaced or runs out is
//! out with the next connection.

#![forbid(unsafe_code)]

mod certificate;
mod connector;
pub mod http;
mod listener;
mod pair;
mod places;
mod refusals;
mod server;
#[cfg(feature = "testing")]
pub mod testing;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use certificate::{Validity, common_name, validity};
pub use connector::{ConnectError, Connector, client_config};
pub use listener::{Connection, Listener, Peer};
pub use pair::{Pair, TlsError};
pub use places::{Bounds, Hold};
pub use refusals::{Reason, Refusals};
pub use server::{Protocols, ServerTls};

/// The one provider; chosen here and not process-wide, where libraries would have a say.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
