//! One question and one order about kernel interfaces by name, in the network namespace of a port. Answered by the kernel
//! while the question is being sent, so nobody waits.

use std::fs::File;
use std::io::{self, Error};
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// Room for what the kernel says about one interface.
const ANSWER_BYTES: usize = 16 << 10;

/// An interface as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KernelLink {
    /// Another one when an interface of this name was made anew.
    pub(super) index: u32,
    /// Whether it has carrier.
    pub(super) carrier: bool,
}

/// A connection to the kernel in one namespace.
#[derive(Debug)]
pub(super) struct KernelLinks {
    kernel: Socket,
    answer: Vec<u8>,
}

impl KernelLinks {
    /// By a thread of its own where another namespace is meant: a namespace belongs to the thread, and a socket stays where
    /// it was opened.
    pub(super) fn open(netns: Option<&str>) -> io::Result<Self> {
        let kernel = match netns {
            None => open_here()?,
            Some(name) => open_in(name)?,
        };
        Ok(Self {
            kernel,
            answer: vec![0; ANSWER_BYTES],
        })
    }

    /// The interface of that name; none when there is none.
    pub(super) fn look(&mut self, interface: &str) -> io::Result<Option<KernelLink>> {
        let name = vec![LinkAttribute::IfName(interface.to_owned())];
        self.send(RouteNetlinkMessage::GetLink, name)?;
        let len = self.kernel.recv(&mut &mut self.answer[..], 0)?;
        let answer = self.answer.get(..len).unwrap_or_default();
        let answer = NetlinkMessage::deserialize(answer).map_err(Error::other)?;
        match answer.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(Some(KernelLink {
                index: link.header.index,
                carrier: link.header.flags.contains(LinkFlags::LowerUp),
            })),
            NetlinkPayload::Error(error) if error.raw_code() == -libc::ENODEV => Ok(None),
            NetlinkPayload::Error(error) => Err(error.to_io()),
            _ => Err(Error::other("an answer to no question")),
        }
    }

    /// Gives a tap carrier, or takes it.
    pub(super) fn set_carrier(&mut self, tap: &str, up: bool) -> io::Result<()> {
        let carrier = LinkAttribute::Carrier(u8::from(up));
        let attributes = vec![LinkAttribute::IfName(tap.to_owned()), carrier];
        self.send(RouteNetlinkMessage::SetLink, attributes)
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

fn open_in(netns: &str) -> io::Result<Socket> {
    let file = File::open(Path::new("/run/netns").join(netns))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_an_interface_from_one_that_is_not_there() {
        let mut links = KernelLinks::open(None).unwrap();
        let loopback = links.look("lo").unwrap().unwrap();
        assert_eq!(loopback.index, 1);
        assert_eq!(links.look("nosuch0").unwrap(), None);
        assert_eq!(links.look("lo").unwrap(), Some(loopback));
    }

    #[test]
    fn a_namespace_that_is_not_there_is_an_error() {
        assert!(KernelLinks::open(Some("twinpath-nosuch")).is_err());
    }
}
