//! One port, from what was found to what workers can poll: its driver's limits, its configuration, queues, MTU, start and MAC
//! address; and its end.

use std::sync::Arc;

use super::checksums::Checksums;
use super::rss::Told;
use super::{DPDK_OVERHEAD, FRAME_OVERHEAD, OpenPort, PortConfig, PortError, RX_QUEUES_MAX};
use crate::dpdk::error::Errno;
use crate::dpdk::mempool::{HEADROOM, Pool};
use crate::dpdk::sys;
use crate::dpdk::tally::PortTally;

/// Configures and starts one port.
pub(in crate::dpdk) fn bring_up(
    pool: &Pool,
    config: &PortConfig,
    id: u16,
    workers: u16,
    all_frames: bool,
) -> Result<OpenPort, PortError> {
    let fail = |step| {
        move |cause| PortError::Setup {
            port: config.name.clone(),
            step,
            cause,
        }
    };
    let info = info(id).map_err(fail("reading its abilities"))?;
    check_limits(pool, config, &info, workers)?;
    let offered = info.flow_type_rss_offloads;
    let mut rss =
        Told::choose(config.rss, config.rx_queues, offered).with_key(&config.rss_key, info.hash_key_size);

    let mut conf = sys::rte_eth_conf::default();
    let found = mtu(id).map_err(fail("reading its MTU"))?;
    let told = config.mtu.min(driver_mtu(&info));
    conf.rxmode.mtu = u32::from(told);
    if rss.flags != 0 {
        conf.rxmode.mq_mode = sys::TWINPATH_MQ_RX_RSS;
        conf.rx_adv_conf.rss_conf = rss.conf();
    }
    conf.intr_conf.set_rmv(u32::from(reports_removal(&info)));
    // What comes by a tap isn't read.
    let checksums = if all_frames {
        Checksums::offered(&info)
    } else {
        Checksums::NONE
    };
    conf.rxmode.offloads = checksums.flags();
    // Allowed because all packets come from one pool and have one reference.
    conf.txmode.offloads = info.tx_offload_capa & sys::TWINPATH_TX_FAST_FREE;
    // SAFETY: the port exists and is not started; DPDK copies the configuration.
    let code = unsafe { sys::rte_eth_dev_configure(id, config.rx_queues, workers, &raw const conf) };
    Errno::check(code).map_err(fail("configuring it"))?;

    set_up_queues(pool, config, id, workers, &info, conf.txmode.offloads)?;
    if told != found {
        set_mtu(id, told).map_err(fail("setting its MTU"))?;
    }
    // SAFETY: the port is configured and every queue is set up.
    Errno::check(unsafe { sys::rte_eth_dev_start(id) }).map_err(fail("starting it"))?;
    let started = if all_frames { promiscuous(id) } else { Ok(()) };
    let started = started.and_then(|()| read_mac(id));
    let mac = match started {
        Ok(mac) => mac,
        Err(cause) => {
            // The first error is the one to report.
            let _ = stop_and_close(id);
            return Err(fail("promiscuous mode or MAC address")(cause));
        }
    };
    Ok(OpenPort {
        config: config.clone(),
        id: Some(id),
        mac,
        rss: rss.read(id, &info, config.rx_queues),
        checksums,
        tally: Arc::new(PortTally::new(config.rx_queues, workers)),
        pollers: vec![None; usize::from(config.rx_queues)],
    })
}

pub(super) fn info(id: u16) -> Result<sys::rte_eth_dev_info, Errno> {
    let mut info = sys::rte_eth_dev_info::default();
    // SAFETY: the port exists; DPDK fills the structure.
    Errno::check(unsafe { sys::rte_eth_dev_info_get(id, &raw mut info) })?;
    Ok(info)
}

/// Whether the driver can say that its device was taken out.
fn reports_removal(info: &sys::rte_eth_dev_info) -> bool {
    // SAFETY: DPDK gives the address of the device's flags, which live as long as the port, or none.
    let flags = unsafe { info.dev_flags.as_ref() };
    flags.is_some_and(|flags| flags & sys::TWINPATH_DEV_INTR_RMV != 0)
}

fn check_limits(
    pool: &Pool,
    config: &PortConfig,
    info: &sys::rte_eth_dev_info,
    workers: u16,
) -> Result<(), PortError> {
    let (rx_most, tx_most) = (info.max_rx_queues.min(RX_QUEUES_MAX), info.max_tx_queues);
    for (kind, wanted, offered) in [
        ("receive", config.rx_queues, rx_most),
        ("transmit", workers, tx_most),
    ] {
        if wanted == 0 || wanted > offered {
            return Err(PortError::Queues {
                port: config.name.clone(),
                kind,
                wanted,
                offered,
            });
        }
    }
    let room = pool.room.saturating_sub(HEADROOM + FRAME_OVERHEAD);
    let most = room.min(config.mtu_most(info));
    if config.mtu > most {
        return Err(PortError::Mtu {
            port: config.name.clone(),
            mtu: config.mtu,
            most,
        });
    }
    Ok(())
}

/// The largest MTU that the driver can be told, as `rte_eth_dev_configure` reckons it.
pub(super) fn driver_mtu(info: &sys::rte_eth_dev_info) -> u16 {
    if info.max_mtu != 0 && info.max_mtu != u16::MAX {
        return info.max_mtu;
    }
    let frame = if info.max_rx_pktlen == 0 {
        u32::MAX
    } else {
        info.max_rx_pktlen
    };
    u16::try_from(frame.saturating_sub(DPDK_OVERHEAD)).unwrap_or(u16::MAX)
}

fn set_up_queues(
    pool: &Pool,
    config: &PortConfig,
    id: u16,
    workers: u16,
    info: &sys::rte_eth_dev_info,
    tx_offloads: u64,
) -> Result<(), PortError> {
    let fail = |step| {
        move |cause| PortError::Setup {
            port: config.name.clone(),
            step,
            cause,
        }
    };
    let (mut rx_count, mut tx_count) = (config.descriptors, config.descriptors);
    // SAFETY: the port is configured; DPDK rounds both numbers in place.
    let code = unsafe { sys::rte_eth_dev_adjust_nb_rx_tx_desc(id, &raw mut rx_count, &raw mut tx_count) };
    Errno::check(code).map_err(fail("choosing descriptors"))?;
    let rx = info.default_rxconf;
    let mut tx = info.default_txconf;
    tx.offloads = tx_offloads;
    for queue in 0..config.rx_queues {
        // SAFETY: the port is configured with this queue; the pool outlives the port (Eal::stop's order).
        let code = unsafe {
            sys::rte_eth_rx_queue_setup(id, queue, rx_count, ANY_SOCKET, &raw const rx, pool.raw())
        };
        Errno::check(code).map_err(fail("setting up a receive queue"))?;
    }
    for queue in 0..workers {
        // SAFETY: the port is configured with this queue.
        let code = unsafe { sys::rte_eth_tx_queue_setup(id, queue, tx_count, ANY_SOCKET, &raw const tx) };
        Errno::check(code).map_err(fail("setting up a transmit queue"))?;
    }
    Ok(())
}

/// `SOCKET_ID_ANY`.
const ANY_SOCKET: u32 = u32::MAX;

/// The MTU that DPDK believes the port to have.
fn mtu(id: u16) -> Result<u16, Errno> {
    let mut mtu = 0;
    // SAFETY: the port exists; DPDK fills the number.
    Errno::check(unsafe { sys::rte_eth_dev_get_mtu(id, &raw mut mtu) })?;
    Ok(mtu)
}

/// Tells the driver, and through it the card or the kernel interface. Devices without the notion take any frame.
pub(in crate::dpdk) fn set_mtu(id: u16, mtu: u16) -> Result<(), Errno> {
    // SAFETY: the port is configured; this is the main lcore, and workers call nothing that this could disturb.
    match Errno::check(unsafe { sys::rte_eth_dev_set_mtu(id, mtu) }) {
        Ok(_) | Err(Errno(libc::ENOTSUP)) => Ok(()),
        Err(cause) => Err(cause),
    }
}

/// Virtual MAC addresses come and go, so every frame is taken. Devices without the notion take all anyway.
fn promiscuous(id: u16) -> Result<(), Errno> {
    // SAFETY: the port is started.
    match Errno::check(unsafe { sys::rte_eth_promiscuous_enable(id) }) {
        Ok(_) | Err(Errno(libc::ENOTSUP)) => Ok(()),
        Err(cause) => Err(cause),
    }
}

fn read_mac(id: u16) -> Result<[u8; 6], Errno> {
    let mut mac = sys::rte_ether_addr::default();
    // SAFETY: the port exists; DPDK fills the address.
    Errno::check(unsafe { sys::rte_eth_macaddr_get(id, &raw mut mac) })?;
    Ok(mac.addr_bytes)
}

pub(super) fn stop_and_close(id: u16) -> Result<(), Errno> {
    // SAFETY: the port was opened by `bring_up`, and no worker holds its queues.
    let stopped = Errno::check(unsafe { sys::rte_eth_dev_stop(id) });
    // SAFETY: as above; the id is not used afterwards.
    let closed = Errno::check(unsafe { sys::rte_eth_dev_close(id) });
    stopped.and(closed).map(drop)
}
