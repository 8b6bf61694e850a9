//! Links between two nodes, both stepped by hand in one thread.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};

use quoit_wire::peer::{PeerHello, PeerMessage};

use super::{PATIENCE, Stepped};
use crate::cluster::NodeRef;
use crate::cluster::copies::Peer;
use crate::runtime::clock::Reading;
use crate::runtime::connection::CloseCause;
use crate::runtime::limits::PEER_OUTPUT_BYTES_MAX;
use crate::runtime::peers::{CoreEvent, PeerAddress, PeerIdentity, PeerSend, Peers};

const ONE: NodeRef = NodeRef { id: 7, incarnation: 1 };
const TWO: NodeRef = NodeRef { id: 8, incarnation: 1 };

struct Pair {
    one: Stepped,
    two: Stepped,
}

impl Pair {
    /// Two nodes; the first knows of the second.
    fn new() -> Self {
        let mut pair = Self::strangers();
        pair.tell(TWO, pair.two.addresses[0]);
        pair
    }

    /// Two nodes that don't know of each other.
    fn strangers() -> Self {
        Self { one: Stepped::with_id(7, 1, |_| {}), two: Stepped::with_id(8, 2, |_| {}) }
    }

    fn tell(&mut self, node: NodeRef, address: SocketAddr) {
        self.one.cores[0].set_peers(&[PeerAddress { node, address, cores: 2 }]);
    }

    /// Sends from the first node to a core of the second, and lets both take turns.
    fn send(&mut self, core: u16, bytes: &[u8]) -> PeerSend {
        let sent =
            self.one.cores[0].send_to_peer(Peer { node: TWO, core }, |out| PeerMessage::push_control(bytes, out));
        self.turn();
        sent
    }

    fn turn(&mut self) {
        self.one.turn();
        self.two.turn();
    }

    /// Sends again and again until it works.
    fn insist(&mut self, core: u16, bytes: &[u8]) {
        let start = Reading::now();
        while self.send(core, bytes) != PeerSend::Queued {
            assert!(!Reading::now().is_past(start, PATIENCE), "no link");
        }
    }

    fn received(&mut self) -> Vec<u8> {
        let start = Reading::now();
        loop {
            if let Ok(CoreEvent::Control { from, bytes }) = self.two.events.try_recv() {
                assert_eq!(from, ONE);
                return bytes;
            }
            assert!(!Reading::now().is_past(start, PATIENCE), "nothing arrives");
            self.turn();
        }
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let start = Reading::now();
        while !done(self) {
            assert!(!Reading::now().is_past(start, PATIENCE), "never: {what}");
            self.turn();
        }
    }

    fn end(mut self) {
        self.one.cores[0].set_peers(&[]);
        self.until("the links are gone", |pair| {
            pair.one.cores.iter().chain(&pair.two.cores).all(|core| core.connections.is_empty())
        });
        self.one.end();
        self.two.end();
    }
}

#[test]
fn frames_reach_the_core_they_are_for_in_order_whichever_core_accepts() {
    let mut pair = Pair::new();
    assert_eq!(pair.send(1, b"lost: there is no link yet"), PeerSend::Down);
    pair.insist(1, b"first");
    assert_eq!(pair.received(), b"first");
    let large = vec![7; 300_000];
    for number in 0..8u8 {
        pair.insist(1, &[number; 3]);
        pair.insist(1, &large);
    }
    for number in 0..8u8 {
        assert_eq!(pair.received(), [number; 3]);
        assert_eq!(pair.received(), large);
    }
    assert_eq!(pair.two.cores[1].peers.counters.received, 17, "core 0 accepted, core 1 was meant");
    pair.insist(0, b"to another core, over a link of its own");
    assert_eq!(pair.received(), b"to another core, over a link of its own");
    assert_eq!(pair.one.cores[0].peers.up(), 2);
    pair.end();
}

#[test]
fn a_link_that_is_full_refuses_and_goes_on_when_it_has_room() {
    let mut pair = Pair::new();
    pair.insist(0, b"first");
    assert_eq!(pair.received(), b"first");
    let large = vec![7; 1 << 20];
    let place = Peer { node: TWO, core: 0 };
    // The other side takes no turns.
    let mut queued = 0;
    while pair.one.cores[0].send_to_peer(place, |out| PeerMessage::push_control(&large, out)) == PeerSend::Queued {
        pair.one.turn();
        queued += 1;
        assert!(queued < 40, "it must become full");
    }
    assert!(queued * large.len() >= PEER_OUTPUT_BYTES_MAX);
    for _ in 0..queued {
        assert_eq!(pair.received(), large);
    }
    pair.insist(0, b"again");
    assert_eq!(pair.received(), b"again");
    pair.end();
}

#[test]
fn a_link_that_breaks_is_made_again() {
    let mut pair = Pair::new();
    pair.insist(0, b"first");
    assert_eq!(pair.received(), b"first");
    let slots: Vec<u32> = pair.two.cores[0].connections.iter().map(|(slot, _)| slot as u32).collect();
    for slot in slots {
        let mut connection = pair.two.cores[0].take(slot).unwrap();
        pair.two.cores[0].close(slot, &mut connection, CloseCause::Failed);
        pair.two.cores[0].put_or_free(slot, connection);
    }
    pair.until("the loss is noticed", |pair| pair.one.cores[0].peers.up() == 0);
    pair.insist(0, b"second");
    assert_eq!(pair.received(), b"second");
    assert_eq!(pair.one.cores[0].peers.counters.made, 2);
    pair.end();
}

#[test]
fn an_address_where_nobody_listens_is_tried_with_pauses() {
    let mut pair = Pair::strangers();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    pair.tell(TWO, nobody);
    let start = Reading::now();
    while pair.one.cores[0].peers.counters.failed < 3 {
        assert!(!Reading::now().is_past(start, PATIENCE), "three attempts");
        assert_eq!(pair.send(0, b"lost"), PeerSend::Down);
    }
    assert!(pair.one.cores[0].peers.counters.dropped_down > 3, "most of what was sent meanwhile made no attempt");
    pair.end();
}

#[test]
fn another_cluster_and_another_life_are_refused_with_the_reason() {
    let pair = Pair::new();
    let identity = pair.two.cores[0].peers.identity.unwrap();
    let hello = PeerHello {
        magic: PeerHello::MAGIC,
        version: PeerHello::VERSION,
        core: 0,
        to_core: 0,
        cluster: identity.cluster,
        node: ONE.id,
        incarnation: ONE.incarnation,
        to_node: TWO.id,
        to_incarnation: TWO.incarnation,
    };
    let peers: &Peers = &pair.two.cores[0].peers;
    let from = Peer { node: ONE, core: 0 };
    assert_eq!(peers.objection(&hello, Some(from)), None);
    let objection = |hello: PeerHello, part: &str| {
        let objection = peers.objection(&hello, Some(from)).expect("it is refused");
        assert!(objection.contains(part), "{objection}");
    };
    objection(PeerHello { cluster: [9; 16], ..hello }, "another cluster");
    objection(PeerHello { version: PeerHello::VERSION + 1, ..hello }, "another version");
    objection(PeerHello { to_incarnation: 5, ..hello }, "another node, or an earlier life");
    objection(PeerHello { incarnation: 5, ..hello }, "another life");
    objection(PeerHello { magic: 5, ..hello }, "no peer hello");
    pair.end();
}

#[test]
fn garbage_closes_the_link_is_counted_and_harms_nobody() {
    let mut pair = Pair::strangers();
    let identity = pair.two.cores[0].peers.identity.unwrap();
    let hello =
        Peers::hello(PeerIdentity { place: Peer { node: ONE, core: 0 }, ..identity }, Peer { node: TWO, core: 0 });
    for garbage in [&b"\xff\xff\xff\xff garbage"[..], b"\x02\0\0\0\x63\x63", b"\x05\0\0\0\x02\x01\x01\x01\x01"] {
        let mut stream = TcpStream::connect(pair.two.addresses[0]).unwrap();
        let mut bytes = Vec::new();
        PeerMessage::push_hello(&hello, &mut bytes);
        stream.write_all(&bytes).unwrap();
        let accepted = pair.two.cores[0].peers.counters.accepted;
        pair.until("it is welcome", |pair| pair.two.cores[0].peers.counters.accepted > accepted);
        let before = pair.two.cores[0].peers.counters.garbage;
        stream.write_all(garbage).unwrap();
        pair.until("it is counted", |pair| pair.two.cores[0].peers.counters.garbage > before);
        pair.until("the link is closed", |pair| pair.two.cores[0].connections.is_empty());
    }
    pair.tell(TWO, pair.two.addresses[0]);
    pair.insist(0, b"others go on");
    assert_eq!(pair.received(), b"others go on");
    pair.end();
}

#[test]
fn the_first_cores_of_two_nodes_have_a_link_before_there_is_anything_to_say() {
    let mut pair = Pair::new();
    pair.until("it is made", |pair| pair.one.cores[0].peers.up() == 1);
    assert_eq!(pair.two.cores[0].peers.counters.accepted + pair.two.cores[1].peers.counters.accepted, 1);
    assert_eq!(pair.send(0, b"at once"), PeerSend::Queued);
    assert_eq!(pair.received(), b"at once");
    pair.end();
}
