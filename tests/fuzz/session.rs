//! Records of a peer that greets rightly and frames rightly, on a standby that accepts it: input is `length (u16), records`
//! for each frame. Whatever is told, what the node holds must fit together.

use core::time::Duration;

use dataplane::delta::Term;
use dataplane::time::Instant;
use state_sync::fuzz;
use state_sync::hello::Hello;
use state_sync::role::Desire;
use state_sync::wire::{Net, Wire};
use testkit::checker::contradictions;
use testkit::config::{Setup, sync_address};
use testkit::network::Fabric;
use testkit::node::Node;

use crate::targets::golden;

/// Tables of a few entries: full ones are found soon, and a node starts quickly.
pub(crate) fn small() -> Setup {
    Setup {
        workers: 1,
        events: 1,
        ring_entries: 64,
        conntracks: 16,
        mappings: 16,
        blocks: 8,
        subscribers: 8,
        packets: 256,
        held_packets: 8,
        pool_addresses: 1,
        ..Setup::default()
    }
}

/// Plays the peer of a standby.
pub(crate) fn run(mut data: &[u8]) {
    let setup = small();
    let fabric = Fabric::new([1, 2].map(|id| sync_address(id, false)), 1);
    let mut now = Instant::from_secs(1_000);
    fabric.set_now(now);
    let mut peer = fabric.open(0, 1);
    let net = fabric.open(1, 2);
    let mut node = Node::boot(2, &setup, Desire::Backup, &net, 2, now);
    let ours = setup.sync(1, 1);
    let Some(mut wire) = peer.connect(sync_address(1, false), sync_address(2, false)) else {
        return;
    };
    let mut out = fuzz::hello(&Hello {
        versions: (1, 1),
        features: 0,
        node_id: 1,
        lane: 0,
        lanes: 1,
        incarnation: 1,
        boot_id: ours.boot_id,
        node_name: ours.node_name.clone(),
    });
    // The golden bytes call it 1.
    let open = fuzz::vrf_open(1, &ours.vrfs[0], Term(0x6000_0501));
    out.extend(fuzz::frame(1, &open));
    let mut sequence = 1;
    let mut turn = |out: &[u8], node: &mut Node| {
        now = now + Duration::from_millis(1);
        fabric.set_now(now);
        let _ = wire.send(out);
        node.turn(now);
        now = now + Duration::from_millis(1);
        fabric.set_now(now);
        node.turn(now);
        node.turn(now);
        while matches!(wire.recv(&mut [0; 4_096]), state_sync::wire::Io::Done(_)) {}
    };
    turn(&[], &mut node);
    turn(&out, &mut node);
    let is_met = node.reports()[0].local_nodes.iter().any(|n| !n.lanes.is_empty());
    assert!(
        is_met,
        "the standby refuses its peer: nothing of what follows would be read"
    );
    while let Some((length, rest)) = data.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length));
        let (records, rest) = rest.split_at(rest.len().min(length));
        data = rest;
        sequence += 1;
        turn(&fuzz::frame(sequence, records), &mut node);
    }
    turn(&[], &mut node);
    let found = contradictions(&node);
    assert!(found.is_empty(), "{found:?}");
}

/// The golden records, each alone and all of them behind one another.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let frame = |records: &[u8]| {
        let length = u16::try_from(records.len()).unwrap_or(u16::MAX);
        [&length.to_be_bytes()[..], records].concat()
    };
    let mut all: Vec<_> = golden().iter().map(|records| frame(records)).collect();
    // SLOT-BEGIN and the records of its slot, out of the frames of a whole connection.
    if let Some(mut frames) = golden().into_iter().rev().nth(4).as_deref() {
        let mut whole = Vec::new();
        while let Some((header, rest)) = frames.split_first_chunk::<16>() {
            let length = usize::from(u16::from_be_bytes([header[6], header[7]]));
            let (records, rest) = rest.split_at(rest.len().min(length));
            whole.extend(frame(records));
            frames = rest;
        }
        all.push(whole);
    }
    all
}
