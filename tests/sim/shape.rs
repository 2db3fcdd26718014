//! What a seed's nodes look like and how its link behaves. Most are small: in tables of a few places and rings of two,
//! rare things happen all the time, and a thousand seeds cost what one big pair does.

use core::time::Duration;

use dataplane::config::{
    Care, CommitIntent, OutputCommit, PortRange, RuleIntent, StandbyPolicy, SyncPolicy, Timeouts,
};
use dataplane::flow::proto;
use testkit::config::{LAN_IF, Setup, WAN_IF, accept};
use testkit::network::Weather;
use testkit::random::Random;

/// Sizes of a pair, and of what happens to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Events of the schedule.
    pub(crate) events: usize,
    /// Subscribers that talk.
    pub(crate) hosts: u64,
    /// Packets of one event at most.
    pub(crate) packets: u64,
    /// One turn of a thread in so many is followed by something sudden; 0 for none.
    pub(crate) fury: u64,
    slots: [u16; 3],
    threads: u64,
    rings: [usize; 3],
    conntracks: [usize; 3],
    blocks: [u16; 3],
}

/// Ports of a block: the smallest that can be configured.
const BLOCK_SIZE: u16 = 64;

const SMALL: Scale = Scale {
    events: 30,
    hosts: 5,
    packets: 12,
    fury: 0,
    slots: [1, 2, 4],
    threads: 2,
    rings: [2, 4, 16],
    conntracks: [64, 64, 256],
    blocks: [1, 2, 6],
};

const BIG: Scale = Scale {
    events: 60,
    hosts: 24,
    packets: 80,
    fury: 0,
    slots: [4, 16, 64],
    threads: 4,
    rings: [64, 128, 1_024],
    conntracks: [4_096; 3],
    blocks: [8, 24, 24],
};

impl Scale {
    /// One pair in eight is big.
    pub(crate) fn of(random: &mut Random) -> Self {
        let scale = if random.one_in(8) { BIG } else { SMALL };
        Self {
            fury: [0, 400, 60][random.index(3)],
            ..scale
        }
    }

    /// Both nodes: what must be equal is, what may differ does.
    pub(crate) fn pair(&self, random: &mut Random) -> [Setup; 2] {
        let common = Setup {
            slots: self.slots[random.index(3)],
            sync_v6: random.one_in(4),
            second_vrf: random.one_in(6),
            timeouts: if random.one_in(2) {
                short()
            } else {
                Timeouts::default()
            },
            mappings: 4_096,
            pool_addresses: [1, 2][random.index(2)],
            pool_ports: PortRange {
                first: 1_024,
                last: 1_024 + BLOCK_SIZE * self.blocks[random.index(3)] - 1,
            },
            block_size: BLOCK_SIZE,
            port_rest_s: [1, 3][random.index(2)],
            block_idle_s: [1, 3][random.index(2)],
            boot_wait: Duration::from_millis(600),
            ..Setup::default()
        };
        let conntracks = if random.one_in(4) {
            [8, 16, 24][random.index(3)]
        } else {
            self.conntracks[random.index(3)]
        };
        let rules = rules(&mut random.clone());
        let output_commit = commit(&mut random.clone());
        let elected = random.clone().one_in(3);
        // Two pairs in three may have other room later.
        let most = (!random.clone().one_in(3)).then_some(4 * conntracks);
        let redirects = redirects(&mut random.clone());
        [(); 2].map(|()| {
            let mut setup = Setup {
                conntracks,
                conntracks_most: most,
                rules: rules.clone(),
                output_commit,
                elected,
                held_packets: 16,
                standby: redirects.0,
                redirect_packets_per_s: redirects.1,
                redirect_bytes: redirects.2,
                ..common.clone()
            };
            self.rethread(&mut setup, random);
            setup
        })
    }

    /// Another number of threads, and other rings between them: what a restart may bring.
    pub(crate) fn rethread(&self, setup: &mut Setup, random: &mut Random) {
        setup.workers = u16::try_from(random.between(1, self.threads)).unwrap();
        setup.events = u16::try_from(random.between(1, self.threads.min(3))).unwrap();
        setup.ring_entries = self.rings[random.index(3)];
    }
}

/// What a standby does with packets, how many of them per second, and with how much room for them.
fn redirects(random: &mut Random) -> (StandbyPolicy, u32, usize) {
    (
        [StandbyPolicy::Drop, StandbyPolicy::Redirect][random.index(2)],
        [100, 100_000][random.index(2)],
        [200, 65_536][random.index(2)],
    )
}

/// Far below what the RFCs allow, so that much ends while much else happens.
pub(crate) const fn short() -> Timeouts {
    Timeouts {
        tcp_opening_s: 4,
        tcp_established_s: 20,
        tcp_closing_s: 3,
        tcp_reset_s: 3,
        udp_opening_s: 5,
        udp_established_s: 9,
        icmp_s: 4,
        other_s: 6,
    }
}

pub(crate) fn weather(random: &mut Random) -> Weather {
    Weather {
        delay: Duration::from_micros(random.between(10, 3_000)),
        jitter: Duration::from_micros(random.below(4_000)),
        spread: Duration::from_millis([0, 0, 30, 300][random.index(4)]),
        room: [600, 5_000, 1 << 20][random.index(3)],
        partial: random.one_in(2),
        fragile: [0, 0, 2_000, 100][random.index(4)],
    }
}

/// A rule for each protocol, with a policy about syncing or without.
pub(crate) fn rules(random: &mut Random) -> Vec<RuleIntent> {
    let rule = |(id, protocol)| RuleIntent {
        protocol,
        care: Care {
            sync: policy(random),
            output_commit: None,
        },
        ..accept(id, Some(LAN_IF), Some(WAN_IF))
    };
    [(10, Some(proto::TCP)), (20, Some(proto::UDP)), (30, None)]
        .map(rule)
        .into()
}

/// Packets mostly leave at once: those that wait make no traffic for the schedule to go on with.
fn commit(random: &mut Random) -> CommitIntent {
    let policy = match random.below(12) {
        0 => OutputCommit::Open,
        1 | 2 => OutputCommit::Closed,
        _ => OutputCommit::Off,
    };
    CommitIntent {
        policy,
        ..CommitIntent::default()
    }
}

fn policy(random: &mut Random) -> Option<SyncPolicy> {
    match random.below(8) {
        0 => Some(SyncPolicy::Never),
        1 => Some(SyncPolicy::After(u32::try_from(random.between(1, 4)).unwrap())),
        2 => Some(SyncPolicy::Always),
        _ => None,
    }
}
