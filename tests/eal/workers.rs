//! Jobs on pinned workers: each polls and sends on its own queues, and packets change hands between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use dataplane::io::{Burst, Io, Packet, PortId, RxQueue};
use twinpath::clock::Clock;
use twinpath::dpdk::{Eal, EalError, Mbuf, Mempool, PortError, PortSet, Ports};
use twinpath::thread::{Idle, run};

use crate::bench::{Check, config};
use crate::frames;

const PORT: PortId = PortId(0);
const FRAMES: usize = 400;

/// Two workers on one core, a queue pair each on a looping ring. Each sends its frames to itself, and what
/// comes back it hands to the other, which compares and drops it.
pub(crate) fn two_workers_exchange_packets(eal: &Eal, pool: &Mempool) -> (Check, PortSet) {
    let mut set = PortSet::open(eal, pool, &[config("net_ring1", 2)], 2).unwrap();
    let q = |queue| RxQueue { port: PORT, queue };
    for wrong in [
        vec![vec![q(0)], vec![q(0)]],
        vec![vec![q(2)]],
        vec![vec![q(0), q(0)]],
    ] {
        assert!(
            matches!(set.split(&wrong), Err(PortError::Queue { port: 0, .. })),
            "{wrong:?}"
        );
    }
    assert_eq!(
        set.split(&[vec![], vec![], vec![]]).unwrap_err(),
        PortError::TooManyWorkers { workers: 3, most: 2 }
    );
    let ports = set.split(&[vec![q(0)], vec![q(1)]]).unwrap();
    assert_eq!(set.split(&[]).unwrap_err(), PortError::AlreadySplit);

    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (to_one, at_one) = bounded(FRAMES);
    let (to_zero, at_zero) = bounded(FRAMES);
    let clock = Clock::start();
    let mut running = Vec::new();
    for (worker, (ports, (out, inbox))) in ports
        .into_iter()
        .zip([(to_one, at_zero), (to_zero, at_one)])
        .enumerate()
    {
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        let job = move || {
            let mut worker = Worker::new(ports, out, inbox);
            run(Idle::Adaptive, &stop, &clock, |_| {
                let work = worker.turn();
                if worker.compared == FRAMES && !worker.reported {
                    worker.reported = true;
                    if done.fetch_add(1, Ordering::Relaxed) == 1 {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
                work
            });
            worker.compared as u64
        };
        running.push(eal.launch(worker, job).unwrap());
    }
    assert!(matches!(
        eal.launch(2, || ()),
        Err(EalError::Launch { worker: 2, .. })
    ));
    let compared = running
        .into_iter()
        .map(|handle| handle.join().expect("a worker panicked"))
        .sum();
    (compared, set)
}

struct Worker {
    ports: Ports,
    frames: Vec<Vec<u8>>,
    sent: usize,
    out: Sender<Mbuf>,
    inbox: Receiver<Mbuf>,
    compared: usize,
    reported: bool,
}

impl Worker {
    fn new(ports: Ports, out: Sender<Mbuf>, inbox: Receiver<Mbuf>) -> Self {
        Self {
            ports,
            frames: frames::make(FRAMES),
            sent: 0,
            out,
            inbox,
            compared: 0,
            reported: false,
        }
    }

    fn turn(&mut self) -> usize {
        let mut burst = Burst::new();
        for frame in self.frames[self.sent..].iter().take(8) {
            let mut packet = self.ports.alloc().unwrap();
            assert!(packet.set_len(frame.len()));
            packet.data_mut().copy_from_slice(frame);
            burst.push(packet);
        }
        let mut work = self.ports.tx(PORT, &mut burst);
        self.sent += work;
        let queue = self.ports.rx_queues()[0];
        self.ports.rx(queue, &mut burst);
        for packet in burst.drain(..) {
            work += 1;
            self.out.send(packet).unwrap();
        }
        for packet in self.inbox.try_iter() {
            work += 1;
            assert_eq!(packet.data(), self.frames[self.compared]);
            self.compared += 1;
        }
        work
    }
}

/// A panic on a worker ends its job, not the process, and the worker can be used again.
pub(crate) fn a_panicking_job_is_reported(eal: &Eal) -> Check {
    std::panic::set_hook(Box::new(|_| ()));
    let joined = eal.launch(0, || panic!("on purpose")).unwrap().join();
    let _ = std::panic::take_hook();
    assert_eq!(joined, None::<()>);
    assert_eq!(eal.launch(0, || 7).unwrap().join(), Some(7));
    2
}
