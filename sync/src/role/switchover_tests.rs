//! Each step of a switchover, and each way it can end, at both ends.

use dataplane::delta::Term;
use dataplane::role::Role::{self, Backup, Master};

use super::super::{Cause, Decision, Desire, RoleMachine};
use super::*;
use crate::board::PeerVrf;
use crate::handover::Handover;

const THEIRS: u8 = 2;

fn ms(ms: u64) -> Instant {
    Instant::from_ns(ms * 1_000_000)
}

/// Reigns of boot 0, the node in the low byte.
const fn term(reigns: u64, node: u64) -> Term {
    Term(reigns << (Term::BOOT_BITS + 8) | node)
}

/// Node 2 under a term of its own, or none: all lanes up, all slots verified on both sides, drain 1 acknowledged or not.
fn peer(role: Role, reigns: u64, drained: u32, handover: Handover) -> PeerView {
    let term = if reigns == 0 { Term::NONE } else { term(reigns, 2) };
    PeerView {
        vrf: Some(PeerVrf {
            role,
            term,
            ready: true,
            equal: true,
            handover,
            takes_invitations: true,
        }),
        heard: term,
        node: THEIRS,
        slots: 8,
        verified: 8,
        exported: 8,
        drained,
        clients_up: 2,
        clients_total: 2,
        locals_up: 2,
        locals_total: 2,
    }
}

fn standby(drained: u32) -> PeerView {
    peer(Backup, 0, drained, Handover::None)
}

fn with(view: PeerView, change: fn(&mut PeerVrf)) -> PeerView {
    let mut vrf = view.vrf.unwrap();
    change(&mut vrf);
    PeerView {
        vrf: Some(vrf),
        ..view
    }
}

fn machine(desire: Desire) -> RoleMachine {
    RoleMachine::new((1, 77), true, desire, 1, Duration::from_millis(100), ms(0))
}

/// Node 1 is active, and told at 100 ms to hand the role to node 2.
fn begun() -> RoleMachine {
    let mut m = machine(Desire::Preferred);
    assert_eq!(m.step(ms(99), &[standby(0)]).role, Master);
    m.switch_over(ms(100), 0, &[standby(0)]).unwrap();
    let first = m.step(ms(100), &[standby(0)]);
    assert_eq!(
        (first.role, first.cause, first.drain, first.handover),
        (Master, Some(Cause::Draining), 1, Handover::None)
    );
    m
}

/// The peer has confirmed at 110 ms, and is invited at 120 ms.
fn invited() -> RoleMachine {
    let mut m = begun();
    let confirmed = m.step(ms(110), &[standby(1)]);
    assert_eq!(m.switchover(), Some(SwitchoverPhase::Confirmed));
    assert_eq!(
        (confirmed.role, confirmed.cause, confirmed.handover),
        (Master, Some(Cause::HandingOver), Handover::None)
    );
    m.hand_over(ms(120));
    let invites = m.step(ms(120), &[standby(1)]);
    assert_eq!(
        (invites.role, invites.handover),
        (Master, Handover::Invites(THEIRS))
    );
    m
}

fn ended(m: &mut RoleMachine) -> (SwitchoverEnd, u128) {
    let (end, took) = m.take_switchover_end().unwrap();
    assert_eq!(m.take_switchover_end(), None, "told once");
    (end, took.as_millis())
}

/// Still active, nothing said, nothing drained, nothing remembered.
fn assert_as_before(m: &mut RoleMachine, decision: Decision) {
    assert_eq!(
        (decision.role, decision.drain, decision.handover, m.switchover()),
        (Master, 0, Handover::None, None)
    );
    assert_eq!(m.desire(), Desire::Preferred);
}

#[test]
fn the_role_goes_when_the_peer_has_taken_it_and_not_before() {
    let mut m = invited();
    let late = m.step(ms(3_000), &[standby(1)]);
    assert_eq!((late.role, late.handover), (Master, Handover::Invites(THEIRS)));
    let down = m.step(
        ms(3_001),
        &[PeerView {
            verified: 0,
            ..peer(Master, 9, 1, Handover::None)
        }],
    );
    assert_eq!(
        (down.role, down.handover, down.drain, down.redirects_until),
        (Backup, Handover::None, 0, ms(3_001) + REDIRECT_MAX)
    );
    assert_eq!(ended(&mut m), (SwitchoverEnd::Done, 2_901));
    assert_eq!(
        m.desire(),
        Desire::Preferred,
        "it takes over again from a dead peer"
    );
}

/// Only for a peer that has everything, and not when the role was simply taken.
#[test]
fn who_has_handed_over_redirects_for_a_while_and_as_long_as_the_peer_is_there() {
    let taken_under = |reigns| PeerView {
        verified: 0,
        ..peer(Master, reigns, 1, Handover::None)
    };
    let taken = taken_under(9);
    let mut m = invited();
    let until = m.step(ms(130), &[taken]).redirects_until;
    assert_eq!(until, ms(130) + REDIRECT_MAX);
    assert_eq!(
        m.step(ms(140), &[taken]).redirects_until,
        until,
        "it isn't put off"
    );
    m.order(Desire::Backup);
    let alone = m.step(ms(150), &[PeerView::default()]);
    assert_eq!((alone.role, alone.redirects_until), (Backup, ms(0)));
    assert_eq!(m.step(ms(160), &[taken]).redirects_until, until);
    m.order(Desire::Ordered);
    let back = m.step(ms(161), &[peer(Backup, 9, 1, Handover::None)]);
    assert_eq!((back.role, back.redirects_until), (Master, ms(161) + EXPECT_MAX));
    let outranked = m.step(ms(170), &[taken_under(20)]);
    assert_eq!((outranked.role, outranked.redirects_until), (Backup, ms(0)));

    let mut m = begun();
    let outranked = m.step(ms(110), &[taken]);
    assert_eq!((outranked.role, outranked.redirects_until), (Backup, ms(0)));
}

/// An election announces its winner before the winner has the role.
#[test]
fn who_is_invited_redirects_until_it_has_the_role_or_is_no_longer_invited() {
    let invites = peer(Master, 2, 0, Handover::Invites(1));
    let says_nothing = peer(Master, 2, 0, Handover::None);
    let mut m = machine(Desire::Backup).elected();
    assert_eq!(m.step(ms(1), &[says_nothing]).redirects_until, ms(0));
    let lacks = PeerView {
        verified: 7,
        ..invites
    };
    assert_eq!(m.step(ms(2), &[lacks]).redirects_until, ms(0));
    for at in [3, 4] {
        let invited = m.step(ms(at), &[invites]);
        assert_eq!(
            (invited.role, invited.redirects_until),
            (Backup, ms(3) + TAKE_OVER_MAX)
        );
    }
    assert_eq!(
        m.step(ms(5), &[says_nothing]).redirects_until,
        ms(0),
        "taken back"
    );
    m.step(ms(6), &[invites]);
    m.order(Desire::Ordered);
    let taken = m.step(ms(7), &[invites]);
    assert_eq!((taken.role, taken.redirects_until), (Master, ms(7) + EXPECT_MAX));
    let later = m.step(ms(60), &[standby(1)]).redirects_until;
    assert_eq!(later, ms(7) + EXPECT_MAX, "it isn't put off");
    assert_eq!(
        m.step(ms(8), &[]).redirects_until,
        ms(0),
        "nobody is left to redirect"
    );
}

/// Its packets can't come any more: nobody waits for them.
#[test]
fn who_takes_over_from_a_dead_node_expects_nothing_of_it() {
    let mut m = machine(Desire::Preferred);
    m.step(ms(1), &[peer(Master, 2, 0, Handover::None)]);
    let mut alone = (0..100).map(|n| m.step(ms(2_000 + 100 * n), &[]));
    let taken = alone.find(|decision| decision.role.is_active());
    assert_eq!(taken.map(|decision| decision.redirects_until), Some(ms(0)));
}

#[test]
fn whatever_goes_wrong_at_whatever_step_leaves_the_role_here() {
    let gone = PeerView {
        slots: 8,
        ..PeerView::default()
    };
    let unready = with(standby(1), |vrf| vrf.ready = false);
    let lacks_a_slot = PeerView {
        exported: 7,
        ..standby(1)
    };
    for (what, from, at, view, end) in [
        (
            "dies",
            begun as fn() -> RoleMachine,
            101,
            gone,
            SwitchoverEnd::PeerGone,
        ),
        ("dies", invited, 121, gone, SwitchoverEnd::PeerGone),
        ("is silent", begun, 2_100, standby(0), SwitchoverEnd::NotConfirmed),
        ("isn't ready", begun, 2_100, unready, SwitchoverEnd::NotConfirmed),
        (
            "lacks a slot",
            begun,
            2_100,
            lacks_a_slot,
            SwitchoverEnd::NotConfirmed,
        ),
        ("stays", invited, 3_120, standby(1), SwitchoverEnd::NotTaken),
    ] {
        let mut m = from();
        if end != SwitchoverEnd::PeerGone {
            let waits = m.step(ms(at - 1), &[view]);
            assert_eq!((waits.role, m.take_switchover_end()), (Master, None), "{what}");
        }
        let decision = m.step(ms(at), &[view]);
        assert_as_before(&mut m, decision);
        assert_eq!(ended(&mut m), (end, u128::from(at) - 100), "{what}");
    }
}

#[test]
fn an_order_or_another_vrf_cancels_it_at_any_step() {
    for from in [begun as fn() -> RoleMachine, invited] {
        let mut m = from();
        m.cancel_switchover();
        let decision = m.step(ms(130), &[standby(1)]);
        assert_as_before(&mut m, decision);
        assert_eq!(ended(&mut m), (SwitchoverEnd::Cancelled, 30));

        let mut m = from();
        m.order(Desire::Backup);
        m.step(ms(130), &[standby(1)]);
        assert_eq!(ended(&mut m), (SwitchoverEnd::Cancelled, 30));
        m.step(ms(131), &[standby(2)]);
        assert_eq!(
            m.step(ms(132), &[standby(2)]).role,
            Backup,
            "the order is carried out"
        );
    }
}

/// VRFs of a group go together; while another one drains, this one may lose what it had confirmed.
#[test]
fn a_confirmation_lasts_as_long_as_the_peer_has_everything() {
    let mut m = begun();
    m.step(ms(110), &[standby(1)]);
    assert_eq!(m.switchover(), Some(SwitchoverPhase::Confirmed));
    let lacks = PeerView {
        exported: 7,
        ..standby(1)
    };
    m.step(ms(111), &[lacks]);
    assert_eq!(m.switchover(), Some(SwitchoverPhase::Draining));
    m.hand_over(ms(112));
    assert_eq!(
        m.step(ms(112), &[lacks]).handover,
        Handover::None,
        "not confirmed"
    );
    m.step(ms(113), &[standby(1)]);
    assert_eq!(m.switchover(), Some(SwitchoverPhase::Confirmed));
}

#[test]
fn it_begins_only_where_it_can_end_well_and_says_what_is_in_the_way() {
    use SwitchoverError as E;
    let mut m = machine(Desire::Preferred);
    assert_eq!(m.check_switchover(0, &[standby(0)]), Err(E::NotActive));
    m.step(ms(99), &[standby(0)]);
    let check = |view| m.check_switchover(0, &[view]).err();
    let good = standby(0);
    assert_eq!(check(good), None);
    assert_eq!(m.check_switchover(1, &[good]), Err(E::NoPeer));
    assert_eq!(check(PeerView::default()), Some(E::PeerGone));
    assert_eq!(check(with(good, |vrf| vrf.role = Master)), Some(E::PeerActive));
    assert_eq!(
        check(with(good, |vrf| vrf.takes_invitations = false)),
        Some(E::PeerOld)
    );
    assert_eq!(check(with(good, |vrf| vrf.equal = false)), Some(E::ConfigDiffers));
    assert_eq!(check(with(good, |vrf| vrf.ready = false)), Some(E::PeerUnready));
    let (verified, slots) = (7, 8);
    assert_eq!(
        check(PeerView {
            exported: verified,
            ..good
        }),
        Some(E::SlotsMissing { verified, slots })
    );
    let mut m = begun();
    assert_eq!(m.switch_over(ms(101), 0, &[good]), Err(E::UnderWay));
}

/// R-46, the other end.
#[test]
fn a_backup_that_is_invited_takes_over_and_stays_whatever_it_was_told_before() {
    for desire in [Desire::Backup, Desire::Preferred, Desire::Ordered] {
        let mut m = machine(Desire::Backup);
        m.step(ms(1), &[peer(Master, 2, 0, Handover::Invites(THEIRS))]);
        m.order(desire);
        assert!(!m.take_invited(), "another node is");
        let taken = m.step(ms(2), &[peer(Master, 2, 0, Handover::Invites(1))]);
        assert_eq!(
            (taken.role, taken.term > term(2, 2)),
            (Master, true),
            "{desire:?}"
        );
        assert!(m.take_invited());
        assert!(!m.take_invited(), "told once");
        let still_says_so = peer(Master, 2, 0, Handover::Invites(1));
        assert_eq!(m.step(ms(3), &[still_says_so]).role, Master);
        assert_eq!(m.step(ms(4), &[peer(Backup, 2, 0, Handover::None)]).role, Master);
    }
}

#[test]
fn an_invitation_is_declined_by_whoever_lacks_something_and_void_when_it_is_old() {
    let invites = |reigns| peer(Master, reigns, 0, Handover::Invites(1));
    let mut m = machine(Desire::Backup);
    m.step(ms(1), &[peer(Master, 2, 0, Handover::None)]);
    let lacks = PeerView {
        verified: 7,
        ..invites(2)
    };
    assert_eq!(m.step(ms(2), &[lacks]).role, Backup);
    assert_eq!(
        m.step(ms(3), &[peer(Backup, 2, 0, Handover::Invites(1))]).role,
        Backup,
        "not active"
    );
    // It has taken over before, and given the role up since: the peer hasn't said anything new.
    assert_eq!(m.step(ms(4), &[invites(2)]).role, Master);
    m.order(Desire::Backup);
    m.step(
        ms(5),
        &[PeerView {
            drained: 1,
            ..invites(2)
        }],
    );
    m.step(
        ms(6),
        &[PeerView {
            drained: 1,
            ..invites(2)
        }],
    );
    assert_eq!(m.step(ms(7), &[invites(2)]).role, Backup);
    assert_eq!(m.step(ms(8), &[invites(9)]).role, Master, "of a new reign");
}

/// Single writer: the election moves the role, and nobody else.
#[test]
fn where_an_election_decides_an_invitation_moves_no_role() {
    let mut m = machine(Desire::Preferred).elected();
    m.step(ms(99), &[standby(0)]);
    let old = with(standby(0), |vrf| vrf.takes_invitations = false);
    m.switch_over(ms(100), 0, &[old]).unwrap();
    m.step(ms(100), &[old]);
    m.step(ms(110), &[standby(1)]);
    m.hand_over(ms(120));
    assert_eq!(m.step(ms(120), &[standby(1)]).handover, Handover::Invites(THEIRS));
    assert_eq!(m.switchover(), Some(SwitchoverPhase::HandingOver));
    m.step(
        ms(130),
        &[PeerView {
            verified: 0,
            ..peer(Master, 9, 1, Handover::None)
        }],
    );
    assert_eq!(ended(&mut m), (SwitchoverEnd::Done, 30));

    let mut m = machine(Desire::Backup).elected();
    m.step(ms(1), &[peer(Master, 2, 0, Handover::None)]);
    assert_eq!(
        m.step(ms(2), &[peer(Master, 2, 0, Handover::Invites(1))]).role,
        Backup
    );
}
