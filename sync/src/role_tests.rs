//! The table, row by row and in all combinations; then the machine's own words: terms, orders, waiting.

use super::*;
use crate::board::PeerVrf;
use crate::handover::DRAIN_MAX;
use Desire::{Ordered, Preferred};
use Role::{Fault, Master};
use Situation::{Active, Free, Importing, Invited, Lost, Telling, Untold, Waiting};

const ROLES: [Role; 3] = [Fault, Role::Backup, Master];
const DESIRES: [Desire; 3] = [Desire::Backup, Preferred, Ordered];
const SITUATIONS: [Situation; 8] = [Importing, Invited, Untold, Waiting, Lost, Telling, Active, Free];

/// What is expected, written out: rows by role and desire, columns by situation in the order above.
/// F, B and M are the next role; the second letter is the cause: i import unfinished, p master pending,
/// w waiting for peer, a peer active, o outranked, d draining,
/// t peer telling. Only a backup meets the second column, only a master that leaves the third, and only a backup that is
/// ordered the sixth.
const EXPECTED: [[&str; 8]; 9] = [
    ["Fi", "B", "B", "Fw", "Fw", "B", "B", "B"],
    ["Fi", "B", "B", "Fw", "Fw", "B", "B", "B"],
    ["Fp", "B", "B", "Fw", "B", "B", "B", "B"],
    ["Bi", "M", "B", "B", "B", "B", "B", "B"],
    ["Bi", "M", "M", "M", "M", "Bt", "Ba", "M"],
    ["Bp", "M", "M", "M", "M", "Bt", "M", "M"],
    ["Bo", "B", "Md", "B", "B", "B", "B", "B"],
    ["Bo", "M", "Md", "M", "M", "M", "M", "M"],
    ["Bo", "M", "Md", "M", "M", "M", "M", "M"],
];

fn meaning(cell: &str) -> (Role, Option<Cause>) {
    let role = match &cell[..1] {
        "F" => Fault,
        "B" => Role::Backup,
        _ => Master,
    };
    let cause = match &cell[1..] {
        "i" => Some(Cause::ImportUnfinished),
        "p" => Some(Cause::MasterPending),
        "w" => Some(Cause::WaitingForPeer),
        "a" => Some(Cause::PeerActive),
        "o" => Some(Cause::Outranked),
        "d" => Some(Cause::Draining),
        "t" => Some(Cause::PeerTelling),
        _ => None,
    };
    (role, cause)
}

#[test]
fn the_table_says_what_is_written_here_in_every_combination() {
    let rows = ROLES.into_iter().flat_map(|r| DESIRES.map(|d| (r, d)));
    for ((role, desire), cells) in rows.zip(EXPECTED) {
        for (situation, cell) in SITUATIONS.into_iter().zip(cells) {
            assert_eq!(
                decide(role, desire, situation),
                meaning(cell),
                "{role:?} {desire:?} {situation:?}"
            );
        }
    }
}

const WAIT: Duration = Duration::from_millis(100);

fn ms(ms: u64) -> Instant {
    Instant::from_ns(ms * 1_000_000)
}

/// A term in short: the reign above the low byte, the node in it; of boot 0.
const fn short(term: u64) -> Term {
    Term((term >> 8) << (Term::BOOT_BITS + 8) | term & 0xff)
}

/// The term that the machine takes above so many reigns.
const fn taken_above(reigns: u64) -> Term {
    short(reigns << 8).next_of(1, 77)
}

/// Node 1's machine at time 0.
fn machine(desire: Desire, peers: usize) -> RoleMachine {
    RoleMachine::new((1, 77), true, desire, peers, WAIT, ms(0))
}

fn gone() -> PeerView {
    PeerView {
        slots: 8,
        ..PeerView::default()
    }
}

/// Node 2, all lanes up, of whose slots so many have been imported.
fn peer(role: Role, term: u64, verified: u32) -> PeerView {
    PeerView {
        vrf: Some(PeerVrf {
            role,
            term: short(term),
            ready: true,
            equal: true,
            handover: Handover::None,
            takes_invitations: true,
        }),
        heard: short(term),
        node: 2,
        slots: 8,
        verified,
        exported: 0,
        drained: 0,
        clients_up: 2,
        clients_total: 2,
        locals_up: 2,
        locals_total: 2,
    }
}

///
#[test]
fn doubt_ends_when_one_has_everything_of_the_other_and_only_one_is_active() {
    let mut m = machine(Preferred, 1);
    assert!(m.step(ms(99), &[gone()]).in_doubt, "never heard");
    let mut doubt = |view| m.step(ms(100), &[view]).in_doubt;
    assert!(doubt(gone()));
    let exported = |exported, role| PeerView {
        exported,
        ..peer(role, 0x001, 0)
    };
    assert!(doubt(exported(7, Role::Backup)), "one slot is missing");
    assert!(!doubt(exported(8, Role::Backup)));
    assert!(doubt(exported(8, Master)), "the other one is active as well");
    assert!(doubt(gone()));
    // Now the other way round: this node imports.
    m.order(Desire::Backup);
    let mut doubt = |view| m.step(ms(101), &[view]).in_doubt;
    assert!(doubt(peer(Role::Backup, 0x902, 7)));
    assert!(!doubt(peer(Role::Backup, 0x902, 8)));
}

#[test]
fn a_peer_declared_dead_is_believed_to_be_until_it_is_heard() {
    let mut m = machine(Preferred, 2);
    assert_eq!(m.declare_dead(2), Err(DeclareError::NoPeer));
    let settled = PeerView {
        exported: 8,
        ..peer(Role::Backup, 0, 0)
    };
    m.step(ms(100), &[gone(), settled]);
    assert_eq!(m.declare_dead(1), Err(DeclareError::Alive));
    assert_eq!(m.declare_dead(0), Ok(()));
    assert!(!m.step(ms(101), &[gone(), settled]).in_doubt);
    assert!(
        m.step(ms(102), &[gone(), gone()]).in_doubt,
        "the other one isn't declared dead"
    );
    assert!(m.step(ms(103), &[peer(Fault, 0, 0), settled]).in_doubt, "heard");
    assert!(m.step(ms(104), &[gone(), settled]).in_doubt, "and gone again");
}

#[test]
fn a_vrf_without_a_group_is_alone_for_ever() {
    let mut machine = RoleMachine::new((1, 77), false, Desire::Backup, 1, WAIT, ms(0));
    let decision = machine.step(ms(1), &[peer(Master, 0x202, 0)]);
    assert_eq!((decision.role, decision.in_doubt), (Role::Alone, false));
}

#[test]
fn fault_ends_only_when_the_last_peer_is_done() {
    let mut m = machine(Preferred, 2);
    let third = |verified| PeerView {
        node: 3,
        ..peer(Role::Backup, 0x103, verified)
    };
    assert_eq!(m.step(ms(1), &[gone(), third(7)]).role, Fault);
    assert_eq!(
        m.step(ms(2), &[peer(Fault, 0, 0), third(7)]).cause,
        Some(Cause::ImportUnfinished)
    );
    let done = m.step(ms(3), &[peer(Fault, 0, 0), third(8)]);
    assert_eq!((done.role, done.term), (Master, taken_above(1)));
}

#[test]
fn in_fault_no_term_is_taken_over_before_its_state_is() {
    // The term of its own former reign: with it, an empty node would be the sender.
    let mut m = machine(Desire::Backup, 1);
    let old = |verified| peer(Role::Backup, 0x101, verified);
    assert_eq!(m.step(ms(1), &[old(0)]).term, Term::NONE);
    assert_eq!(m.step(ms(2), &[old(7)]).term, Term::NONE);
    let done = m.step(ms(3), &[old(8)]);
    assert_eq!((done.role, done.term), (Role::Backup, short(0x101)));
}

#[test]
fn a_silent_peer_is_waited_for_and_no_longer() {
    let mut m = machine(Preferred, 1);
    assert_eq!(m.step(ms(99), &[gone()]).cause, Some(Cause::WaitingForPeer));
    assert_eq!(m.step(ms(100), &[gone()]).role, Master);
}

#[test]
fn an_ordered_master_takes_over_at_once_when_the_peer_it_imports_from_dies() {
    let mut m = machine(Preferred, 1);
    m.order(Ordered);
    assert_eq!(
        m.step(ms(1), &[peer(Master, 0x202, 3)]).cause,
        Some(Cause::MasterPending)
    );
    let taken = m.step(ms(2), &[gone()]);
    assert_eq!((taken.role, taken.term), (Master, taken_above(2)));
}

#[test]
fn one_that_only_prefers_waits_before_it_takes_over_from_a_dead_peer() {
    let mut m = machine(Preferred, 1);
    m.step(ms(50), &[peer(Master, 0x202, 3)]);
    assert_eq!(m.step(ms(149), &[gone()]).role, Fault);
    assert_eq!(m.step(ms(150), &[gone()]).role, Master);
}

#[test]
fn a_backup_follows_the_higher_term_and_takes_over_above_all_it_has_seen() {
    let mut m = machine(Preferred, 1);
    assert_eq!(m.step(ms(1), &[peer(Fault, 0, 0)]).term, taken_above(0));
    let demoted = m.step(ms(2), &[peer(Master, 0x902, 0)]);
    assert_eq!(
        (demoted.role, demoted.term, demoted.cause),
        (Role::Backup, short(0x902), Some(Cause::Outranked))
    );
    assert_eq!(
        m.step(ms(3), &[peer(Master, 0x902, 7)]).cause,
        Some(Cause::ImportUnfinished)
    );
    let idle = m.step(ms(4), &[peer(Master, 0x902, 8)]);
    assert_eq!((idle.cause, idle.ready), (Some(Cause::PeerActive), true));
    let taken = m.step(ms(5), &[gone()]);
    assert_eq!((taken.role, taken.term), (Master, taken_above(9)));
}

/// Its standby may hold entries of the former reign under every version that the next one would give out.
#[test]
fn a_rebooted_node_that_finds_nobody_does_not_take_its_former_term_again() {
    let term = |boot_id| {
        let mut m = RoleMachine::new((1, boot_id), true, Preferred, 1, WAIT, ms(0));
        m.step(ms(100), &[gone()]).term
    };
    assert_ne!(term(1), term(2));
    assert_eq!((term(1).reign(), term(1).node()), (1, 1));
}

/// with that term the node would send what it lacks. The peer, which is no more active than it, has everything.
#[test]
fn a_backup_takes_the_term_of_its_own_former_reign_when_it_has_imported_that() {
    let mut m = machine(Desire::Backup, 1);
    assert_eq!(m.step(ms(100), &[gone()]).role, Role::Backup);
    let importing = m.step(ms(101), &[peer(Role::Backup, 0x501, 7)]);
    assert_eq!((importing.role, importing.term), (Role::Backup, Term::NONE));
    assert_eq!(importing.cause, Some(Cause::ImportUnfinished));
    let whole = m.step(ms(102), &[peer(Role::Backup, 0x501, 8)]);
    assert_eq!((whole.term, whole.cause), (short(0x501), None));
}

/// R-30, when it has reigned since.
#[test]
fn a_backup_gives_its_term_up_for_one_of_a_former_reign_that_a_peer_kept() {
    let mut m = machine(Preferred, 1);
    assert_eq!(m.step(ms(100), &[gone()]).term, taken_above(0));
    let step = |m: &mut RoleMachine, verified| m.step(ms(101), &[peer(Role::Backup, 0x501, verified)]).term;
    assert_eq!(step(&mut m, 0), Term::NONE);
    assert_eq!(step(&mut m, 3), Term::NONE);
    assert_eq!(step(&mut m, 8), taken_above(5), "it prefers to be master");
}

/// A slot that was half imported from a node which then lost everything is of a term that nobody has any more.
#[test]
fn a_master_goes_above_a_term_that_it_hears_of_and_nobody_claims() {
    let mut m = machine(Preferred, 1);
    assert_eq!(m.step(ms(100), &[gone()]).term, taken_above(0));
    let view = PeerView {
        heard: short(0x502),
        ..peer(Role::Backup, 0, 0)
    };
    let above = m.step(ms(101), &[view]);
    assert_eq!((above.role, above.term), (Master, taken_above(5)));
    assert_eq!(m.step(ms(102), &[view]).term, above.term);
}

/// The peer came and went between two looks at the board.
#[test]
fn a_take_over_goes_above_a_term_that_was_heard_and_is_gone() {
    let mut m = machine(Preferred, 1);
    let view = PeerView {
        heard: short(0x302),
        ..gone()
    };
    assert_eq!(m.step(ms(100), &[view]).term, taken_above(3));
}

#[test]
fn a_lower_term_does_not_demote() {
    let mut m = machine(Preferred, 1);
    m.step(ms(100), &[gone()]);
    assert_eq!(m.step(ms(101), &[peer(Master, 0x2, 0)]).role, Master);
}

#[test]
fn an_order_is_carried_out_once() {
    let mut m = machine(Desire::Backup, 1);
    m.step(ms(1), &[peer(Fault, 0, 0)]);
    m.order(Ordered);
    let told = says(peer(Master, 0x102, 8), Handover::Told(1));
    assert_eq!(m.step(ms(2), &[told]).role, Master);
    assert_eq!(m.desire(), Preferred);
    m.step(ms(3), &[peer(Master, 0x302, 0)]);
    let stays = m.step(ms(4), &[peer(Master, 0x302, 8)]);
    assert_eq!((stays.role, stays.cause), (Role::Backup, Some(Cause::PeerActive)));
}

#[test]
fn an_ordered_backup_keeps_its_term_and_does_not_return_by_itself() {
    let mut m = machine(Preferred, 1);
    m.step(ms(100), &[gone()]);
    m.order(Desire::Backup);
    let down = m.step(ms(101), &[gone()]);
    assert_eq!((down.role, down.term), (Role::Backup, taken_above(0)));
    assert_eq!(
        m.step(ms(900), &[peer(Role::Backup, 0x101, 0)]).role,
        Role::Backup
    );
}

/// Node 1 is master, node 2 stands by and has everything; node 1 is told to stand by at 100 ms.
fn draining() -> (RoleMachine, PeerView) {
    let mut m = machine(Preferred, 1);
    let stands_by = PeerView {
        exported: 8,
        ..peer(Role::Backup, 0, 0)
    };
    assert_eq!(m.step(ms(99), &[stands_by]).role, Master);
    m.order(Desire::Backup);
    let decision = m.step(ms(100), &[stands_by]);
    assert_eq!(
        (decision.role, decision.cause, decision.drain, decision.ready),
        (Master, Some(Cause::Draining), 1, true)
    );
    assert_eq!(m.take_drain_end(), None);
    (m, stands_by)
}

fn says(view: PeerView, handover: Handover) -> PeerView {
    let vrf = view.vrf.map(|v| PeerVrf { handover, ..v });
    PeerView { vrf, ..view }
}

///
#[test]
fn a_backup_that_is_ordered_takes_over_when_the_active_peer_has_told_what_it_kept_back() {
    let active = peer(Master, 0x202, 8);
    let ordered = |m: &mut RoleMachine| {
        m.step(ms(1), &[active]);
        m.order(Ordered);
        m.step(ms(100), &[active])
    };
    let mut m = machine(Desire::Backup, 1);
    let waits = ordered(&mut m);
    assert_eq!(
        (waits.role, waits.cause, waits.handover, waits.ready),
        (Role::Backup, Some(Cause::PeerTelling), Handover::Asked(1), true)
    );
    let of_an_older_wish = says(active, Handover::Told(0));
    assert_eq!(m.step(ms(110), &[of_an_older_wish]).role, Role::Backup);
    let taken = m.step(ms(111), &[says(active, Handover::Told(1))]);
    assert_eq!((taken.role, taken.handover), (Master, Handover::None));
    // Patience has an end: soon with a peer that doesn't know the question, or is dead and not missed yet.
    for (view, last) in [(active, 199), (says(active, Handover::Telling(1)), 2_099)] {
        let mut m = machine(Desire::Backup, 1);
        ordered(&mut m);
        assert_eq!(m.step(ms(last), &[view]).role, Role::Backup);
        assert_eq!(m.step(ms(last + 1), &[view]).role, Master);
    }
    // A peer that dies, or stands by, has nothing left to tell.
    for view in [gone(), peer(Role::Backup, 0x202, 8)] {
        let mut m = machine(Desire::Backup, 1);
        ordered(&mut m);
        assert_eq!(m.step(ms(101), &[view]).role, Master);
    }
    // The order is taken back.
    let mut m = machine(Desire::Backup, 1);
    ordered(&mut m);
    m.order(Desire::Backup);
    let stays = m.step(ms(101), &[active]);
    assert_eq!((stays.role, stays.handover), (Role::Backup, Handover::None));
}

#[test]
fn an_election_has_moved_the_traffic_so_nobody_is_asked() {
    let mut m = machine(Desire::Backup, 1).elected();
    m.step(ms(1), &[peer(Master, 0x202, 8)]);
    m.order(Ordered);
    assert_eq!(m.step(ms(2), &[peer(Master, 0x202, 8)]).role, Master);
}

/// A master since 99 ms whose peer has every slot, and that peer asking for the role.
fn asked_master() -> (RoleMachine, PeerView) {
    let mut m = machine(Preferred, 1);
    let stands_by = PeerView {
        exported: 8,
        ..peer(Role::Backup, 0, 0)
    };
    m.step(ms(99), &[stands_by]);
    (m, says(stands_by, Handover::Asked(9)))
}

/// R-45, the other end.
#[test]
fn a_master_that_is_asked_drains_says_so_and_stays_until_it_is_outranked() {
    let (mut m, asks) = asked_master();
    let drains = m.step(ms(100), &[asks]);
    assert_eq!(
        (drains.role, drains.cause, drains.drain, drains.handover),
        (Master, Some(Cause::Draining), 1, Handover::Telling(9))
    );
    let drained = PeerView { drained: 1, ..asks };
    for at in [101, 9_000] {
        let told = m.step(ms(at), &[drained]);
        assert_eq!(
            (told.role, told.cause, told.drain, told.handover),
            (Master, None, 1, Handover::Told(9))
        );
    }
    let down = m.step(ms(9_001), &[peer(Master, 0x902, 0)]);
    assert_eq!((down.role, down.handover), (Role::Backup, Handover::None));
    assert_eq!(ended(&mut m), (DrainEnd::Complete, 8_901));
}

/// what a peer has acknowledged because it asked says nothing about what was opened since.
#[test]
fn an_order_to_stand_by_is_drained_for_although_a_peer_that_asked_was_told() {
    let (mut m, asks) = asked_master();
    m.step(ms(100), &[asks]);
    let drained = |drained| PeerView { drained, ..asks };
    assert_eq!(m.step(ms(101), &[drained(1)]).handover, Handover::Told(9));
    m.order(Desire::Backup);
    for at in [102, 103] {
        let again = m.step(ms(at), &[drained(1)]);
        assert_eq!(
            (again.role, again.cause, again.drain, again.handover),
            (Master, Some(Cause::Draining), 2, Handover::Telling(9))
        );
    }
    let down = m.step(ms(104), &[drained(2)]);
    assert_eq!((down.role, down.drain), (Role::Backup, 0));
    assert_eq!(ended(&mut m), (DrainEnd::Complete, 2));
}

#[test]
fn a_wish_that_is_taken_back_ends_the_drain() {
    let mut m = machine(Preferred, 1);
    let stands_by = PeerView {
        exported: 8,
        ..peer(Role::Backup, 0, 0)
    };
    m.step(ms(99), &[stands_by]);
    m.step(ms(100), &[says(stands_by, Handover::Asked(9))]);
    let stays = m.step(ms(101), &[stands_by]);
    assert_eq!((stays.role, stays.drain, stays.cause), (Master, 0, None));
    assert_eq!(ended(&mut m), (DrainEnd::Cancelled, 1));
}

fn ended(m: &mut RoleMachine) -> (DrainEnd, u128) {
    let (end, took) = m.take_drain_end().unwrap();
    assert_eq!(m.take_drain_end(), None, "told once");
    (end, took.as_millis())
}

#[test]
fn the_role_is_given_up_when_the_peer_has_acknowledged_what_the_drain_told() {
    let (mut m, peer) = draining();
    let drained = |drained, exported| PeerView {
        drained,
        exported,
        ..peer
    };
    assert_eq!(
        m.step(ms(110), &[drained(1, 7)]).role,
        Master,
        "a slot is being sent"
    );
    let down = m.step(ms(111), &[drained(1, 8)]);
    assert_eq!((down.role, down.cause, down.drain), (Role::Backup, None, 0));
    assert_eq!(down.term, taken_above(0), "the term stays");
    assert_eq!(ended(&mut m), (DrainEnd::Complete, 11));
    // The acknowledgement of one drain says nothing about the next.
    m.order(Ordered);
    assert_eq!(m.step(ms(112), &[drained(1, 8)]).role, Master);
    m.order(Desire::Backup);
    let again = m.step(ms(113), &[drained(1, 8)]);
    assert_eq!((again.role, again.drain), (Master, 2));
}

#[test]
fn a_peer_that_never_acknowledges_puts_the_demotion_off_for_so_long_and_no_longer() {
    let (mut m, peer) = draining();
    let late = ms(100) + DRAIN_MAX;
    assert_eq!(m.step(ms(2_099), &[peer]).role, Master);
    let down = m.step(late, &[peer]);
    assert_eq!((down.role, down.drain), (Role::Backup, 0));
    assert_eq!(ended(&mut m), (DrainEnd::Late, DRAIN_MAX.as_millis()));
}

#[test]
fn without_a_live_peer_there_is_nobody_to_drain_for() {
    let mut m = machine(Preferred, 1);
    m.step(ms(100), &[gone()]);
    m.order(Desire::Backup);
    assert_eq!(m.step(ms(101), &[gone()]).role, Role::Backup);
    assert_eq!(ended(&mut m), (DrainEnd::Alone, 0));
    let (mut m, _) = draining();
    assert_eq!(
        m.step(ms(150), &[gone()]).role,
        Role::Backup,
        "died in the middle"
    );
    assert_eq!(ended(&mut m), (DrainEnd::Alone, 50));
}

#[test]
fn a_higher_term_ends_a_drain_at_once() {
    let (mut m, _) = draining();
    let down = m.step(ms(120), &[peer(Master, 0x902, 0)]);
    assert_eq!(
        (down.role, down.cause, down.drain),
        (Role::Backup, Some(Cause::Outranked), 0)
    );
    assert_eq!(ended(&mut m), (DrainEnd::Outranked, 20));
}

#[test]
fn an_order_to_stay_ends_a_drain_and_keeps_the_term() {
    let (mut m, peer) = draining();
    m.order(Ordered);
    let stays = m.step(ms(120), &[peer]);
    assert_eq!(
        (stays.role, stays.term, stays.cause, stays.drain),
        (Master, taken_above(0), None, 0)
    );
    assert_eq!(ended(&mut m), (DrainEnd::Cancelled, 20));
}

#[test]
fn readiness_names_the_one_thing_that_is_missing() {
    let mut m = machine(Desire::Backup, 1);
    let good = peer(Master, 0x202, 8);
    m.step(ms(1), &[good]);
    let step = |m: &mut RoleMachine, view| {
        let decision = m.step(ms(2), &[view]);
        (decision.ready, decision.cause)
    };
    assert_eq!(step(&mut m, good), (true, None));
    assert_eq!(
        step(
            &mut m,
            PeerView {
                clients_up: 1,
                ..good
            }
        ),
        (false, Some(Cause::LanesDown))
    );
    assert_eq!(
        step(&mut m, PeerView { locals_up: 1, ..good }),
        (false, Some(Cause::LanesDown))
    );
    assert_eq!(
        step(&mut m, PeerView { verified: 7, ..good }),
        (false, Some(Cause::ImportUnfinished))
    );
    let differs = PeerView {
        vrf: good.vrf.map(|v| PeerVrf { equal: false, ..v }),
        ..good
    };
    assert_eq!(step(&mut m, differs), (false, Some(Cause::ConfigDiffers)));
}

/// A standby of node 2 that has imported everything and waits for its workers.
fn foreseeing() -> RoleMachine {
    let mut m = machine(Desire::Backup, 1).foreseeing();
    let full = peer(Master, 0x102, 8);
    let first = m.step(ms(0), &[full]);
    assert_eq!((first.role, first.ready), (Role::Backup, false));
    assert_eq!(first.cause, Some(Cause::Neighbors(None)));
    assert_ne!(m.look(), 0);
    m
}

#[test]
fn a_node_is_ready_when_the_neighbors_of_the_flows_it_was_told_are_known() {
    let mut m = foreseeing();
    let full = [peer(Master, 0x102, 8)];
    m.foresee(Some(30));
    let missing = m.step(ms(10), &full);
    assert_eq!(
        (missing.cause, missing.ready),
        (Some(Cause::Neighbors(Some(30))), false)
    );
    m.foresee(Some(0));
    let known = m.step(ms(20), &full);
    assert_eq!((known.cause, known.ready, m.look()), (None, true, 0));
    // What new flows need is asked for in passing.
    assert!(m.step(ms(30), &full).ready);
}

#[test]
fn a_neighbor_that_is_really_absent_is_given_up_and_so_are_workers_that_do_not_answer() {
    let full = [peer(Master, 0x102, 8)];
    let mut m = foreseeing();
    m.foresee(Some(1));
    assert!(!m.step(ms(100), &full).ready, "asked for now");
    assert!(!m.step(ms(3_099), &full).ready);
    assert!(m.step(ms(3_100), &full).ready);
    let mut m = foreseeing();
    assert!(!m.step(ms(29_999), &full).ready);
    assert!(m.step(ms(30_000), &full).ready);
}

#[test]
fn neighbors_are_looked_for_anew_when_a_peer_was_away_and_never_in_the_way_of_a_role() {
    let full = [peer(Master, 0x102, 8)];
    let mut m = foreseeing();
    let first = m.look();
    m.foresee(Some(0));
    assert!(m.step(ms(10), &full).ready);
    m.step(ms(20), &[gone()]);
    let importing = m.step(ms(30), &[peer(Master, 0x102, 3)]);
    assert_eq!((importing.cause, m.look()), (Some(Cause::ImportUnfinished), 0));
    let again = m.step(ms(40), &full);
    assert_eq!(again.cause, Some(Cause::Neighbors(None)));
    assert!(m.look() > first, "an answer to the first question isn't one");
    m.step(ms(50), &[gone()]);
    m.order(Ordered);
    let alone = m.step(ms(200), &[gone()]);
    assert_eq!((alone.role, alone.ready, m.look()), (Master, true, 0));
}
