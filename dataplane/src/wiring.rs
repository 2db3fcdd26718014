//! Every ring and channel between threads, made once at start: who can talk to whom, and how much may wait.
//!
//! ```text
//!   worker w ──ToEvent──► event e     one ring per pair, records in mutation order
//!   event e ──ToWorker──► worker w    one ring per pair, records in lane order
//!   worker w ◄──packets──► event e    one ring of bytes per pair and direction: what is redirected
//!   worker v ──Handoff──► worker w    one ring per pair (w = v: hairpins)
//!   main ──Ask──► worker, worker ──Notice──► main    channels, never per packet
//! ```

use crossbeam_channel::{Receiver, Sender, bounded};
use rtrb::{Consumer, Producer, RingBuffer};

use crate::delta::{ToEvent, ToWorker};
use crate::inbox::Ask;
use crate::notice::{Notice, Notices};
use crate::redirect::{self, PacketReceiver, PacketSender};
use crate::worker::{EventLink, Handoff, Links};

/// Packets that may wait between two workers.
const HANDOFF_ENTRIES: usize = 1_024;

/// Bytes of redirected packets that may wait between a worker and an event thread. Pages that no packet has been in take no
/// memory.
pub const REDIRECT_BYTES: usize = 1 << 20;

/// Requests that may wait for one worker.
const ASKS: usize = 64;

/// Messages that may wait for the main thread.
const NOTICES: usize = 16_384;

/// How many of each.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// Workers.
    pub workers: usize,
    /// Event threads.
    pub events: usize,
    /// Entries of each ring between a worker and an event thread.
    pub ring_entries: usize,
    /// Bytes of each ring of packets between them.
    pub redirect_bytes: usize,
}

/// The event thread's ends, in worker order.
#[derive(Debug)]
pub struct EventEnds {
    /// What workers have to tell.
    pub from_workers: Vec<Consumer<ToEvent>>,
    /// What they are told.
    pub to_workers: Vec<Producer<ToWorker>>,
    /// Packets that they redirect.
    pub redirects_from_workers: Vec<PacketReceiver>,
    /// Packets that peers have redirected to them.
    pub redirects_to_workers: Vec<PacketSender>,
}

/// The main thread's ends.
#[derive(Debug)]
pub struct MainEnds {
    /// Requests to each worker.
    pub asks: Vec<Sender<Ask>>,
    /// Messages of all workers.
    pub notices: Receiver<Notice>,
}

/// All ends, to be given to the threads.
#[derive(Debug)]
pub struct Wiring<P> {
    /// One per worker.
    pub workers: Vec<Links<P>>,
    /// One per event thread.
    pub events: Vec<EventEnds>,
    /// The main thread's.
    pub main: MainEnds,
}

impl<P> Wiring<P> {
    /// Makes everything.
    #[must_use]
    pub fn new(counts: Counts) -> Self {
        let (notices_in, notices) = bounded(NOTICES);
        let mut asks = Vec::with_capacity(counts.workers);
        let mut workers: Vec<Links<P>> = (0..counts.workers)
            .map(|_| {
                let (ask, asked) = bounded(ASKS);
                asks.push(ask);
                Links {
                    events: Vec::with_capacity(counts.events),
                    handoff_out: Vec::with_capacity(counts.workers),
                    handoff_in: Vec::with_capacity(counts.workers),
                    asks: asked,
                    notices: Notices::new(notices_in.clone()),
                }
            })
            .collect();
        let events = (0..counts.events)
            .map(|_| Self::event(&mut workers, counts))
            .collect();
        Self::handoffs(&mut workers);
        Self {
            workers,
            events,
            main: MainEnds { asks, notices },
        }
    }

    fn event(workers: &mut [Links<P>], counts: Counts) -> EventEnds {
        let mut ends = EventEnds {
            from_workers: vec![],
            to_workers: vec![],
            redirects_from_workers: vec![],
            redirects_to_workers: vec![],
        };
        for links in workers {
            let (out, from_worker) = RingBuffer::new(counts.ring_entries);
            let (to_worker, inbox) = RingBuffer::new(counts.ring_entries);
            let (redirect_out, redirect_from) = redirect::ring(counts.redirect_bytes);
            let (redirect_to, redirect_in) = redirect::ring(counts.redirect_bytes);
            links.events.push(EventLink {
                out,
                inbox,
                redirect_out,
                redirect_in,
            });
            ends.from_workers.push(from_worker);
            ends.to_workers.push(to_worker);
            ends.redirects_from_workers.push(redirect_from);
            ends.redirects_to_workers.push(redirect_to);
        }
        ends
    }

    fn handoffs(workers: &mut [Links<P>]) {
        for from in 0..workers.len() {
            for to in 0..workers.len() {
                let (producer, consumer) = RingBuffer::<Handoff<P>>::new(HANDOFF_ENTRIES);
                workers[from].handoff_out.push(producer);
                workers[to].handoff_in.push(consumer);
            }
        }
    }
}
