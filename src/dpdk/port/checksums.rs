//! Which checksums a port's device verifies as frames come in. What it finds right nobody reckons again (dataplane's `io.rs`);
//! of everything else, and where a device offers nothing, software has the word.

use std::ffi::CStr;

use crate::dpdk::sys;

/// Drivers of devices without a wire. Told to verify, they also hand out what a neighbour on the same machine has sent with a
/// checksum that was left to a card, and such a packet couldn't be forwarded as it is.
const WITHOUT_WIRE: [&[u8]; 2] = [b"net_virtio", b"net_vhost"];

/// Those that it verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checksums {
    /// Of IPv4 headers.
    pub ipv4: bool,
    /// Of TCP segments.
    pub tcp: bool,
    /// Of UDP datagrams.
    pub udp: bool,
}

impl Checksums {
    /// None of them.
    pub const NONE: Self = Self {
        ipv4: false,
        tcp: false,
        udp: false,
    };

    /// What a device offers.
    pub(super) fn offered(info: &sys::rte_eth_dev_info) -> Self {
        if info.driver_name.is_null() {
            return Self::NONE;
        }
        // SAFETY: DPDK gives the name of a driver, which stays loaded, as text that ends with a zero.
        let driver = unsafe { CStr::from_ptr(info.driver_name) };
        Self::chosen(driver.to_bytes(), info.rx_offload_capa)
    }

    fn chosen(driver: &[u8], offered: u64) -> Self {
        if WITHOUT_WIRE.iter().any(|name| driver.starts_with(name)) {
            return Self::NONE;
        }
        Self {
            ipv4: offered & sys::TWINPATH_RX_IPV4_CKSUM != 0,
            tcp: offered & sys::TWINPATH_RX_TCP_CKSUM != 0,
            udp: offered & sys::TWINPATH_RX_UDP_CKSUM != 0,
        }
    }

    /// What the device is told.
    pub(super) fn flags(self) -> u64 {
        let flag = |wanted: bool, flag: u64| if wanted { flag } else { 0 };
        flag(self.ipv4, sys::TWINPATH_RX_IPV4_CKSUM)
            | flag(self.tcp, sys::TWINPATH_RX_TCP_CKSUM)
            | flag(self.udp, sys::TWINPATH_RX_UDP_CKSUM)
    }

    /// Their names.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        [("ipv4", self.ipv4), ("tcp", self.tcp), ("udp", self.udp)]
            .into_iter()
            .filter_map(|(name, verified)| verified.then_some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_is_taken_but_where_there_is_no_wire() {
        let chosen = |driver: &[u8], offered| Checksums::chosen(driver, offered);
        let both = sys::TWINPATH_RX_IPV4_CKSUM | sys::TWINPATH_RX_UDP_CKSUM;
        let card = chosen(b"net_ixgbe", both | 1 << 40);
        assert_eq!(
            (card.names().collect::<Vec<_>>(), card.flags()),
            (vec!["ipv4", "udp"], both)
        );
        for driver in [&b"net_virtio"[..], b"net_virtio_user", b"net_vhost"] {
            assert_eq!(chosen(driver, u64::MAX), Checksums::NONE);
        }
    }
}
