//! How many connections each peer has.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// The connections of each peer address. Of an IPv6 address its /64 network counts: that is what one customer has, and whoever
/// has one has all of its addresses.
#[derive(Debug, Default)]
pub(super) struct Peers(HashMap<IpAddr, usize>);

/// What counts as one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer(IpAddr);

impl Peer {
    pub(super) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
            ip @ IpAddr::V4(_) => ip,
        })
    }
}

impl Peers {
    /// Counts one more in; `false`, and nothing counted, when `peer` has `most` already.
    pub(super) fn enter(&mut self, peer: Peer, most: usize) -> bool {
        let count = self.0.entry(peer.0).or_default();
        let admitted = *count < most;
        *count += usize::from(admitted);
        admitted
    }

    /// One of those that have entered is gone.
    pub(super) fn leave(&mut self, peer: Peer) {
        if let Some(count) = self.0.get_mut(&peer.0) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&peer.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Peer {
        Peer::of(text.parse().unwrap())
    }

    #[test]
    fn each_peer_has_its_own_count_and_none_is_remembered_when_it_has_gone() {
        let mut peers = Peers::default();
        let (one, two) = (peer("10.0.0.1"), peer("10.0.0.2"));
        assert!(peers.enter(one, 2) && peers.enter(one, 2) && peers.enter(two, 2));
        assert!(!peers.enter(one, 2));
        peers.leave(one);
        assert!(peers.enter(one, 2));
        for gone in [one, one, two] {
            peers.leave(gone);
        }
        assert!(peers.0.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_peer_and_a_mapped_address_is_itself() {
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff:1"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
        assert_eq!(peer("::ffff:10.0.0.1"), peer("10.0.0.1"));
    }
}
