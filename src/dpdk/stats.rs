//! What a port's driver has counted, the common numbers and its own by name, and what the workers have (see `tally`), by
//! queue. Read by the agent on request.

use std::ffi::CStr;

use dataplane::io::PortId;

use super::error::Errno;
use super::{PortSet, sys};

/// The numbers every driver has.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct PortStats {
    /// Frames received.
    pub rx_packets: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames the device dropped because no descriptor was free.
    pub rx_missed: u64,
    /// Frames received with an error.
    pub rx_errors: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
    /// Receive failures because the pool was empty.
    pub rx_no_mbuf: u64,
}

/// A receive queue, as the worker that polls it has counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct RxQueueStats {
    /// That worker; none when nobody was given the queue.
    pub worker: Option<u16>,
    /// Frames handed to the packet path.
    pub packets: u64,
    /// Of these, frames that came in several segments and were copied into one buffer.
    pub joined: u64,
    /// Frames dropped because their segments don't fit into one buffer.
    pub segmented: u64,
    /// Frames dropped because they were longer than the port's MTU allows.
    pub too_long: u64,
    /// Frames that the driver counts as lost or damaged on this queue; 0 from one that doesn't count so.
    pub errors: u64,
}

/// A transmit queue, which has its worker's number.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct TxQueueStats {
    /// Frames that the port has accepted.
    pub packets: u64,
    /// Frames that it has not, and that were freed.
    pub refused: u64,
}

impl PortSet {
    /// What is known of each queue of a port; nothing of an unknown one.
    #[must_use]
    pub fn queue_stats(&self, port: PortId) -> (Vec<RxQueueStats>, Vec<TxQueueStats>) {
        let Some((tally, pollers)) = self.tallies(port) else {
            return (Vec::new(), Vec::new());
        };
        // DPDK has room for the errors of sixteen queues.
        let errors = self.raw_stats(port).map(|raw| raw.q_errors).unwrap_or_default();
        let errors = errors.into_iter().chain(std::iter::repeat(0));
        let rx = tally.rx.iter().zip(pollers).zip(errors);
        let rx = rx.map(|((queue, worker), errors)| RxQueueStats {
            worker: *worker,
            packets: queue.packets.get(),
            joined: queue.joined.get(),
            segmented: queue.segmented.get(),
            too_long: queue.too_long.get(),
            errors,
        });
        let tx = tally.tx.iter().map(|queue| TxQueueStats {
            packets: queue.packets.get(),
            refused: queue.refused.get(),
        });
        (rx.collect(), tx.collect())
    }

    /// The common numbers of a port; none for an unknown port or a driver without them.
    #[must_use]
    pub fn stats(&self, port: PortId) -> Option<PortStats> {
        let raw = self.raw_stats(port)?;
        Some(PortStats {
            rx_packets: raw.ipackets,
            tx_packets: raw.opackets,
            rx_bytes: raw.ibytes,
            tx_bytes: raw.obytes,
            rx_missed: raw.imissed,
            rx_errors: raw.ierrors,
            tx_errors: raw.oerrors,
            rx_no_mbuf: raw.rx_nombuf,
        })
    }

    fn raw_stats(&self, port: PortId) -> Option<sys::rte_eth_stats> {
        let id = self.id(port)?;
        let mut raw = sys::rte_eth_stats::default();
        // SAFETY: the port is open; DPDK fills the structure.
        let code = unsafe { sys::rte_eth_stats_get(id, &raw mut raw) };
        Errno::check(code).ok()?;
        Some(raw)
    }

    /// The driver's own numbers by name; empty when it has none.
    #[must_use]
    pub fn xstats(&self, port: PortId) -> Vec<(String, u64)> {
        let Some(id) = self.id(port) else {
            return Vec::new();
        };
        // SAFETY: asks for the number only.
        let count = unsafe { sys::rte_eth_xstats_get_names(id, core::ptr::null_mut(), 0) };
        let Ok(count) = u32::try_from(count) else {
            return Vec::new();
        };
        let mut names = vec![sys::rte_eth_xstat_name::default(); count as usize];
        let mut values = vec![sys::rte_eth_xstat::default(); count as usize];
        // SAFETY: room for `count` names.
        let named = unsafe { sys::rte_eth_xstats_get_names(id, names.as_mut_ptr(), count) };
        // SAFETY: room for `count` values.
        let valued = unsafe { sys::rte_eth_xstats_get(id, values.as_mut_ptr(), count) };
        if u32::try_from(named).ok() != Some(count) || u32::try_from(valued).ok() != Some(count) {
            return Vec::new();
        }
        let named = |value: &sys::rte_eth_xstat| {
            let name = &names.get(usize::try_from(value.id).ok()?)?.name;
            // SAFETY: a fixed array that DPDK fills with a zero-terminated string.
            let name = unsafe { CStr::from_ptr(name.as_ptr()) };
            Some((name.to_string_lossy().into_owned(), value.value))
        };
        values.iter().filter_map(named).collect()
    }
}
