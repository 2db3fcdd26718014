//! What a standby lacks, and what only a mention has brought it: blocks without a record of their own, entries for which there
//! was no room, and whose they are after a change of roles.

use super::*;

const ONE_BLOCK: Limits = Limits {
    nat: NatLimits {
        blocks: 1,
        ..ROOMY.nat
    },
    ..ROOMY
};

/// A block whose own record was refused is known by its flows alone, and no digest shows it. When they are gone, and with
/// them the owner, a node that holds as little as was ever told is told of it nevertheless.
#[test]
fn a_block_that_only_flows_have_mentioned_is_told_to_a_peer_whose_slot_is_equal() {
    let mut tables = standby(ROOMY);
    let version = |counter| Version { term: TERM, counter };
    start(&mut tables, 1, version(0));
    let flow = put(1, 0, Some((9 << 8, 5)), Class::Opening, version(1));
    tell(&mut tables, lane(1), Delta::Put(flow));
    let gone = DelRecord {
        name: Name::Key(flow.original),
        version: version(2),
    };
    tell(&mut tables, lane(1), Delta::Del(gone));
    assert_eq!(
        held(&tables),
        (vec![], vec![(9 << 8, flow.original.src, 1_024 + BLOCK_PORTS)])
    );
    assert_eq!(tables.slots.get(AT).unwrap().count, 0);

    (tables.roles[0].role, tables.roles[0].term) = (Role::Master, LATER);
    let equal = SlotOffer {
        generation: 2,
        count: 0,
        digest: 0,
        version: version(2),
        absent: 0,
        same: false,
        exact: true,
    };
    send_slot(&mut tables, AT, lane(2), 2, Some(equal));
    let (ring, mut told) = RingBuffer::new(64);
    let mut rings = [ring];
    for _ in 0..2 {
        emit(&mut tables, &mut rings, 64, NOW);
    }
    let is_block =
        |item: &&ToEvent| matches!(item, ToEvent::Record { delta: Delta::Block(block), .. } if block.held);
    let items: Vec<ToEvent> = core::iter::from_fn(|| told.pop().ok()).collect();
    assert!(
        items
            .iter()
            .any(|item| matches!(item, ToEvent::SlotEnd { end, .. } if end.count == 0))
    );
    assert_eq!(items.iter().filter(is_block).count(), 1);
}

/// Its own record found no room, a flow in it did later: when it is released, nothing of it is lacking any more.
#[test]
fn a_block_that_was_refused_and_then_mentioned_is_not_missed_when_it_is_released() {
    let mut tables = standby(ONE_BLOCK);
    start(&mut tables, 1, version(0));
    let del = |flow: PutRecord, counter| {
        Delta::Del(DelRecord {
            name: Name::Key(flow.original),
            version: version(counter),
        })
    };
    let absent = |tables: &Tables| tables.slots.get(AT).unwrap().absent.sum.count;
    let other = put(2, 1, Some((0x200, 7)), Class::Opening, version(1));
    tell(&mut tables, lane(1), Delta::Put(other));
    tell(
        &mut tables,
        lane(1),
        Delta::Block(block(1, 0x100, true, version(2))),
    );
    assert_eq!(absent(&tables), 1);
    tell(&mut tables, lane(1), del(other, 3));
    tell(
        &mut tables,
        lane(1),
        Delta::Block(block(2, 0x200, false, version(4))),
    );
    let flow = refused_flow(5);
    tell(&mut tables, lane(1), Delta::Put(flow));
    tell(&mut tables, lane(1), del(flow, 6));
    assert_eq!(held(&tables).1.len(), 1);
    tell(
        &mut tables,
        lane(1),
        Delta::Block(block(1, 0x100, false, version(7))),
    );
    assert_eq!((held(&tables), absent(&tables)), ((vec![], vec![]), 0));
}

/// A standby that had no room for one of two blocks; its slot is verified.
fn lacking() -> Tables {
    let mut tables = standby(ONE_BLOCK);
    start(&mut tables, 1, version(2));
    let blocks = [1, 2].map(|host| block(host, 0x100 * u64::from(host), true, version(host.into())));
    for record in blocks {
        tell(&mut tables, lane(1), Delta::Block(record));
    }
    let end = SlotEnd {
        generation: 1,
        count: 2,
        digest: blocks.iter().map(block_digest).fold(0, u64::wrapping_add),
        version: version(2),
    };
    assert_eq!(stop(&mut tables, end), Some(1), "verified, one is lacking");
    tables
}

/// A worker looks at its roles once per turn. What it lacked is nobody's after its node has reigned, if it has seen that or not.
#[test]
fn a_reign_that_was_over_before_a_worker_looked_was_one_all_the_same() {
    let mut tables = lacking();
    let roles = Roles::new(1);
    for role in [Role::Backup, Role::Master, Role::Backup] {
        roles.set(AT.vrf, role, LATER);
    }
    tables.observe_roles(&roles, NOW);
    let slot = tables.slots.get(AT).unwrap();
    assert_eq!((slot.absent.sum.count, slot.own_hand), (0, true));
    assert_eq!(slot.source, None, "it is this node that sends the slot");
}

/// sync/PROTOCOL.md R-31. The sender may never hear of a reign this short, and believes that its slot is here.
#[test]
fn a_short_reign_between_a_slot_s_records_is_told_to_its_sender() {
    for (open, told) in [(false, 1), (true, 0)] {
        let mut tables = lacking();
        if open {
            start(&mut tables, 2, version(3));
        }
        let roles = Roles::new(1);
        for role in [Role::Backup, Role::Master] {
            roles.set(AT.vrf, role, TERM);
            tables.observe_roles(&roles, NOW);
        }
        let fenced = tables.counters.absorb_fenced;
        tell(&mut tables, lane(1), Delta::Put(refused_flow(5)));
        assert_eq!(tables.counters.absorb_fenced, fenced + 1, "it let a record pass");
        roles.set(AT.vrf, Role::Backup, LATER);
        tables.observe_roles(&roles, NOW);

        let (producer, mut consumer) = RingBuffer::new(16);
        let mut rings = [producer];
        emit(&mut tables, &mut rings, 16, NOW);
        emit(&mut tables, &mut rings, 16, NOW);
        let items: Vec<_> = core::iter::from_fn(|| consumer.pop().ok()).collect();
        let missed = ToEvent::SlotMissed {
            at: AT,
            lane: lane(1),
            generation: 1,
        };
        let found = items.iter().filter(|item| **item == missed).count();
        assert_eq!(found, told, "{items:?}");
    }
}

/// sync/PROTOCOL.md R-36. What it lacked doesn't count any more when it has taken over. If it writes, its versions are its own;
/// if it doesn't, the one it has stands for more than it holds.
#[test]
fn a_node_that_lacked_entries_and_was_active_in_vain_offers_no_exact_slot() {
    for writes in [false, true] {
        let mut tables = lacking();
        if writes {
            tables.slots.get_mut(AT).unwrap().next_version(LATER);
        }
        tables.slots.demoted(AT.vrf, |_, _| {});
        let query = ToWorker::SlotQuery {
            at: AT,
            lane: lane(2),
            generation: 2,
        };
        let Some(ToEvent::SlotOffer { offer, .. }) = give(&mut tables, query) else {
            panic!("no offer");
        };
        assert_eq!((offer.count, offer.absent, offer.exact), (1, 0, writes));
    }
}

/// The sender has ended a flow without a record, sends the slot whole for that, and releases the flow's block behind its walk:
/// flow and block are swept together.
#[test]
fn a_block_that_is_released_under_flows_that_ended_without_a_word_is_swept_with_them() {
    let mut tables = standby(ROOMY);
    start(&mut tables, 1, version(2));
    let granted = block(1, 0x100, true, version(1));
    let flow = refused_flow(2);
    for delta in [Delta::Block(granted), Delta::Put(flow)] {
        tell(&mut tables, lane(1), delta);
    }
    let end = |generation, entries: &[u64]| SlotEnd {
        generation,
        count: u32::try_from(entries.len()).unwrap(),
        digest: entries.iter().copied().fold(0, u64::wrapping_add),
        version: version(2 + u64::from(generation)),
    };
    let both = [block_digest(&granted), conntrack_digest(&flow)];
    assert_eq!(stop(&mut tables, end(1, &both)), Some(0));
    start(&mut tables, 2, version(3));
    tell(&mut tables, lane(2), Delta::Block(granted));
    tell(
        &mut tables,
        lane(2),
        Delta::Block(block(1, 0x100, false, version(4))),
    );
    assert_eq!(held(&tables).1.len(), 1, "in use by the flow");
    assert_eq!(stop(&mut tables, end(2, &[])), Some(0));
    assert_eq!(held(&tables), (vec![], vec![]));
}
