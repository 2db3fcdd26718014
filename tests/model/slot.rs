//! One slot, two nodes and the connection between them: how entries change, travel, and are swept, as small as it can
//! be and still go wrong. Models section 6 of sync/PROTOCOL.md, whole slots only: queries, catching up, tails and
//! refusals for want of room are left to the simulator.
//!
//! A state is both nodes, the bytes under way, what may still happen ([`Spare`]), and what an observer of the whole
//! history remembers ([`Seen`]). An [`Action`] is one step of one worker, or one misfortune. A connection takes the
//! other lane than the one before it, whose bytes may still arrive: so a slot moves lanes. That a connection is gone
//! both ends notice at once.

use core::cmp::Ordering;

/// Entries that a slot can have.
pub(crate) const KEYS: usize = 2;
/// Records that a lane holds; a full ring stops the emission.
const ROOM: usize = 2;
/// Generations a run may need. Whoever needs more begins in vain for ever.
const BEGINS: u8 = 7;

/// Mistakes to be made on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mistake {
    /// A walked record moves the slot's version, though it is older.
    WalkMovesSlot,
    /// A term that the peer has no more, but entries of, is taken once more.
    TermTwice,
    /// Bytes of an earlier connection count.
    OldConnection,
    /// A record is applied whatever its version.
    AnyVersion,
    /// What an end didn't name is swept though it doesn't add up.
    SweptUnverified,
    /// A verified end sweeps nothing.
    NothingSwept,
    /// A higher term has no authority over newer counters of a lower one.
    NoAuthority,
    /// The digest of a verified slot isn't compared.
    NoDigest,
    /// A node that has restarted takes over before it has imported.
    Overwrites,
    /// A node that has restarted takes the term of its own former reign from its peer, and has not imported.
    FormerTerm,
}

/// Order of changes within a slot: term, then counter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Version {
    term: u8,
    counter: u8,
}

/// An entry as a node stores it. `content` is the number of the change that wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    content: u8,
    /// Of its last emission or application; zero when nobody was told.
    version: Version,
    dirty: bool,
    dead: bool,
    stamped: bool,
}

/// What a digest stands for: every entry with its version and content.
type Digest = [Option<(Version, u8)>; KEYS];

/// How far the sending of a slot has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
enum Stream {
    #[default]
    Idle,
    Walking(usize),
    Ended,
    Verified,
}

/// The generation that is being taken in, or was last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Incoming {
    open: bool,
    generation: u8,
    term: u8,
    authoritative: bool,
}

/// A node's share of the state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    active: bool,
    /// `reign * 2 + node`, or 0.
    term: u8,
    /// The peer's, as this connection said.
    heard: u8,
    /// Highest term that was ever heard of.
    highest: u8,
    /// What it holds is its own, or was verified.
    imported: bool,
    slot: Version,
    entries: [Option<Entry>; KEYS],
    told: Digest,
    stream: Stream,
    generation: u8,
    /// Nothing was emitted since a digest was sent.
    compared: bool,
    incoming: Incoming,
}

/// What travels. An end and a digest carry what the sender has emitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Message {
    Term(u8),
    Begin {
        generation: u8,
        version: Version,
    },
    Put {
        key: usize,
        version: Version,
        content: u8,
        live: bool,
    },
    Del {
        key: usize,
        version: Version,
    },
    End {
        version: Version,
        told: Digest,
    },
    Digest {
        told: Digest,
    },
    Verified {
        generation: u8,
    },
    Failed {
        generation: u8,
    },
}

/// A lane: by node that receives, what is under way, and the connection it was sent on.
type Lane = [Vec<(u8, Message)>; 2];

/// How often something may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Spare {
    pub(crate) changes: u8,
    pub(crate) cuts: u8,
    pub(crate) crashes: u8,
    /// Take-overs from a node that may be active.
    pub(crate) takeovers: u8,
    /// Records that vanish.
    pub(crate) losses: u8,
}

/// What an observer of both nodes knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Seen {
    pub(crate) slot_went_back: bool,
    pub(crate) entry_went_back: bool,
    pub(crate) swept_unproven: bool,
    pub(crate) standby_overwritten: bool,
    begins: u8,
    changes: u8,
    /// Has restarted and holds nothing of what was before.
    blank: [bool; 2],
    /// Contents that both nodes must end with, and the term they are written under.
    truth: [Option<u8>; KEYS],
    truth_term: u8,
    /// The node that wrote them is gone: those of this one count.
    heir: Option<usize>,
}

/// Both nodes and everything between them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) nodes: [Node; 2],
    lanes: [Lane; 2],
    connection: u8,
    connected: bool,
    pub(crate) spare: Spare,
    pub(crate) seen: Seen,
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    // What users and misfortune do.
    Create(usize, usize),
    Change(usize, usize),
    Remove(usize, usize),
    Cut,
    Crash(usize),
    Lose(usize),
    TakeOver(usize),
    // What the protocol does by itself.
    Rise(usize),
    Connect,
    Emit(usize, usize),
    Begin(usize),
    Walk(usize),
    End(usize),
    Compare(usize),
    Deliver { lane: usize, to: usize },
}

impl State {
    /// Node 0 is active with one entry; node 1 has just booted.
    pub(crate) fn new(spare: Spare) -> Self {
        let version = Version { term: 2, counter: 1 };
        let entry = Entry {
            content: 1,
            version,
            dirty: false,
            dead: false,
            stamped: false,
        };
        let first = Node {
            active: true,
            term: 2,
            highest: 2,
            imported: true,
            slot: version,
            entries: [Some(entry), None],
            told: [Some((version, 1)), None],
            ..Node::default()
        };
        let second = Node {
            heard: 2,
            highest: 2,
            ..Node::default()
        };
        let seen = Seen {
            changes: 1,
            truth: [Some(1), None],
            truth_term: 2,
            ..Seen::default()
        };
        Self {
            nodes: [first, second],
            lanes: Default::default(),
            connection: 0,
            connected: true,
            spare,
            seen,
        }
    }

    /// What users may do, and what may befall the nodes.
    pub(crate) fn misfortunes(&self, actions: &mut Vec<Action>) {
        for node in 0..2 {
            for key in (0..KEYS).filter(|_| self.nodes[node].active && self.spare.changes > 0) {
                match self.nodes[node].entries[key] {
                    None => actions.push(Action::Create(node, key)),
                    Some(entry) if !entry.dead => {
                        actions.extend([Action::Change(node, key), Action::Remove(node, key)]);
                    }
                    Some(_) => {}
                }
            }
            if self.spare.crashes > 0 {
                actions.push(Action::Crash(node));
            }
            if self.spare.takeovers > 0 && self.nodes[node].imported && !self.nodes[node].active {
                actions.push(Action::TakeOver(node));
            }
            let record = |m: &&(u8, Message)| matches!(m.1, Message::Put { .. } | Message::Del { .. });
            if self.connected
                && self.spare.losses > 0
                && self.lanes[self.lane()][node].first().as_ref().is_some_and(record)
            {
                actions.push(Action::Lose(node));
            }
        }
        if self.connected && self.spare.cuts > 0 {
            actions.push(Action::Cut);
        }
    }

    /// What the nodes do by themselves.
    pub(crate) fn steps(&self, mistakes: &[Mistake], actions: &mut Vec<Action>) {
        if !self.connected {
            actions.push(Action::Connect);
        }
        for (id, node) in self.nodes.iter().enumerate() {
            for lane in (0..2).filter(|lane| !self.lanes[*lane][id].is_empty()) {
                actions.push(Action::Deliver { lane, to: id });
            }
            if self.may_rise(id, mistakes) {
                actions.push(Action::Rise(id));
            }
            let room = !self.connected || self.lanes[self.lane()][1 - id].len() < ROOM;
            if node.active && room {
                let dirty = |key: &usize| node.entries[*key].is_some_and(|e| e.dirty);
                actions.extend((0..KEYS).filter(dirty).map(|key| Action::Emit(id, key)));
            }
            if !self.connected || !node.sends(id) || !room {
                continue;
            }
            let listed = node.entries.iter().flatten().any(|e| e.dirty);
            match node.stream {
                Stream::Idle if self.seen.begins < BEGINS => actions.push(Action::Begin(id)),
                Stream::Walking(KEYS) if !listed => actions.push(Action::End(id)),
                Stream::Walking(at) if at < KEYS => actions.push(Action::Walk(id)),
                Stream::Verified if !listed && !node.compared && !mistakes.contains(&Mistake::NoDigest) => {
                    actions.push(Action::Compare(id));
                }
                _ => {}
            }
        }
    }

    /// A node takes over where it hears no active one, when it has imported or there is nothing to import.
    fn may_rise(&self, id: usize, mistakes: &[Mistake]) -> bool {
        let (node, peer) = (&self.nodes[id], &self.nodes[1 - id]);
        let nothing = node.term == 0 && node.heard == 0;
        let may = node.imported || nothing || mistakes.contains(&Mistake::Overwrites) && self.seen.blank[id];
        self.connected && !node.active && !peer.active && may
    }

    /// Whether both hold the same, it is what users have made of it, and one node is active.
    pub(crate) fn is_whole(&self) -> bool {
        let [a, b] = &self.nodes;
        let stored = |node: &Node| node.entries.map(|e| e.map(|e| (e.version, e.content)));
        self.connected
            && a.active != b.active
            && stored(a) == stored(b)
            && a.slot == b.slot
            && a.entries.map(|e| e.map(|e| e.content)) == self.seen.truth
    }

    fn lane(&self) -> usize {
        usize::from(self.connection % 2)
    }

    fn send(&mut self, from: usize, message: Message) {
        if self.connected {
            let lane = self.lane();
            self.lanes[lane][1 - from].push((self.connection, message));
        }
    }

    /// The state after a step.
    pub(crate) fn act(&mut self, action: Action, mistakes: &[Mistake]) {
        match action {
            Action::Create(node, key) | Action::Change(node, key) => self.write(node, key),
            Action::Remove(node, key) => self.remove(node, key),
            Action::Cut => {
                self.spare.cuts -= 1;
                self.disconnect();
            }
            Action::Crash(node) => self.crash(node),
            Action::Lose(to) => {
                self.spare.losses -= 1;
                let lane = self.lane();
                self.lanes[lane][to].remove(0);
            }
            Action::TakeOver(node) => {
                self.spare.takeovers -= 1;
                self.rise(node);
            }
            Action::Rise(node) => self.rise(node),
            Action::Connect => self.connect(mistakes),
            Action::Emit(node, key) => self.emit(node, key),
            Action::Begin(node) => self.begin(node),
            Action::Walk(node) => self.walk(node),
            Action::End(node) => self.end(node),
            Action::Compare(node) => {
                self.nodes[node].compared = true;
                let told = self.nodes[node].told;
                self.send(node, Message::Digest { told });
            }
            Action::Deliver { lane, to } => {
                let (connection, message) = self.lanes[lane][to].remove(0);
                let current = self.connected && connection == self.connection;
                if current || mistakes.contains(&Mistake::OldConnection) {
                    self.deliver(to, message, mistakes);
                }
            }
        }
    }

    // The active node's users.

    fn write(&mut self, node: usize, key: usize) {
        self.spare.changes -= 1;
        self.seen.changes += 1;
        let content = self.seen.changes;
        let entry = &mut self.nodes[node].entries[key];
        let version = entry.map_or(Version::default(), |e| e.version);
        *entry = Some(Entry {
            content,
            version,
            dirty: true,
            dead: false,
            stamped: false,
        });
        self.note(node, key, Some(content));
    }

    fn remove(&mut self, node: usize, key: usize) {
        self.spare.changes -= 1;
        let entry = &mut self.nodes[node].entries[key];
        // What nobody was told of needs no removal.
        *entry = entry.filter(|e| e.version != Version::default()).map(|e| Entry {
            dirty: true,
            dead: true,
            ..e
        });
        self.note(node, key, None);
    }

    fn note(&mut self, node: usize, key: usize, content: Option<u8>) {
        if self.nodes[node].term == self.seen.truth_term {
            self.seen.truth[key] = content;
        }
    }

    // Connections, roles, lives.

    fn disconnect(&mut self) {
        self.connected = false;
        for node in &mut self.nodes {
            node.stream = Stream::Idle;
            node.incoming.open = false;
        }
    }

    fn connect(&mut self, mistakes: &[Mistake]) {
        self.connection += 1;
        self.connected = true;
        let lane = self.lane();
        self.lanes[lane] = Lane::default();
        let terms = [self.nodes[0].term, self.nodes[1].term];
        for id in 0..2 {
            self.nodes[id].hear(id, terms[1 - id]);
            if mistakes.contains(&Mistake::FormerTerm) {
                self.nodes[id].take_former_term(id);
            }
            // A node that has restarted learns its own last term from what its peer holds.
            if !mistakes.contains(&Mistake::TermTwice) {
                let offered = self.nodes[1 - id].slot.term;
                self.nodes[id].highest = self.nodes[id].highest.max(offered);
            }
        }
    }

    fn crash(&mut self, id: usize) {
        self.spare.crashes -= 1;
        let other = &self.nodes[1 - id];
        if self.nodes[id].active && self.nodes[id].term == self.seen.truth_term {
            if other.active {
                self.seen.truth_term = other.term;
                self.seen.truth = other.contents();
            } else {
                self.seen.heir = Some(1 - id);
            }
        }
        self.seen.blank[id] = true;
        // Generations start at a random number: never at one that was there.
        let generation = self.nodes[id].generation;
        self.nodes[id] = Node {
            generation,
            ..Node::default()
        };
        self.disconnect();
    }

    fn rise(&mut self, id: usize) {
        let node = &mut self.nodes[id];
        let reign = node.highest.max(node.term) / 2 + 1;
        node.term = reign * 2 + u8::from(id == 1);
        node.highest = node.term;
        node.active = true;
        if node.term != 0 && node.heard == 0 && !node.imported {
            self.seen.blank[id] &= self.nodes[1 - id].imported;
        }
        let node = &mut self.nodes[id];
        node.imported = true;
        node.stream = Stream::Idle;
        node.incoming = Incoming::default();
        node.slot.term = node.term;
        let term = node.term;
        // Equal when a term left nothing behind and the node that has had it was told by nobody.
        if term >= self.seen.truth_term {
            let heir = self.seen.heir.take().filter(|heir| self.nodes[*heir].imported);
            self.seen.truth = self.nodes[heir.unwrap_or(id)].contents();
            self.seen.truth_term = term;
        }
        self.send(id, Message::Term(term));
    }

    // The sender's worker.

    fn emit(&mut self, id: usize, key: usize) {
        let node = &mut self.nodes[id];
        node.slot.counter += 1;
        node.compared = false;
        let version = node.slot;
        let Some(entry) = node.entries[key].as_mut() else {
            return;
        };
        let content = entry.content;
        let message = if entry.dead {
            node.entries[key] = None;
            node.told[key] = None;
            Message::Del { key, version }
        } else {
            entry.version = version;
            entry.dirty = false;
            node.told[key] = Some((version, content));
            Message::Put {
                key,
                version,
                content,
                live: true,
            }
        };
        if node.stream != Stream::Idle {
            self.send(id, message);
        }
    }

    fn begin(&mut self, id: usize) {
        self.seen.begins += 1;
        let node = &mut self.nodes[id];
        node.generation += 1;
        node.stream = Stream::Walking(0);
        let (generation, version) = (node.generation, node.slot);
        self.send(id, Message::Begin { generation, version });
    }

    /// The next entry that was told before; what is listed is sent live.
    fn walk(&mut self, id: usize) {
        let node = &mut self.nodes[id];
        let Stream::Walking(at) = node.stream else { return };
        node.stream = Stream::Walking(at + 1);
        if let Some(Entry {
            content,
            version,
            dirty: false,
            ..
        }) = node.entries[at]
        {
            self.send(
                id,
                Message::Put {
                    key: at,
                    version,
                    content,
                    live: false,
                },
            );
        }
    }

    fn end(&mut self, id: usize) {
        let node = &mut self.nodes[id];
        node.stream = Stream::Ended;
        node.compared = true;
        let (version, told) = (node.slot, node.told);
        self.send(id, Message::End { version, told });
    }

    // The receiver.

    fn deliver(&mut self, id: usize, message: Message, mistakes: &[Mistake]) {
        match message {
            Message::Term(term) => self.nodes[id].hear(id, term),
            Message::Begin { generation, version } => self.open(id, generation, version, mistakes),
            Message::Put {
                key,
                version,
                content,
                live,
            } => {
                if self.nodes[id].takes_in() {
                    self.put(id, key, (version, content), live, mistakes);
                }
            }
            Message::Del { key, version } => {
                if self.nodes[id].takes_in() {
                    self.del(id, key, version);
                }
            }
            Message::End { version, told } => {
                if self.nodes[id].takes_in() {
                    self.finish(id, version, told, mistakes);
                }
            }
            Message::Digest { told } => {
                let node = &self.nodes[id];
                if node.takes_in() && node.told != told {
                    let generation = node.incoming.generation;
                    self.send(id, Message::Failed { generation });
                }
            }
            Message::Verified { generation } => self.nodes[id].answered(generation, Stream::Verified),
            Message::Failed { generation } => self.nodes[id].answered(generation, Stream::Idle),
        }
    }

    fn open(&mut self, id: usize, generation: u8, version: Version, mistakes: &[Mistake]) {
        let node = &mut self.nodes[id];
        if node.active || node.sends(id) || version.term < node.slot.term {
            self.send(id, Message::Failed { generation });
            return;
        }
        // A generation that didn't come to its end leaves its authority to the next one.
        let before = node.incoming;
        let unfinished = before.authoritative && before.term == version.term;
        let authoritative = version.term > node.slot.term || unfinished;
        node.incoming = Incoming {
            open: true,
            generation,
            term: version.term,
            authoritative: authoritative && !mistakes.contains(&Mistake::NoAuthority),
        };
        for entry in node.entries.iter_mut().flatten() {
            entry.stamped = false;
        }
    }

    fn put(
        &mut self,
        id: usize,
        key: usize,
        (version, content): (Version, u8),
        live: bool,
        mistakes: &[Mistake],
    ) {
        let node = &mut self.nodes[id];
        let held = node.entries[key];
        let authority = node.incoming.authoritative && !held.is_some_and(|e| e.stamped);
        let order = held.map_or(Ordering::Greater, |e| version.cmp(&e.version));
        let equal = held.is_some_and(|e| order == Ordering::Equal && e.content == content);
        if order == Ordering::Greater || equal || authority || mistakes.contains(&Mistake::AnyVersion) {
            self.seen.entry_went_back |= order == Ordering::Less && !authority;
            node.entries[key] = Some(Entry {
                content,
                version,
                dirty: false,
                dead: false,
                stamped: true,
            });
            node.told[key] = Some((version, content));
        }
        if live {
            let version = version.max(node.slot);
            self.move_slot(id, version);
        } else if mistakes.contains(&Mistake::WalkMovesSlot) {
            self.move_slot(id, version);
        }
    }

    fn del(&mut self, id: usize, key: usize, version: Version) {
        let node = &mut self.nodes[id];
        if node.incoming.authoritative || node.entries[key].is_some_and(|e| version > e.version) {
            node.entries[key] = None;
            node.told[key] = None;
        }
        let version = version.max(node.slot);
        self.move_slot(id, version);
    }

    fn finish(&mut self, id: usize, version: Version, told: Digest, mistakes: &[Mistake]) {
        let node = &mut self.nodes[id];
        let generation = node.incoming.generation;
        let stamped = |e: &Entry| e.stamped;
        let proven = node
            .entries
            .map(|e| e.filter(stamped).map(|e| (e.version, e.content)))
            == told;
        if !proven && !mistakes.contains(&Mistake::SweptUnverified) {
            self.send(id, Message::Failed { generation });
            return;
        }
        if !mistakes.contains(&Mistake::NothingSwept) {
            let swept = node.entries.iter().flatten().any(|e| !e.stamped);
            self.seen.swept_unproven |= swept && !proven;
            self.seen.standby_overwritten |= swept && node.imported && self.seen.blank[1 - id];
            node.entries = node.entries.map(|e| e.filter(stamped));
        }
        node.told = node.entries.map(|e| e.map(|e| (e.version, e.content)));
        node.incoming.authoritative = false;
        node.imported = true;
        // Only whoever holds everything of a term may speak for it.
        let changed = node.term != node.heard;
        node.term = node.heard;
        let term = node.term;
        self.seen.blank[id] = false;
        self.move_slot(id, version);
        if changed {
            self.send(id, Message::Term(term));
        }
        self.send(id, Message::Verified { generation });
    }

    fn move_slot(&mut self, id: usize, version: Version) {
        self.seen.slot_went_back |= version < self.nodes[id].slot;
        self.nodes[id].slot = version;
    }
}

impl Node {
    /// whether state flows from this node.
    fn sends(&self, id: usize) -> bool {
        let owns = self.term != 0 && usize::from(self.term % 2) == id;
        self.imported && (self.term > self.heard || self.term == self.heard && owns)
    }

    const fn takes_in(&self) -> bool {
        self.incoming.open && !self.active
    }

    fn contents(&self) -> [Option<u8>; KEYS] {
        self.entries.map(|e| e.filter(|e| !e.dead).map(|e| e.content))
    }

    /// The peer's term. When the direction turns all slots are closed; an active node of a lower term gives way.
    fn hear(&mut self, id: usize, term: u8) {
        let sent = self.sends(id);
        self.heard = term;
        self.highest = self.highest.max(term);
        if sent != self.sends(id) {
            self.stream = Stream::Idle;
            self.incoming.open = false;
        }
        if self.active && term > self.term {
            self.active = false;
            // Its digests become those of what it stores; removals that nobody was told of have happened.
            self.entries = self
                .entries
                .map(|e| e.filter(|e| !e.dead).map(|e| Entry { dirty: false, ..e }));
            self.told = self.entries.map(|e| e.map(|e| (e.version, e.content)));
        }
    }

    /// As [`Mistake::FormerTerm`] says; whoever speaks for a term is held to have everything of it.
    fn take_former_term(&mut self, id: usize) {
        if !self.active && self.heard > self.term && usize::from(self.heard % 2) == id {
            (self.term, self.imported) = (self.heard, true);
        }
    }

    fn answered(&mut self, generation: u8, stream: Stream) {
        if generation == self.generation && self.stream != Stream::Idle {
            self.stream = stream;
        }
    }
}
