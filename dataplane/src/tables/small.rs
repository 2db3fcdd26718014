//! Small tables for tests of what is done to them: one VRF of four slots, one lane, and flows that have a number.

use std::sync::Arc;

use super::{Limits, Tables};
use crate::config::{Intent, Timeouts};
use crate::conntrack::{Conntrack, State, Tuples, udp};
use crate::delta::SlotRef;
use crate::flow::{Addr, FlowKey, VrfId, proto};
use crate::nat::{NatLimits, Pools};
use crate::room::Sizes;
use crate::time::Instant;

/// As many conntracks, and four of everything else.
pub(crate) const fn sizes(conntracks: usize) -> Sizes {
    Sizes {
        conntracks,
        nat: NatLimits {
            subscribers: 4,
            blocks: 4,
            mappings: 4,
            events: 4,
        },
    }
}

/// Tables with room for `conntracks`, and address space for more where `reserve` says so.
pub(crate) fn tables(conntracks: usize, reserve: Option<Sizes>) -> Tables {
    let limits = Limits {
        conntracks,
        nat: sizes(0).nat,
        reserve,
        held_packets: 4,
        limited_sources: 4,
        redirect_packets_per_s: 0,
    };
    let pools = Arc::new(Pools::new(&Intent::default()));
    Tables::new((0, 1), 1, &[4], limits, pools, 7)
}

/// The original tuple of flow `n`.
pub(crate) fn key(n: u16) -> FlowKey {
    FlowKey {
        src: Addr::v4([10, 0, 0, 1]),
        dst: Addr::v4([192, 0, 2, 1]),
        src_port: n,
        dst_port: 53,
        vrf: VrfId(0),
        proto: proto::UDP,
    }
}

/// The slot of flow `n`.
pub(crate) const fn at(n: u16) -> SlotRef {
    SlotRef {
        vrf: VrfId(0),
        slot: n % 4,
    }
}

/// Flow `n`, opened at `now`.
pub(crate) fn conntrack(n: u16, now: Instant) -> Conntrack {
    let key = key(n);
    let tuples = Tuples::new(&[key, key.reversed()]).unwrap();
    let state = State::Udp(udp::Track::open());
    Conntrack::new(tuples, at(n).slot, state, &Timeouts::default(), now)
}
