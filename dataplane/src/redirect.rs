//! Packets that go to the active node over the sync link, because they came to one that isn't: in rings of bytes between
//! workers and event threads, as whole as they came.
//!
//! ```text
//!   standby:  worker (stage/redirect.rs) ──ring──► event thread ──REDIRECT (sync/PROTOCOL.md R-48)──►
//!   active:                                                      ──► event thread ──ring──► worker, from parse on
//! ```
//!
//! A ring is one piece of memory, made at start; a packet takes as many of its bytes as it has, so that small ones don't pay
//! for the largest there may be. One that doesn't fit isn't begun. Packets of a slot have one ring at either node and one
//! connection in between: so those of a flow stay in order. A [`Fence`] among them tells who gets it back that those in front of
//! it have come.

use rtrb::{Consumer, Producer, RingBuffer};

use crate::delta::SlotRef;
use crate::flow::VrfId;
use crate::wire::ethernet::Mac;

/// Longest IP packet that is redirected: the largest MTU that an interface can have.
pub const PACKET_MAX: usize = 9_600;

/// Shortest one: an IPv4 header.
pub const PACKET_MIN: usize = 20;

/// How often a packet may be redirected: to the node that is active, and back when that one has just handed over to this one.
pub const REDIRECTS_MAX: u8 = 2;

/// Bytes of a [`Redirect`] and of the packet's length in front of the packet.
const HEAD: usize = 21;

/// What the active node has to know of a packet besides its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redirect {
    /// The slot of its flow: its lane, and its worker.
    pub at: SlotRef,
    /// The interface it came in by: [`name_hash`](crate::fingerprint::name_hash) of its name.
    pub interface: u64,
    /// Who sent it on that link.
    pub source: Mac,
    /// How often it was redirected, this time included; 1 to [`REDIRECTS_MAX`].
    pub times: u8,
}

/// A mark that goes the way of the packets, between them (sync/PROTOCOL.md R-59).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// A slot of the worker that asks: it says which lane is meant, and who asked.
    pub at: SlotRef,
    /// Which one of the asker's.
    pub number: u64,
    /// It is on its way back.
    pub back: bool,
}

/// A packet's bytes as they lie in a ring: where it ends they go on at its start.
#[derive(Debug, Clone, Copy)]
pub struct Bytes<'a> {
    /// The first part.
    pub first: &'a [u8],
    /// The other part, which may be empty.
    pub second: &'a [u8],
}

impl Bytes<'_> {
    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.first.len() + self.second.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `place`, which is as long.
    pub fn copy_to(&self, place: &mut [u8]) {
        let (first, second) = place.split_at_mut(self.first.len());
        first.copy_from_slice(self.first);
        second.copy_from_slice(self.second);
    }

    fn without(self, front: usize) -> Self {
        let of_first = front.min(self.first.len());
        Self {
            first: &self.first[of_first..],
            second: &self.second[front - of_first..],
        }
    }
}

impl<'a> From<&'a [u8]> for Bytes<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self {
            first: bytes,
            second: &[],
        }
    }
}

/// A ring of so many bytes.
#[must_use]
pub fn ring(bytes: usize) -> (PacketSender, PacketReceiver) {
    let (sender, receiver) = RingBuffer::new(bytes);
    (PacketSender(sender), PacketReceiver(receiver))
}

/// The end that packets are put in at.
#[derive(Debug)]
pub struct PacketSender(Producer<u8>);

/// The end that they are taken out of.
#[derive(Debug)]
pub struct PacketReceiver(Consumer<u8>);

impl PacketSender {
    /// Puts a packet in; false, and nothing done, when there is no room for all of it.
    #[must_use]
    pub fn push(&mut self, redirect: &Redirect, packet: Bytes<'_>) -> bool {
        let Some(head) = head(redirect, packet.len()) else {
            return false;
        };
        let Ok(mut chunk) = self.0.write_chunk(HEAD + packet.len()) else {
            return false;
        };
        let mut place = chunk.as_mut_slices();
        let mut at = 0;
        for part in [&head[..], packet.first, packet.second] {
            lay(&mut place, at, part);
            at += part.len();
        }
        chunk.commit_all();
        true
    }

    /// Puts a fence in; false when there is no room for it.
    #[must_use]
    pub fn push_fence(&mut self, fence: &Fence) -> bool {
        self.push(&fence.as_redirect(), (&[][..]).into())
    }
}

impl PacketReceiver {
    /// Bytes that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.slots()
    }

    /// Takes the oldest packet out and shows it; gives what was made of it and the bytes it took. None when there is none, or a
    /// fence is in front of it.
    pub fn pop<T>(&mut self, take: impl FnOnce(&Redirect, Bytes<'_>) -> T) -> Option<(T, usize)> {
        let (redirect, length) = self.peek()?;
        // A packet is put in at once.
        let chunk = self.0.read_chunk(HEAD + length).ok()?;
        let (first, second) = chunk.as_slices();
        let taken = take(&redirect, Bytes { first, second }.without(HEAD));
        chunk.commit_all();
        Some((taken, HEAD + length))
    }

    /// Takes out the fence that comes next; gives how many bytes it took too. None when nothing or a packet comes next.
    pub fn pop_fence(&mut self) -> Option<(Fence, usize)> {
        let (head, length) = self.head()?;
        if length > 0 {
            return None;
        }
        self.0.read_chunk(HEAD).ok()?.commit_all();
        Some((Fence::of_redirect(&head), HEAD))
    }

    /// What is known of the packet that comes next, and its length.
    pub fn peek(&mut self) -> Option<(Redirect, usize)> {
        self.head().filter(|(_, length)| *length > 0)
    }

    fn head(&mut self) -> Option<(Redirect, usize)> {
        let chunk = self.0.read_chunk(HEAD).ok()?;
        let (first, second) = chunk.as_slices();
        let mut head = [0; HEAD];
        Bytes { first, second }.copy_to(&mut head);
        Some(read_head(&head))
    }
}

/// In a ring a fence is a packet without bytes.
impl Fence {
    fn as_redirect(&self) -> Redirect {
        Redirect {
            at: self.at,
            interface: self.number,
            source: Mac::default(),
            times: u8::from(self.back),
        }
    }

    fn of_redirect(head: &Redirect) -> Self {
        Self {
            at: head.at,
            number: head.interface,
            back: head.times > 0,
        }
    }
}

/// Copies `part` to the place that is `at` bytes behind the start of a piece of a ring.
fn lay((first, second): &mut (&mut [u8], &mut [u8]), at: usize, part: &[u8]) {
    let of_first = part.len().min(first.len().saturating_sub(at));
    let (front, back) = part.split_at(of_first);
    if of_first > 0 {
        first[at..at + of_first].copy_from_slice(front);
    }
    if !back.is_empty() {
        let at = at + of_first - first.len();
        second[at..at + back.len()].copy_from_slice(back);
    }
}

fn head(redirect: &Redirect, length: usize) -> Option<[u8; HEAD]> {
    let length = u16::try_from(length).ok()?;
    let mut head = [0; HEAD];
    head[..2].copy_from_slice(&redirect.at.vrf.0.to_le_bytes());
    head[2..4].copy_from_slice(&redirect.at.slot.to_le_bytes());
    head[4..12].copy_from_slice(&redirect.interface.to_le_bytes());
    head[12..18].copy_from_slice(&redirect.source);
    head[18..20].copy_from_slice(&length.to_le_bytes());
    head[20] = redirect.times;
    Some(head)
}

fn read_head(head: &[u8; HEAD]) -> (Redirect, usize) {
    let number = |from: usize| u16::from_le_bytes([head[from], head[from + 1]]);
    let [_, _, _, _, i @ .., _, _, _, _, _, _, _, _, _] = *head;
    let redirect = Redirect {
        at: SlotRef {
            vrf: VrfId(number(0)),
            slot: number(2),
        },
        interface: u64::from_le_bytes(i),
        source: [head[12], head[13], head[14], head[15], head[16], head[17]],
        times: head[20],
    };
    (redirect, usize::from(number(18)))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn redirect(number: u16) -> Redirect {
        Redirect {
            at: SlotRef {
                vrf: VrfId(number),
                slot: number ^ 0x1234,
            },
            interface: 0x0102_0304_0506_0708 ^ u64::from(number),
            source: [2, 0, 0, 0, 0, number.to_le_bytes()[0]],
            times: 1 + number.to_le_bytes()[0] % REDIRECTS_MAX,
        }
    }

    fn pop(receiver: &mut PacketReceiver) -> Option<(Redirect, Vec<u8>)> {
        let shown = receiver.pop(|redirect, bytes| {
            let mut packet = vec![0; bytes.len()];
            bytes.copy_to(&mut packet);
            (*redirect, packet)
        });
        shown.map(|(shown, taken)| {
            assert_eq!(taken, HEAD + shown.1.len());
            shown
        })
    }

    #[test]
    fn a_packet_without_room_for_all_of_it_is_not_begun() {
        let (mut sender, mut receiver) = ring(2 * HEAD + 50);
        assert!(sender.push(&redirect(1), (&[7; 40][..]).into()));
        assert!(!sender.push(&redirect(2), (&[8; 11][..]).into()));
        assert!(sender.push(&redirect(3), (&[9; 10][..]).into()));
        assert_eq!(receiver.waiting(), 2 * HEAD + 50);
        assert_eq!(receiver.peek(), Some((redirect(1), 40)));
        assert_eq!(pop(&mut receiver), Some((redirect(1), vec![7; 40])));
        assert_eq!(pop(&mut receiver), Some((redirect(3), vec![9; 10])));
        assert_eq!(pop(&mut receiver), None);
    }

    #[test]
    fn a_fence_stands_between_the_packets_it_was_put_between() {
        let fence = Fence {
            at: redirect(7).at,
            number: u64::MAX,
            back: true,
        };
        let (mut sender, mut receiver) = ring(4 * HEAD);
        assert!(sender.push(&redirect(1), (&[7; HEAD][..]).into()));
        assert!(sender.push_fence(&fence));
        assert!(sender.push_fence(&Fence { back: false, ..fence }));
        assert!(!sender.push_fence(&fence), "full");
        assert_eq!(receiver.pop_fence(), None);
        assert!(pop(&mut receiver).is_some());
        assert_eq!((receiver.peek(), pop(&mut receiver)), (None, None));
        assert_eq!(receiver.pop_fence(), Some((fence, HEAD)));
        assert_eq!(receiver.pop_fence(), Some((Fence { back: false, ..fence }, HEAD)));
        assert_eq!(receiver.pop_fence(), None);
    }

    #[test]
    fn a_length_that_the_head_cannot_tell_is_refused() {
        let (mut sender, _receiver) = ring(100_000);
        assert!(!sender.push(&redirect(1), (&[0; 65_536][..]).into()));
        assert!(sender.push(&redirect(1), (&[0; 65_535][..]).into()));
    }

    proptest! {
        /// Against a queue of whole packets: what went in comes out, in order, wherever the ring's end falls.
        #[test]
        fn packets_come_out_as_they_went_in(
            steps in proptest::collection::vec((any::<bool>(), 1_usize..90), 1..300),
        ) {
            let (mut sender, mut receiver) = ring(256);
            let (mut model, mut used) = (VecDeque::new(), 0);
            for (number, (push, length)) in (0_u16..).zip(steps) {
                if push {
                    let packet: Vec<u8> = (0..length).map(|n| n.to_le_bytes()[0] ^ number.to_le_bytes()[0]).collect();
                    let (first, second) = packet.split_at(length / 3);
                    let fits = used + HEAD + length <= 256;
                    prop_assert_eq!(sender.push(&redirect(number), Bytes { first, second }), fits);
                    if fits {
                        used += HEAD + length;
                        model.push_back((redirect(number), packet));
                    }
                } else {
                    let expected = model.pop_front();
                    used -= expected.as_ref().map_or(0, |(_, packet)| HEAD + packet.len());
                    prop_assert_eq!(pop(&mut receiver), expected);
                }
            }
        }
    }
}
