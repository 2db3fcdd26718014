//! A tap has the carrier of its port: a cable that is pulled is noticed by whoever watches the kernel interface, such as
//! keepalived. The driver of taps doesn't know how; the kernel takes it by netlink, in the tap's namespace. The driver of packet
//! sockets doesn't know its own either: there the kernel is asked about the interface below.

use std::time::Duration;

use dataplane::io::PortId;
use dataplane::time::Instant;

use super::kernel_link::KernelLinks;
use crate::config::Config;
use crate::dpdk::{Device, PortSet};

/// How often links are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How often the kernel is told although nothing has changed: somebody else may have told it something else.
const TELL_EVERY: Duration = Duration::from_secs(1);

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
    kernel: KernelLinks,
    up: Option<bool>,
    tell_at: Instant,
}

impl Carriers {
    /// Of all ports that have a tap. One that the kernel can't be told about has the carrier the driver gave it.
    pub(super) fn open(config: &Config, netns_of: impl Fn(PortId) -> Option<String>) -> Self {
        let tap = |(port, tap, device): (PortId, &str, Device)| {
            let kernel = KernelLinks::open(netns_of(port).as_deref())
                .inspect_err(|error| tracing::warn!(%error, tap, "it won't have its port's carrier"))
                .ok()?;
            Some(Carrier {
                port,
                tap: tap.to_owned(),
                below: below(&device),
                kernel,
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
        let up = match &self.below {
            Some(below) => match self.kernel.look(below) {
                Ok(Some(link)) => link.carrier,
                Ok(None) => false,
                Err(_) => true,
            },
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
        let _ = self.kernel.set_carrier(&self.tap, up);
        changed
    }
}

/// The interface of a device whose driver reports no carrier.
fn below(device: &Device) -> Option<String> {
    let iface = device.argument("iface")?;
    device.name().starts_with("net_af_").then(|| iface.to_owned())
}
