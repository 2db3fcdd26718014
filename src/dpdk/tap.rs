//! The tap of a port: the kernel interface that mirrors it, with its MAC address and MTU. Made by `PortSet::open` when its port
//! is there, opened like a port (device `net_tap`) with a queue pair per worker, closed with the ports.
//!
//! The kernel keeps the interface when the process has ended, without carrier, and with it what others have put there:
//! addresses, VLAN interfaces, filters. The next process takes it over by its name.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;

use dataplane::rss::Rss;
use libc::{c_int, c_short};

use super::mempool::Pool;
use super::port::{OpenPort, bring_up, probe_now, set_mtu};
use super::{Device, PortConfig, PortError};

/// Longest name of a kernel interface.
pub const NAME_MAX: usize = libc::IFNAMSIZ - 1;
/// Queue pairs of a tap: a limit of its driver.
pub const QUEUES_MAX: u16 = 16;
/// Buffers that a receive queue holds ready: for one frame, which one of them is enough for.
const DESCRIPTORS: u16 = 4;

/// Makes the tap `name` of a port, in the calling thread's network namespace.
pub(super) fn open(
    pool: &Pool,
    (number, port, name): (usize, &PortConfig, &str),
    mac: [u8; 6],
    workers: u16,
) -> Result<OpenPort, PortError> {
    let fail = |cause: &dyn std::fmt::Display| PortError::Tap {
        port: port.name.clone(),
        tap: name.to_owned(),
        cause: cause.to_string(),
    };
    keep(name).map_err(|cause| fail(&cause))?;
    survive_signals();
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    let spec = format!("net_tap_exception{number},iface={name},mac={mac}");
    let config = PortConfig {
        name: name.to_owned(),
        device: Device::parse(&spec).ok_or_else(|| fail(&"DPDK can't name it"))?,
        netns: port.netns.clone(),
        tap: None,
        // The driver wants as many as transmit queues.
        rx_queues: workers,
        rss: Rss::Flow,
        rss_key: Vec::new(),
        mtu: port.mtu,
        descriptors: DESCRIPTORS,
    };
    let id = probe_now(&config).map_err(|absent| fail(&absent.hint))?;
    let opened = bring_up(pool, &config, id, workers, false)?;
    // What an earlier process has left may have another one, which the driver doesn't ask for.
    set_mtu(id, port.mtu).map_err(|cause| fail(&cause))?;
    Ok(opened)
}

/// Sees that there is a tap of that name, with several queues, that the end of the process doesn't take away.
fn keep(name: &str) -> io::Result<()> {
    let tun = File::options().read(true).write(true).open("/dev/net/tun")?;
    attach(&tun, &mut Request::new(name)?)?;
    persist(&tun)?;
    // The driver takes the interface down when it closes it, which would cost its IPv6 addresses. Where /proc may not be
    // written it does.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/keep_addr_on_down"), "1");
    Ok(())
}

/// The driver has the kernel signal that there is something to read, each time. A kernel that can queue no more such signals
/// sends SIGIO in their place, which would end the process.
fn survive_signals() {
    // SAFETY: changes what becomes of one signal that nothing here waits for.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
}

/// `struct ifreq`, as TUNSETIFF wants it.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: c_short,
    rest: [u8; 22],
}

impl Request {
    fn new(name: &str) -> io::Result<Self> {
        let mut request = Self {
            name: [0; libc::IFNAMSIZ],
            #[expect(clippy::cast_possible_truncation, reason = "flags of this field")]
            flags: (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE) as c_short,
            rest: [0; 22],
        };
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        Ok(request)
    }
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

fn attach(tun: &File, request: &mut Request) -> io::Result<()> {
    // SAFETY: the descriptor is open; the kernel reads and writes one `struct ifreq`.
    checked(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, request) })
}

fn persist(tun: &File) -> io::Result<()> {
    let yes: c_int = 1;
    // SAFETY: the descriptor is open; the argument is a number.
    checked(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETPERSIST, yes) })
}

fn checked(code: c_int) -> io::Result<()> {
    if code < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
