//! A network in memory: it writes partially, stalls, cuts and breaks on demand.

use core::net::{IpAddr, Ipv4Addr};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use crate::wire::{Breach, Incoming, Io, Net, Wire};

/// The network: pipes of bytes, and connections waiting to be accepted by address.
#[derive(Debug, Default)]
pub(crate) struct Fabric {
    pipes: Vec<Pipe>,
    waiting: BTreeMap<IpAddr, VecDeque<(usize, IpAddr)>>,
    /// Most bytes per send or receive.
    pub(crate) chunk: usize,
    /// Bytes a pipe holds.
    pub(crate) window: usize,
    /// Bytes until everything is cut.
    pub(crate) fuse: Option<usize>,
    /// Nothing can be connected.
    pub(crate) down: bool,
    /// Links that carry nothing, without a word: the first and the second one.
    pub(crate) silent: [bool; 2],
    /// What every stream finds wrong from now on.
    pub(crate) breach: Option<Breach>,
    pub(crate) carried: usize,
}

#[derive(Debug, Default)]
struct Pipe {
    link: usize,
    bytes: VecDeque<u8>,
    closed: bool,
    broken: bool,
}

/// One end of a connection: writes to one pipe, reads from the next.
#[derive(Debug)]
pub(crate) struct Plug {
    fabric: Rc<RefCell<Fabric>>,
    to: usize,
    from: usize,
}

impl Drop for Plug {
    fn drop(&mut self) {
        let mut fabric = self.fabric.borrow_mut();
        fabric.pipes[self.to].closed = true;
        fabric.pipes[self.from].broken = true;
    }
}

impl Wire for Plug {
    fn send(&mut self, bytes: &[u8]) -> Io {
        let mut fabric = self.fabric.borrow_mut();
        let room = fabric.window.saturating_sub(fabric.pipes[self.to].bytes.len());
        let mut n = bytes.len().min(fabric.chunk).min(room);
        if let Some(fuse) = fabric.fuse {
            n = n.min(fuse);
            fabric.fuse = Some(fuse - n);
            if fuse == n {
                fabric.cut();
            }
        }
        if fabric.pipes[self.to].broken {
            return Io::Failed;
        }
        fabric.carried += n;
        fabric.pipes[self.to].bytes.extend(&bytes[..n]);
        if n == 0 { Io::Wait } else { Io::Done(n) }
    }

    fn breach(&self) -> Option<Breach> {
        self.fabric.borrow().breach
    }

    fn recv(&mut self, buffer: &mut [u8]) -> Io {
        let mut fabric = self.fabric.borrow_mut();
        if fabric.breach.is_some() {
            return Io::Failed;
        }
        if fabric.silent[fabric.pipes[self.from].link] {
            return Io::Wait;
        }
        let chunk = fabric.chunk;
        let pipe = &mut fabric.pipes[self.from];
        let n = pipe.bytes.len().min(buffer.len()).min(chunk);
        if pipe.broken {
            Io::Failed
        } else if n > 0 {
            buffer
                .iter_mut()
                .zip(pipe.bytes.drain(..n))
                .for_each(|(to, byte)| *to = byte);
            Io::Done(n)
        } else if pipe.closed {
            Io::Closed
        } else {
            Io::Wait
        }
    }
}

impl Fabric {
    /// Carries `chunk` bytes at a time, and holds `window` of them in a pipe.
    pub(super) fn new(chunk: usize, window: usize) -> Self {
        Self {
            chunk,
            window,
            ..Self::default()
        }
    }

    /// Breaks every connection; bytes on their way are lost.
    pub(crate) fn cut(&mut self) {
        self.fuse = None;
        self.pipes.iter_mut().for_each(|p| p.broken = true);
    }
}

/// What a node's event threads see of the network.
#[derive(Debug, Clone)]
pub(crate) struct Socket {
    pub(crate) fabric: Rc<RefCell<Fabric>>,
    /// By link.
    addresses: [IpAddr; 2],
}

impl Socket {
    pub(crate) fn new(fabric: &Rc<RefCell<Fabric>>, node: u8) -> Self {
        Self {
            fabric: Rc::clone(fabric),
            addresses: [address(node), second_address(node)],
        }
    }
}

impl Net for Socket {
    type Wire = Plug;

    fn connect(&mut self, source: IpAddr, address: IpAddr) -> Option<Plug> {
        let mut fabric = self.fabric.borrow_mut();
        if fabric.down {
            return None;
        }
        let to = fabric.pipes.len();
        let link = usize::from(source != self.addresses[0]);
        let pipe = || Pipe {
            link,
            ..Pipe::default()
        };
        fabric.pipes.extend([pipe(), pipe()]);
        fabric.waiting.entry(address).or_default().push_back((to, source));
        Some(Plug {
            fabric: Rc::clone(&self.fabric),
            to,
            from: to + 1,
        })
    }

    fn accept(&mut self) -> Option<Incoming<Plug>> {
        let (local, (pipe, remote)) = {
            let mut fabric = self.fabric.borrow_mut();
            let silent = fabric.silent;
            let mut heard = self.addresses.iter().zip(silent).filter(|(_, silent)| !silent);
            heard.find_map(|(address, _)| Some((*address, fabric.waiting.get_mut(address)?.pop_front()?)))?
        };
        let wire = Plug {
            fabric: Rc::clone(&self.fabric),
            to: pipe + 1,
            from: pipe,
        };
        Some(Incoming { wire, local, remote })
    }
}

pub(crate) fn address(node: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, node).into()
}

/// On the second link.
pub(crate) fn second_address(node: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 1, node).into()
}
