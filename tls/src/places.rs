//! How many may be connected, and how long those who prove nothing.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Bounds of a [`Listener`](crate::Listener). A connection is *unproven* while it has shown no certificate and nobody
/// holds it ([`Peer::hold`](crate::Peer::hold)).
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections at once. Handshakes are apart: only at its end a handshake tells whose the place would be.
    pub connections: usize,
    /// Those of them that are unproven; the rest is for who proves something.
    pub unproven: usize,
    /// Those of one address that are unproven; of IPv6 its network of 64 bits is one.
    pub unproven_per_address: usize,
    /// Handshakes at once with one address.
    pub handshakes_per_address: usize,
    /// How long nobody may hold a connection until it ends; `None`: connections are not held.
    pub unheld: Option<Duration>,
    /// Whether loopback is no address of which there may be too many: who connects from there is at home.
    pub exempts_loopback: bool,
}

impl Default for Bounds {
    fn default() -> Self {
        Self::USUAL
    }
}

impl Bounds {
    /// Those of a port that has no others.
    pub const USUAL: Self = Self {
        connections: 8192,
        unproven: usize::MAX,
        unproven_per_address: 64,
        handshakes_per_address: 16,
        unheld: None,
        exempts_loopback: true,
    };

    /// Of a port whose clients hold their connections, as agents do by their streams. An agent opens its stream at
    /// once, and its token is reviewed within 10 s.
    pub fn held(connections: usize) -> Self {
        Self { connections, unheld: Some(Duration::from_secs(15)), ..Self::default() }
    }
}

/// The places of a listener. All clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    bounds: Bounds,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    connections: usize,
    unproven: usize,
    addresses: HashMap<Address, Count>,
}

#[derive(Debug, Default)]
struct Count {
    handshakes: usize,
    unproven: usize,
}

/// There is no place, because of this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    #[error("as many connections are open as may be")]
    All,
    #[error("as many connections are open as may be of those who have proven nothing")]
    Unproven,
    #[error("its address has as many connections open as one that has proven nothing may")]
    Address,
    #[error("its address has as many handshakes under way as may be")]
    Handshakes,
}

impl Places {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, taken: Arc::default() }
    }

    pub(crate) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// For a handshake.
    pub(crate) fn handshake(&self, address: IpAddr) -> Result<Handshake, Full> {
        let address = Address::of(address, self.bounds);
        let mut taken = self.lock();
        if taken.connections >= self.bounds.connections {
            return Err(Full::All);
        }
        if let Some(address) = address {
            let count = taken.addresses.entry(address).or_default();
            if count.handshakes >= self.bounds.handshakes_per_address {
                return Err(Full::Handshakes);
            }
            count.handshakes += 1;
        }
        drop(taken);
        Ok(Handshake { places: self.clone(), address })
    }

    /// For a connection; `certified`: it has shown a certificate.
    pub(crate) fn connect(&self, address: IpAddr, certified: bool) -> Result<Place, Full> {
        let address = Address::of(address, self.bounds);
        let mut taken = self.lock();
        if taken.connections >= self.bounds.connections {
            return Err(Full::All);
        }
        if !certified {
            let unproven = |address| taken.addresses.get(&address).map_or(0, |count| count.unproven);
            let is_full = |address| unproven(address) >= self.bounds.unproven_per_address;
            if taken.unproven >= self.bounds.unproven {
                return Err(Full::Unproven);
            }
            if address.is_some_and(is_full) {
                return Err(Full::Address);
            }
            taken.add_unproven(address);
        }
        taken.connections += 1;
        drop(taken);
        let held = Mutex::new(Held { holds: 0, since: Instant::now(), open: true });
        Ok(Place(Arc::new(Seat { places: self.clone(), address, certified, held })))
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // No step that may panic leaves it half-changed.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn add_unproven(&mut self, address: Option<Address>) {
        self.unproven += 1;
        if let Some(address) = address {
            self.addresses.entry(address).or_default().unproven += 1;
        }
    }

    fn remove_unproven(&mut self, address: Option<Address>) {
        self.unproven -= 1;
        self.change(address, |count| count.unproven -= 1);
    }

    /// Of an address that has something.
    fn change(&mut self, address: Option<Address>, change: impl FnOnce(&mut Count)) {
        let Some(address) = address else { return };
        if let Some(count) = self.addresses.get_mut(&address) {
            change(count);
            if count.handshakes == 0 && count.unproven == 0 {
                self.addresses.remove(&address);
            }
        }
    }
}

/// A handshake under way.
#[derive(Debug)]
pub(crate) struct Handshake {
    places: Places,
    address: Option<Address>,
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.places.lock().change(self.address, |count| count.handshakes -= 1);
    }
}

/// The place of a connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Seat>);

impl Place {
    pub(crate) fn seat(&self) -> &Arc<Seat> {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.0.held();
        held.open = false;
        let mut taken = self.0.places.lock();
        taken.connections -= 1;
        if held.holds == 0 && !self.0.certified {
            taken.remove_unproven(self.0.address);
        }
    }
}

/// What is known of a connection to whoever may hold it.
#[derive(Debug)]
pub(crate) struct Seat {
    places: Places,
    address: Option<Address>,
    certified: bool,
    /// Locked before the places are.
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    holds: usize,
    /// When the last one ended, or the connection began.
    since: Instant,
    /// It has its place.
    open: bool,
}

impl Seat {
    /// Since when nobody holds it: now, while somebody does.
    pub(crate) fn unheld_since(&self) -> Instant {
        let held = self.held();
        if held.holds == 0 { held.since } else { Instant::now() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // As above.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection is held by somebody who has proven who they are, until this is dropped.
#[derive(Debug)]
#[must_use = "the connection is held until this is dropped"]
pub struct Hold(Arc<Seat>);

impl Hold {
    pub(crate) fn begin(seat: &Arc<Seat>) -> Self {
        let mut held = seat.held();
        if held.holds == 0 && held.open && !seat.certified {
            seat.places.lock().remove_unproven(seat.address);
        }
        held.holds += 1;
        drop(held);
        Self(Arc::clone(seat))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.0.held();
        held.holds -= 1;
        held.since = Instant::now();
        if held.holds == 0 && held.open && !self.0.certified {
            // Also if these are too many now: it is open already.
            self.0.places.lock().add_unproven(self.0.address);
        }
    }
}

/// Whom one client can be: an IPv4 address, or an IPv6 network of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Address(IpAddr);

impl Address {
    /// `None`: it may have as many as it likes.
    fn of(address: IpAddr, bounds: Bounds) -> Option<Self> {
        // Of IPv4 by a port of IPv6 as well.
        let address = address.to_canonical();
        if bounds.exempts_loopback && address.is_loopback() {
            return None;
        }
        Some(Self(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        }))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        connections: 4,
        unproven: 3,
        unproven_per_address: 2,
        handshakes_per_address: 1,
        unheld: None,
        exempts_loopback: true,
    };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn full<T: std::fmt::Debug>(outcome: Result<T, Full>) -> Full {
        outcome.unwrap_err()
    }

    #[test]
    fn an_address_is_one_of_ipv4_or_a_network_of_ipv6() {
        let same = |one, other| Address::of(ip(one), BOUNDS) == Address::of(ip(other), BOUNDS);
        assert!(!same("192.0.2.1", "192.0.2.2"));
        assert!(same("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(!same("::ffff:192.0.2.1", "::ffff:192.0.2.2"));
        assert!(same("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
        for loopback in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(Address::of(ip(loopback), BOUNDS), None);
            assert!(Address::of(ip(loopback), Bounds { exempts_loopback: false, ..BOUNDS }).is_some());
        }
    }

    #[test]
    fn the_unproven_of_one_address_and_of_all_leave_places_to_others() {
        let places = Places::new(BOUNDS);
        let connect = |address, certified| places.connect(ip(address), certified);
        let one = connect("192.0.2.1", false).unwrap();
        let _two = connect("192.0.2.1", false).unwrap();
        assert_eq!(full(connect("192.0.2.1", false)), Full::Address);
        let _three = connect("192.0.2.2", false).unwrap();
        assert_eq!(full(connect("192.0.2.3", false)), Full::Unproven);
        let _four = connect("192.0.2.1", true).unwrap();
        assert_eq!(full(connect("192.0.2.1", true)), Full::All);
        assert_eq!(full(places.handshake(ip("192.0.2.4"))), Full::All);
        drop(one);
        let _one = connect("192.0.2.1", false).unwrap();
    }

    #[test]
    fn who_holds_a_connection_is_proven_meanwhile() {
        let places = Places::new(BOUNDS);
        let connect = || places.connect(ip("192.0.2.1"), false);
        let (one, _two) = (connect().unwrap(), connect().unwrap());
        let holds = (Hold::begin(one.seat()), Hold::begin(one.seat()));
        let three = connect().unwrap();
        drop(holds.0);
        assert_eq!(full(connect()), Full::Address);
        drop(three);
        drop(holds.1);
        assert_eq!(full(connect()), Full::Address, "nobody holds it now");
        // A stream's task may end after its connection.
        let late = Hold::begin(one.seat());
        drop(one);
        drop(late);
        let _again = connect().unwrap();
        assert_eq!(full(connect()), Full::Address);
    }

    #[test]
    fn nothing_is_kept_of_who_has_gone() {
        let places = Places::new(BOUNDS);
        let handshake = places.handshake(ip("2001:db8::1")).unwrap();
        assert_eq!(full(places.handshake(ip("2001:db8::2"))), Full::Handshakes);
        let place = places.connect(ip("2001:db8::1"), false).unwrap();
        let hold = Hold::begin(place.seat());
        drop((handshake, place, hold));
        let taken = places.lock();
        assert_eq!((taken.connections, taken.unproven, taken.addresses.len()), (0, 0, 0));
    }
}
