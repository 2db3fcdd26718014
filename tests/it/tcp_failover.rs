//! A TCP connection through a failover: the new active knows its class and window scales but not its sequence numbers,
//! so each direction is lenient until the other end has corroborated it, and strict from then on (DESIGN.md section 5).

use core::time::Duration;

use dataplane::delta::Scales;
use dataplane::flow::{Direction, FlowKey};
use dataplane::verdict::Drop;
use dataplane::wire::build::Segment;
use dataplane::wire::tcp::{ACK, PSH, SYN};
use state_sync::role::Desire;
use testkit::cluster::{Cluster, Death};
use testkit::config::{LAN, Setup, WAN, server, subscriber};
use testkit::packet::{self, segment, syn, to_node};

/// First sequence numbers of the client and of the server.
const CLIENT: u32 = 1_000;
const SERVER: u32 = 9_000_000;

/// A connection as both ends see it.
struct Connection {
    inside: FlowKey,
    outside: FlowKey,
}

impl Connection {
    /// Both ends ask for window scaling, the client with a shift of 7 and the server with one of 2.
    fn open(cluster: &mut Cluster) -> Self {
        let inside = packet::tcp(subscriber(1), 40_000, server(1), 80);
        let frame = to_node(1, LAN, &inside.src).tcp(
            &inside,
            &Segment {
                options: &[3, 3, 7],
                ..syn(CLIENT)
            },
        );
        let sent = cluster.through(0, LAN, &frame);
        let outside = packet::flow(&sent[0].frame).unwrap();
        let connection = Self { inside, outside };
        let syn_ack = Segment {
            options: &[3, 3, 2],
            ..segment(SYN | ACK, SERVER, CLIENT + 1, &[])
        };
        assert!(connection.server_sends(cluster, 0, &syn_ack));
        assert!(connection.client_sends(cluster, 0, &segment(ACK, CLIENT + 1, SERVER + 1, &[])));
        connection
    }

    /// Whether a segment of the client gets through a node.
    fn client_sends(&self, cluster: &mut Cluster, node: usize, segment: &Segment<'_>) -> bool {
        let frame = to_node([1, 2][node], LAN, &self.inside.src).tcp(&self.inside, segment);
        let sent = cluster.through(node, LAN, &frame);
        sent.iter()
            .any(|s| s.port == WAN && packet::flow(&s.frame) == Some(self.outside))
    }

    /// Whether a segment of the server gets through a node.
    fn server_sends(&self, cluster: &mut Cluster, node: usize, segment: &Segment<'_>) -> bool {
        let key = self.outside.reversed();
        let frame = to_node([1, 2][node], WAN, &key.src).tcp(&key, segment);
        let sent = cluster.through(node, WAN, &frame);
        sent.iter()
            .any(|s| s.port == LAN && packet::flow(&s.frame) == Some(self.inside.reversed()))
    }
}

fn lenient(cluster: &mut Cluster, node: usize) -> [bool; 2] {
    let tracks: Vec<_> = cluster
        .node(node)
        .tables()
        .flat_map(|tables| tables.conntracks.iter_live())
        .filter_map(|(_, conntrack)| conntrack.tcp())
        .collect();
    let [track] = tracks[..] else {
        panic!("{} TCP conntracks", tracks.len())
    };
    [
        track.is_lenient(Direction::Original),
        track.is_lenient(Direction::Reply),
    ]
}

/// Ends the first node; the second one takes over.
fn fail_over(cluster: &mut Cluster) {
    cluster.settle();
    cluster.kill(0, Death::Process);
    cluster.order(1, Desire::Ordered);
    cluster.run(Duration::from_millis(1_200));
    assert_eq!(cluster.active(), Some(1));
}

/// The pair with an established connection that has moved far from its first numbers, the first node dead.
fn failed_over() -> (Cluster, Connection) {
    let mut cluster = Cluster::pair(Setup::default(), 21);
    let connection = Connection::open(&mut cluster);
    let mut sent = 0;
    while sent < 2_000_000 {
        let data = [7; 1_000];
        assert!(connection.server_sends(
            &mut cluster,
            0,
            &segment(ACK | PSH, SERVER + 1 + sent, CLIENT + 1, &data)
        ));
        sent += 1_000;
        if sent % 20_000 == 0 {
            let ack = segment(ACK, CLIENT + 1, SERVER + 1 + sent, &[]);
            assert!(connection.client_sends(&mut cluster, 0, &ack));
        }
    }
    fail_over(&mut cluster);
    (cluster, connection)
}

#[test]
fn a_bulk_transfer_goes_on_and_leniency_ends() {
    let (mut cluster, connection) = failed_over();
    assert_eq!(lenient(&mut cluster, 1), [true, true]);
    // The server goes on where it was, two million bytes beyond anything the new active has seen.
    let at = SERVER + 1 + 2_000_000;
    assert!(connection.server_sends(&mut cluster, 1, &segment(ACK | PSH, at, CLIENT + 1, &[7; 1_000])));
    assert!(connection.client_sends(&mut cluster, 1, &segment(ACK, CLIENT + 1, at + 1_000, &[])));
    assert!(connection.server_sends(
        &mut cluster,
        1,
        &segment(ACK | PSH, at + 1_000, CLIENT + 1, &[7; 1_000])
    ));
    assert!(connection.client_sends(&mut cluster, 1, &segment(ACK | PSH, CLIENT + 1, at + 2_000, b"x")));
    assert!(connection.server_sends(&mut cluster, 1, &segment(ACK, at + 2_000, CLIENT + 2, &[])));
    assert_eq!(lenient(&mut cluster, 1), [false, false]);

    // Strict again: a segment far outside the window is dropped for that reason, and the transfer isn't harmed.
    let before = cluster.node(1).counters().dropped(Drop::TcpWindow);
    let wild = segment(ACK | PSH, at.wrapping_add(0x4000_0000), CLIENT + 2, b"injected");
    assert!(!connection.server_sends(&mut cluster, 1, &wild));
    assert_eq!(cluster.node(1).counters().dropped(Drop::TcpWindow), before + 1);
    assert!(connection.server_sends(
        &mut cluster,
        1,
        &segment(ACK | PSH, at + 2_000, CLIENT + 2, &[7; 1_000])
    ));
}

#[test]
fn one_spoofed_segment_during_leniency_does_not_poison_the_window() {
    let (mut cluster, connection) = failed_over();
    let spoofed = segment(ACK | PSH, 0x7000_0000, CLIENT + 1, b"spoofed");
    connection.server_sends(&mut cluster, 1, &spoofed);
    let at = SERVER + 1 + 2_000_000;
    for step in 0..4 {
        let seq = at + step * 1_000;
        assert!(
            connection.server_sends(&mut cluster, 1, &segment(ACK | PSH, seq, CLIENT + 1, &[7; 1_000])),
            "segment {step} of the real transfer was dropped"
        );
        assert!(connection.client_sends(&mut cluster, 1, &segment(ACK, CLIENT + 1, seq + 1_000, &[])));
    }
}

#[test]
fn the_window_is_checked_before_the_failover_too() {
    let mut cluster = Cluster::pair(Setup::default(), 22);
    let connection = Connection::open(&mut cluster);
    assert_eq!(lenient(&mut cluster, 0), [false, false]);
    let wild = segment(
        ACK | PSH,
        SERVER.wrapping_add(0x4000_0000),
        CLIENT + 1,
        b"injected",
    );
    assert!(!connection.server_sends(&mut cluster, 0, &wild));
    assert_eq!(cluster.node(0).counters().dropped(Drop::TcpWindow), 1);
}

#[test]
fn the_heir_knows_what_windows_mean() {
    let mut cluster = Cluster::pair(Setup::default(), 23);
    let connection = Connection::open(&mut cluster);
    fail_over(&mut cluster);
    let scales: Vec<_> = cluster
        .node(1)
        .tables()
        .flat_map(|tables| tables.conntracks.iter_live())
        .map(|(_, conntrack)| (conntrack.scales, conntrack.state().scales()))
        .collect();
    assert_eq!(scales, [(Scales::new(7, 2), Scales::new(7, 2))]);

    // Once both are proven, the client may send four times the server's 60,000 and not a byte more.
    let ack = |seq, ack| segment(ACK, seq, ack, &[]);
    assert!(connection.client_sends(&mut cluster, 1, &ack(CLIENT + 1, SERVER + 1)));
    assert!(connection.server_sends(&mut cluster, 1, &ack(SERVER + 1, CLIENT + 1)));
    assert!(connection.client_sends(&mut cluster, 1, &ack(CLIENT + 1, SERVER + 1)));
    assert_eq!(lenient(&mut cluster, 1), [false, false]);
    let last = CLIENT + 1 + (60_000 << 2);
    assert!(connection.client_sends(
        &mut cluster,
        1,
        &segment(ACK | PSH, last - 4, SERVER + 1, b"last")
    ));
    assert!(!connection.client_sends(
        &mut cluster,
        1,
        &segment(ACK | PSH, last + 2, SERVER + 1, b"more")
    ));
}

#[test]
fn a_connection_that_was_silent_for_an_hour_goes_on() {
    let mut cluster = Cluster::pair(Setup::default(), 24);
    let connection = Connection::open(&mut cluster);
    cluster.idle(Duration::from_secs(3_600));
    fail_over(&mut cluster);
    let (client, server) = (CLIENT + 1, SERVER + 1);
    assert!(connection.server_sends(&mut cluster, 1, &segment(ACK | PSH, server, client, b"news")));
    assert!(connection.client_sends(
        &mut cluster,
        1,
        &segment(ACK | PSH, client, server + 4, b"thanks")
    ));
    assert!(connection.server_sends(&mut cluster, 1, &segment(ACK, server + 4, client + 6, &[])));
}

#[test]
fn a_transfer_stalled_by_a_closed_window_goes_on() {
    let (mut cluster, connection) = failed_over();
    let (client, at) = (CLIENT + 1, SERVER + 1 + 2_000_000);
    let closed = Segment {
        window: 0,
        ..segment(ACK, client, at, &[])
    };
    let probe = segment(ACK | PSH, at, client, b"p");
    for _ in 0..3 {
        assert!(connection.server_sends(&mut cluster, 1, &probe));
        assert!(connection.client_sends(&mut cluster, 1, &closed));
    }
    assert!(connection.client_sends(&mut cluster, 1, &segment(ACK, client, at, &[])));
    for step in 0..20 {
        let seq = at + step * 1_000;
        assert!(connection.server_sends(&mut cluster, 1, &segment(ACK | PSH, seq, client, &[7; 1_000])));
    }
    assert!(connection.client_sends(&mut cluster, 1, &segment(ACK, client, at + 20_000, &[])));
}
