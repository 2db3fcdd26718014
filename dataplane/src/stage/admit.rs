//! First packets only: whose address is it, where does it go, do the rules let it in, what does it look like outside.
//! Only when every answer is yes is there a conntrack; a refusal leaves nothing behind.
//!
//! A burst's first packets go together. Each is *judged*, and who is let in is an [`Opening`] then; openings get their public
//! endpoints, and after that their conntracks. What each step touches may lie anywhere in memory, and is asked for a step ahead.
//! Whoever may have to do with what openings make waits until they are through.

use core::time::Duration;

use arrayvec::ArrayVec;

use super::{Batch, Context, Exit, Work};
use crate::config::{Action, Care, Filtering, InterfaceId, OutputCommit};
use crate::conntrack::{Conntrack, InsertError, NatBinding, State, Tuples, icmp, tcp, udp};
use crate::flow::{Direction, FlowKey, proto};
use crate::io::{BURST, Packet};
use crate::nat::{Ahead, Reign};
use crate::policy::{NatChoice, Query};
use crate::role::Role;
use crate::slot::NIL;
use crate::stage::expire::{end_if_over, make_room};
use crate::stage::handoff::Cause;
use crate::stage::meta::{Kind, Meta, Piece};
use crate::stage::parse::udp_is_right;
use crate::verdict::{Drop, Verdict};
use crate::vrf::Local;

/// First packets that were let in and have no conntrack yet, in order.
type Openings = ArrayVec<Opening, BURST>;

/// A first packet that was let in.
struct Opening {
    /// Its place in the burst.
    at: usize,
    /// Interface that it leaves by.
    out: InterfaceId,
    state: State,
    rule: u32,
    commit: OutputCommit,
    source: Source,
    /// Tuple of its replies; where the source is still to be chosen, that of a flow that isn't translated.
    reply: FlowKey,
    /// Of its own tuple, and of that of its replies.
    hashes: [u64; 2],
}

/// What its source looks like outside.
enum Source {
    /// As inside.
    Kept,
    /// An endpoint of a pool: which one isn't settled.
    Pool(NatChoice, Option<Ahead>),
    /// A mapping's.
    Bound(NatBinding),
}

#[inline(never)]
pub(crate) fn admit<P: Packet>(batch: &mut Batch<P>, cx: &mut Context<'_>) {
    let mut openings = Openings::new();
    let mut opened = false;
    for at in 0..batch.packets.len() {
        let (meta, work) = (&batch.meta[at], &batch.work[at]);
        let flow = matches!(meta.kind, Kind::Flow | Kind::IcmpError);
        if !work.is_open() || work.entry != NIL || !flow {
            continue;
        }
        if waits_for(&openings, meta, work, cx) {
            open(batch, &mut openings, cx);
            opened = true;
        }
        let (meta, work) = (&batch.meta[at], &mut batch.work[at]);
        // An earlier packet of this very burst may have opened the flow. Else the lookup is right.
        if opened && let Some((id, direction)) = cx.tables.conntracks.find(work.hash, &meta.key) {
            work.entry = id;
            work.direction = direction;
            continue;
        }
        if meta.piece == Piece::Later {
            work.drop(Drop::FragmentRefused);
            continue;
        }
        match judge((batch.packets[at].data(), meta), (at, work), cx) {
            Ok(Outcome::Opens(opening)) => {
                // Whether the next one can wait for the peers depends on how many do.
                let settles = opening.commit != OutputCommit::Off;
                openings.push(opening);
                if settles {
                    open(batch, &mut openings, cx);
                    opened = true;
                }
            }
            Ok(Outcome::Punt) => work.verdict = Verdict::Punt,
            Ok(Outcome::Answer) => work.exit = Exit::Port(work.port),
            Err(reason) => work.drop(reason),
        }
    }
    open(batch, &mut openings, cx);
}

/// Whether a packet may be of a flow that is being opened, be about one, use what one is given, or need the place of one.
fn waits_for(openings: &Openings, meta: &Meta, work: &Work, cx: &Context<'_>) -> bool {
    !openings.is_empty()
        && (meta.kind == Kind::IcmpError
            || work.cause == Cause::Pool
            || cx.tables.conntracks.vacancy(openings.len()) == NIL
            || openings.iter().any(|opening| opening.hashes.contains(&work.hash)))
}

/// Makes the conntracks of all openings, or drops their packets.
fn open<P: Packet>(batch: &mut Batch<P>, openings: &mut Openings, cx: &mut Context<'_>) {
    ask_ahead(openings, cx);
    for opening in openings.iter_mut() {
        let (meta, work) = (&batch.meta[opening.at], &mut batch.work[opening.at]);
        if let Source::Pool(choice, _) = opening.source
            && let Err(reason) = bind(opening, choice, (&meta.key, work), cx)
        {
            work.drop(reason);
        }
    }
    cx.tables.list_blocks();
    for opening in openings.drain(..) {
        let (meta, work) = (&batch.meta[opening.at], &mut batch.work[opening.at]);
        if !work.is_open() {
            continue;
        }
        match track(&opening, &meta.key, work, cx) {
            Ok(id) => {
                work.entry = id;
                work.direction = Direction::Original;
                work.first = true;
            }
            Err(reason) => work.drop(reason),
        }
    }
}

/// Asks for what the sources of openings are found in.
fn ask_ahead(openings: &mut Openings, cx: &Context<'_>) {
    // There is nothing to do meanwhile for a single one.
    if openings.len() < 2 {
        return;
    }
    let nat = &cx.tables.nat;
    for ahead in aheads(openings) {
        nat.expect_subscriber(ahead);
    }
    for (later, ahead) in aheads(openings).enumerate() {
        nat.expect_own_mapping(ahead, later);
    }
    for ahead in aheads(openings) {
        nat.expect_ports(ahead);
    }
}

fn aheads(openings: &mut Openings) -> impl Iterator<Item = &mut Ahead> {
    openings
        .iter_mut()
        .filter_map(|opening| match &mut opening.source {
            Source::Pool(_, ahead) => ahead.as_mut(),
            Source::Kept | Source::Bound(_) => None,
        })
}

enum Outcome {
    Opens(Opening),
    Punt,
    Answer,
}

/// What becomes of a first packet.
fn judge(
    (frame, meta): (&[u8], &Meta),
    (at, work): (usize, &Work),
    cx: &mut Context<'_>,
) -> Result<Outcome, Drop> {
    let key = &meta.key;
    let active = cx.tables.is_active(work.at.vrf);
    match cx.snapshot.is_local(key.vrf, &key.dst) {
        Some(Local::Own) => return Ok(Outcome::Punt),
        Some(Local::Virtual) if active => {
            return Ok(if is_echo_request(meta) {
                Outcome::Answer
            } else {
                Outcome::Punt
            });
        }
        _ if !active => return Err(Drop::StandbyUnmatched),
        _ => {}
    }
    if meta.kind == Kind::IcmpError {
        return Err(Drop::IcmpErrorUnmatched);
    }
    // Refused here too, not only on the way out: each probe of a traceroute would take a port (RFC 1812, 5.2.1.2).
    if meta.ttl <= 1 {
        return Err(Drop::TtlExceeded);
    }
    let state = opening_state(meta)?;
    // From inside to a pool (RFC 4787 REQ-9): the source is translated first, then it comes as if from outside.
    let from_inside = cx.snapshot.vrf(key.vrf).inside.contains(&key.src);
    let opening = if !from_inside && cx.pools.is_pool_address(key.vrf, &key.dst) {
        inbound((frame, meta), (at, work), state, cx)?
    } else {
        outbound((frame, meta), (at, work), state, cx)?
    };
    Ok(Outcome::Opens(opening))
}

/// Before anything that costs much, or a flood would have it for nothing.
fn taken(cx: &mut Context<'_>) -> Result<(), Drop> {
    if cx.tables.admission.admit() {
        Ok(())
    } else {
        Err(Drop::FirstPacketShed)
    }
}

/// Nothing is opened by a damaged datagram. Parse leaves the question to whom it concerns: whom a flood of packets for nobody
/// reaches doesn't read them to their end.
fn undamaged(frame: &[u8], meta: &Meta) -> Result<(), Drop> {
    let whole_udp = meta.key.proto == proto::UDP && meta.piece == Piece::Whole;
    if whole_udp && !udp_is_right(frame, meta) {
        return Err(Drop::BadL4Checksum);
    }
    Ok(())
}

fn is_echo_request(meta: &Meta) -> bool {
    let echo = if meta.is_v6 { 128 } else { 8 };
    meta.kind == Kind::Flow && matches!(meta.key.proto, proto::ICMP | proto::ICMP6) && meta.icmp.kind == echo
}

/// Protocol state of a flow that this packet opens.
fn opening_state(meta: &Meta) -> Result<State, Drop> {
    Ok(match meta.key.proto {
        proto::TCP => State::Tcp(tcp::Track::open(&meta.tcp)?),
        proto::UDP => State::Udp(udp::Track::open()),
        // RFC 5508 REQ-1: only a query opens a session.
        proto::ICMP | proto::ICMP6 if meta.is_request => State::Icmp(icmp::Track::open()),
        proto::ICMP | proto::ICMP6 => return Err(Drop::IcmpNotQuery),
        _ => State::Other(udp::Track::open()),
    })
}

/// From anywhere to an address that is not a pool's: firewall, then source NAT where a rule asks for it.
fn outbound(
    (frame, meta): (&[u8], &Meta),
    (at, work): (usize, &Work),
    state: State,
    cx: &mut Context<'_>,
) -> Result<Opening, Drop> {
    taken(cx)?;
    undamaged(frame, meta)?;
    let key = &meta.key;
    let out = route(key, work.hash, cx)?;
    let (rule, care) = permit(key, key, work, out, cx)?;
    room(cx)?;
    let choice = cx.snapshot.vrf(key.vrf).nat.choose(key, out);
    let commit = commitment(work, choice.map_or(care, |choice| care.or(choice.care)), cx)?;
    let reply = key.reversed();
    let (source, reply_hash) = match choice {
        // Nobody outside knows its port before it has left.
        Some(choice) => {
            let ahead = cx.tables.nat.expect_bind(key, choice.pool);
            (Source::Pool(choice, ahead), work.hash)
        }
        None => (Source::Kept, cx.tables.conntracks.expect(&reply)),
    };
    Ok(Opening {
        at,
        out,
        state,
        rule,
        commit,
        source,
        reply,
        hashes: [work.hash, reply_hash],
    })
}

/// Gives an opening its public endpoint.
fn bind(
    opening: &mut Opening,
    choice: NatChoice,
    (key, work): (&FlowKey, &Work),
    cx: &mut Context<'_>,
) -> Result<(), Drop> {
    let pool = choice.pool;
    let role = cx.tables.roles[work.at.vrf.index()];
    let reign = Reign {
        term: role.term,
        share: role.share,
    };
    let way = Some(cx.snapshot.interface(opening.out).port);
    let mut bound = cx.tables.nat.bind(cx.now, reign, key, work.at.slot, pool, way);
    if bound.as_ref().is_err_and(is_want) && make_room(cx.tables, cx.now) {
        bound = cx.tables.nat.bind(cx.now, reign, key, work.at.slot, pool, way);
    }
    let bound = bound?;
    let reply = &mut opening.reply;
    reply.vrf = pool.vrf;
    reply.dst = bound.external;
    reply.dst_port = bound.port;
    if (reply.src, reply.src_port) == (reply.dst, reply.dst_port) {
        // To its own public endpoint: it would go round as a packet from and to the same port.
        cx.tables.nat.cancel(cx.now, bound.mapping);
        return Err(Drop::BadAddress);
    }
    opening.hashes[1] = cx.tables.conntracks.expect(reply);
    opening.source = Source::Bound(NatBinding {
        part: bound.part,
        mapping: bound.mapping,
        rule: choice.rule_id,
    });
    Ok(())
}

/// From outside to a pool address: only a mapping that filters by nothing but its own existence lets it in
/// (RFC 4787 section 5, endpoint-independent filtering).
fn inbound(
    (frame, meta): (&[u8], &Meta),
    (at, work): (usize, &Work),
    state: State,
    cx: &mut Context<'_>,
) -> Result<Opening, Drop> {
    let key = &meta.key;
    let pool = cx.pools.pool_of(key.vrf, &key.dst).ok_or(Drop::NoMapping)?;
    let open_to_all = cx
        .snapshot
        .vrf(pool.vrf)
        .pools
        .get(usize::from(pool.pool))
        .is_some_and(|p| p.filtering == Filtering::EndpointIndependent);
    if !open_to_all {
        return Err(Drop::NoMapping);
    }
    let mapped = cx.tables.nat.inbound(key).ok_or(Drop::NoMapping)?;
    taken(cx)?;
    undamaged(frame, meta)?;
    let inside = FlowKey {
        dst: mapped.inside,
        dst_port: mapped.port,
        vrf: mapped.vrf,
        ..*key
    };
    let out = route(&inside, work.hash, cx)?;
    let (rule, care) = permit(&inside, key, work, out, cx)?;
    let commit = commitment(work, care, cx)?;
    let reply = inside.reversed();
    let reply_hash = cx.tables.conntracks.expect(&reply);
    cx.tables.nat.retain(mapped.mapping);
    let nat = NatBinding {
        part: mapped.part,
        mapping: mapped.mapping,
        rule: 0,
    };
    Ok(Opening {
        at,
        out,
        state,
        rule,
        commit,
        source: Source::Bound(nat),
        reply,
        hashes: [work.hash, reply_hash],
    })
}

fn route(key: &FlowKey, hash: u64, cx: &Context<'_>) -> Result<InterfaceId, Drop> {
    #[expect(clippy::cast_possible_truncation, reason = "any 32 bits of the hash do")]
    let flow_hash = hash as u32;
    cx.snapshot
        .route(key.vrf, &key.dst, flow_hash)
        .map(|way| way.interface)
        .ok_or(Drop::NoRoute)
}

/// What the firewall says; `key` is the flow as the inside sees it, `arrived` as it came in.
fn permit(
    key: &FlowKey,
    arrived: &FlowKey,
    work: &Work,
    out: InterfaceId,
    cx: &mut Context<'_>,
) -> Result<(u32, Care), Drop> {
    let vrf = cx.snapshot.vrf(key.vrf);
    let decision = vrf.policy.evaluate(&Query {
        key,
        inbound: work.interface,
        outbound: Some(out),
    });
    cx.tables.hit(key.vrf, &decision);
    if decision.rule.is_some() && decision.log {
        cx.notices
            .rule_hit(key.vrf, decision.rule_id, *arrived, decision.action, cx.now);
    }
    match (decision.action, decision.rule) {
        (Action::Accept, _) => {
            if let Some(limit) = vrf.policy.limit(&decision) {
                cx.tables
                    .within_limit((key.vrf, &key.src), &decision, limit, cx.now)?;
            }
            Ok((decision.rule_id, decision.care))
        }
        (Action::Reject, _) => Err(Drop::RuleReject),
        (Action::Drop, Some(_)) => Err(Drop::RuleDrop),
        (Action::Drop, None) => Err(Drop::DefaultDrop),
    }
}

/// A full table is found out before the NAT is asked, or a flood of refused flows would have blocks granted, told to the
/// peer, logged and released again for each of them.
fn room(cx: &mut Context<'_>) -> Result<(), Drop> {
    let full = |cx: &Context<'_>| cx.tables.conntracks.vacancy(0) == NIL;
    if full(cx) && (!make_room(cx.tables, cx.now) || full(cx)) {
        Err(Drop::TableFull)
    } else {
        Ok(())
    }
}

/// Whether what is missing may be held by something that is over.
const fn is_want(reason: &Drop) -> bool {
    matches!(
        reason,
        Drop::PoolExhausted
            | Drop::PortsExhausted
            | Drop::SubscribersFull
            | Drop::BlocksFull
            | Drop::MappingsFull
    )
}

/// Whether a flow has to wait for the peers. Where they can't be asked the policy's outcome comes at once, and before
/// anything was made.
fn commitment(work: &Work, care: Care, cx: &mut Context<'_>) -> Result<OutputCommit, Drop> {
    let policy = match care.output_commit {
        Some(policy) => policy,
        None => cx.snapshot.vrf(work.at.vrf).output_commit.policy,
    };
    if policy == OutputCommit::Off || cx.tables.roles[work.at.vrf.index()].role != Role::Master {
        return Ok(OutputCommit::Off);
    }
    let Some((reason, drop)) = cx.tables.unable_to_commit(work.at) else {
        return Ok(policy);
    };
    cx.tables.count_commit(Some(reason));
    if policy == OutputCommit::Closed {
        Err(drop)
    } else {
        Ok(OutputCommit::Off)
    }
}

/// Makes the conntrack of an opening.
fn track(opening: &Opening, key: &FlowKey, work: &Work, cx: &mut Context<'_>) -> Result<u32, Drop> {
    let nat = match opening.source {
        Source::Bound(nat) => Some(nat),
        Source::Kept | Source::Pool(..) => None,
    };
    let made = insert(opening, nat, key, work, cx);
    if made.is_err()
        && let Some(nat) = nat
    {
        // Nothing has left from the port: it needs no rest.
        cx.tables.nat.cancel(cx.now, nat.mapping);
    }
    let id = made?;
    if opening.commit != OutputCommit::Off {
        let timeout_ms = cx.snapshot.vrf(key.vrf).output_commit.timeout_ms;
        let until = cx.now + Duration::from_millis(timeout_ms.into());
        cx.tables
            .await_peers(id, work.at, opening.commit, (cx.now, until));
    }
    Ok(id)
}

fn insert(
    opening: &Opening,
    nat: Option<NatBinding>,
    key: &FlowKey,
    work: &Work,
    cx: &mut Context<'_>,
) -> Result<u32, Drop> {
    let timeouts = &cx.snapshot.vrf(key.vrf).timeouts;
    // Translated, if at all, from IPv4 to IPv4.
    let mut tuples = Tuples::new(&[*key, opening.reply]).ok_or(Drop::UnsupportedProtocol)?;
    if let Some(nat) = nat {
        tuples.bind(nat);
    }
    let mut conntrack = Conntrack::new(tuples, work.at.slot, opening.state, timeouts, cx.now);
    conntrack.arrived_by(work.interface);
    conntrack.rule = opening.rule;
    conntrack.begin_reign(cx.tables.roles[work.at.vrf.index()].term);
    let mut made = cx.tables.open(&conntrack, opening.hashes);
    // Who has the reply may be over. Nobody has the original tuple: lookup, or admit, has just sought it.
    if let Err(InsertError::ReplyTaken(holder)) = made
        && end_if_over(cx.tables, cx.now, holder)
    {
        made = cx.tables.open(&conntrack, opening.hashes);
    }
    made.map_err(|error| match error {
        InsertError::Full => Drop::TableFull,
        InsertError::OriginalTaken(_) | InsertError::ReplyTaken(_) => Drop::TupleTaken,
    })
}
