//! A device made anew while workers run: closed, probed by its name again, and brought up as it was configured. For cards that
//! need a reset, and for kernel interfaces that were deleted and made again, which a driver doesn't notice.
//!
//! `shut` → every worker follows its gate (`let_go`) → `renew`, again until the device is there → workers poll it. What was
//! counted stays; the MAC address may be another one.

use dataplane::io::PortId;
use thiserror::Error;

use super::bring_up::{bring_up, info, stop_and_close};
use super::{PortError, PortSet, fallen, in_namespace, probe_now, tap, within};
use crate::dpdk::sys;

/// Why a device isn't there again.
#[derive(Debug, Error)]
pub enum RenewError {
    /// Nobody was told to let go of it.
    #[error("its port is open")]
    Open,
    /// A worker may still call its driver.
    #[error("worker {0} has not let go of it")]
    InUse(usize),
    /// It can't be probed or brought up; worth another try.
    #[error(transparent)]
    Port(#[from] PortError),
}

impl PortSet {
    /// Whether the driver has said that its device was taken out, or wants it reset, since this was asked last.
    #[must_use]
    pub fn has_fallen(&self, port: PortId) -> bool {
        self.id(port).is_some_and(fallen::take)
    }

    /// Tells the workers to let go of a port. Their frames for it are refused and counted from then on.
    pub fn shut(&mut self, port: PortId) {
        if let Some(gates) = &self.gates {
            gates.set(port.index(), None);
        }
    }

    /// The first worker that may still call the driver of a port that was shut.
    #[must_use]
    pub fn held_by(&self, port: PortId) -> Option<usize> {
        self.gates.as_ref()?.behind(port.index())
    }

    /// Closes the device of a port that was shut, and makes it anew.
    ///
    /// # Errors
    /// When the port wasn't shut, a worker hasn't let go of it, or the device can't be had now. A port that was shut stays so;
    /// this may be tried again.
    pub fn renew(&mut self, port: PortId) -> Result<(), RenewError> {
        if self
            .gates
            .as_ref()
            .is_some_and(|gates| !gates.is_shut(port.index()))
        {
            return Err(RenewError::Open);
        }
        if let Some(worker) = self.held_by(port) {
            return Err(RenewError::InUse(worker));
        }
        let Some(open) = self.ports.get_mut(port.index()) else {
            return Ok(());
        };
        if let Some(id) = open.id.take() {
            in_namespace(&open.config, || remove(id))?;
        }
        let config = open.config.clone();
        let mirrored = (self.ports.len() - self.mirrored.len()..)
            .zip(&self.mirrored)
            .find(|(tap, _)| *tap == port.index());
        let renewed = match mirrored {
            Some((_, &below)) => {
                let number = below.index();
                let (mac, below) = (self.ports[number].mac, self.ports[number].config.clone());
                let open = || tap::open(&self.pool, (number, &below, &config.name), mac, self.workers);
                within(&config, config.netns.as_deref(), open).flatten()?
            }
            None => in_namespace(&config, || {
                let id = probe_now(&config).map_err(|absent| PortError::Missing(vec![absent]))?;
                bring_up(&self.pool, &config, id, self.workers, true)
            })
            .flatten()?,
        };
        let open = &mut self.ports[port.index()];
        (open.id, open.mac, open.rss) = (renewed.id, renewed.mac, renewed.rss);
        if let Some(gates) = &self.gates {
            gates.set(port.index(), open.id);
        }
        Ok(())
    }
}

/// Closes a device and has its bus forget it, so that it can be probed again. What can't be closed any more is gone anyway.
fn remove(id: u16) {
    let device = info(id).map(|info| info.device);
    let _ = stop_and_close(id);
    if let Ok(device) = device
        && !device.is_null()
    {
        // SAFETY: the bus's own device, whose port is closed; nobody keeps a pointer to it.
        unsafe { sys::rte_dev_remove(device) };
    }
}
