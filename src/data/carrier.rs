//! A tap has the carrier of its port: a cable that is pulled is noticed by whoever watches the kernel interface, such as
//! keepalived. The driver of taps doesn't know how; the kernel takes it by netlink, in the tap's namespace. The driver of packet
//! sockets doesn't know its own either: there the kernel is asked about the interface below.

use std::fs::File;
use std::io::{self, Error};
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

use dataplane::io::PortId;
use dataplane::time::Instant;
use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::config::Config;
use crate::dpdk::{Device, PortSet};

/// How often links are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How often the kernel is told although nothing has changed: somebody else may have told it something else.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Room for what the kernel says about one interface.
const ANSWER_BYTES: usize = 16 << 10;

/// The taps of the process.
#[derive(Debug)]
pub(super) struct Carriers {
    taps: Vec<Carrier>,
    look_at: Instant,
}

#[derive(Debug)]
struct Carrier {
    port: PortId,
    tap: String,
    /// Interface below the port, when only the kernel knows its carrier.
    below: Option<String>,
    kernel: Socket,
    answer: Vec<u8>,
    up: Option<bool>,
    tell_at: Instant,
}

impl Carriers {
    /// Of all ports that have a tap. One that the kernel can't be told about has the carrier the driver gave it.
    pub(super) fn open(config: &Config, netns_of: impl Fn(PortId) -> Option<String>) -> Self {
        let tap = |(port, tap, device): (PortId, &str, Device)| {
            let kernel = open(netns_of(port).as_deref())
                .inspect_err(|error| tracing::warn!(%error, tap, "it won't have its port's carrier"))
                .ok()?;
            Some(Carrier {
                port,
                tap: tap.to_owned(),
                below: below(&device),
                kernel,
                answer: vec![0; ANSWER_BYTES],
                up: None,
                tell_at: Instant::default(),
            })
        };
        let named = (0..).map(PortId).zip(&config.ports);
        Self {
            taps: named
                .filter_map(|(id, port)| tap((id, port.tap()?, Device::parse(&port.device)?)))
                .collect(),
            look_at: Instant::default(),
        }
    }

    /// Tells the kernel what has changed; returns how much that was.
    pub(super) fn turn(&mut self, now: Instant, ports: &PortSet) -> usize {
        if now < self.look_at {
            return 0;
        }
        self.look_at = now + LOOK_EVERY;
        let told = |tap: &mut Carrier| usize::from(tap.turn(ports, now));
        self.taps.iter_mut().map(told).sum()
    }
}

impl Carrier {
    fn turn(&mut self, ports: &PortSet, now: Instant) -> bool {
        // What nobody can tell is up.
        let up = match self.below.clone() {
            Some(below) => self.ask(below).unwrap_or(true),
            None => ports.link(self.port).is_none_or(|link| link.up),
        };
        self.follow(up, now)
    }

    fn follow(&mut self, up: bool, now: Instant) -> bool {
        let changed = self.up != Some(up);
        if !changed && now < self.tell_at {
            return false;
        }
        if changed {
            tracing::info!(tap = self.tap, up, "carrier of its port");
        }
        self.up = Some(up);
        self.tell_at = now + TELL_EVERY;
        // A kernel that refuses is told again; a tap without the driver's queues has no carrier to be changed.
        let _ = self.tell(up);
        changed
    }

    fn tell(&mut self, up: bool) -> io::Result<()> {
        let carrier = LinkAttribute::Carrier(u8::from(up));
        let attributes = vec![LinkAttribute::IfName(self.tap.clone()), carrier];
        self.send(RouteNetlinkMessage::SetLink, attributes)
    }

    /// Whether an interface has carrier; none when it isn't there. The kernel has answered when it has taken the question.
    fn ask(&mut self, interface: String) -> Option<bool> {
        let name = vec![LinkAttribute::IfName(interface)];
        self.send(RouteNetlinkMessage::GetLink, name).ok()?;
        let len = self.kernel.recv(&mut &mut self.answer[..], 0).ok()?;
        let answer = NetlinkMessage::deserialize(self.answer.get(..len)?).ok()?;
        match answer.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                Some(link.header.flags.contains(LinkFlags::LowerUp))
            }
            _ => None,
        }
    }

    fn send(
        &mut self,
        kind: fn(LinkMessage) -> RouteNetlinkMessage,
        attributes: Vec<LinkAttribute>,
    ) -> io::Result<()> {
        // What an earlier message was refused with.
        while self.kernel.recv(&mut &mut self.answer[..], 0).is_ok() {}
        let mut link = LinkMessage::default();
        link.attributes = attributes;
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(kind(link)));
        message.header.flags = NLM_F_REQUEST;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.kernel.send(&bytes, 0).map(drop)
    }
}

/// The interface of a device whose driver reports no carrier.
fn below(device: &Device) -> Option<String> {
    let iface = device.argument("iface")?;
    device.name().starts_with("net_af_").then(|| iface.to_owned())
}

/// A socket into a namespace, by a thread of its own: a namespace belongs to the thread, and a socket stays where it was opened.
fn open(netns: Option<&str>) -> io::Result<Socket> {
    let Some(name) = netns else { return open_here() };
    let file = File::open(Path::new("/run/netns").join(name))?;
    let opened = thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::setns(file.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET)?;
            open_here()
        });
        thread.join()
    });
    opened.unwrap_or_else(|_| Err(Error::other("the opening thread ended early")))
}

fn open_here() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}
