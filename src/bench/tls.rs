//! What protection costs beside plain lanes: the same bytes over loopback TCP, both ends by turns on one core, plain and
//! protected in alternating slices. The kernel's part is in both, so the difference is TLS alone.

use core::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use ctl::key::PrivateKey;
use state_sync::wire::{Io, Net, Wire};
use twinpath::secure::keys::{Keyring, Trusted};
use twinpath::secure::{SecureNet, SecureWire};
use twinpath::socket::{SyncNet, SyncSettings, SyncWire};

use super::pair::free_port;
use super::report::Report;
use super::rig::Rig;
use super::run::Extent;
use super::stats::{Spread, as_f64};

const ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(127, 0, 71, 1)),
    IpAddr::V4(Ipv4Addr::new(127, 0, 71, 2)),
];
/// What an event thread hands over at once under load: a frame.
const FRAME: usize = 16 * 1024;
/// Bytes of a slice.
const SLICE: u64 = 32 << 20;
/// Calls that may bring nothing before the measurement is given up.
const IDLE_MAX: usize = 10_000_000;

type Lane = (SecureWire<SyncWire>, SecureWire<SyncWire>);

/// Adds the row.
pub(crate) fn run(rig: &Rig, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let keys = [PrivateKey::generate()?, PrivateKey::generate()?];
    let ring = |own: usize| -> anyhow::Result<Arc<Keyring>> {
        let (source, address) = (ADDRESSES[own], ADDRESSES[1 - own]);
        let peer = keys[1 - own].public();
        let trusted = Trusted {
            source,
            address,
            keys: vec![peer],
        };
        Ok(Arc::new(Keyring::new(&keys[own], &[trusted])?))
    };
    let mut plain = lane([None, None])?;
    let mut protected = lane([Some(ring(0)?), Some(ring(1)?)])?;
    // Both handshakes and the kernel's windows are behind before anything is measured.
    for wires in [&mut plain, &mut protected] {
        carry(rig, wires)?;
    }
    let (mut without, mut costs) = (Vec::new(), Vec::new());
    for _ in 0..extent.slices {
        let base = carry(rig, &mut plain)?;
        costs.push(carry(rig, &mut protected)? - base);
        without.push(base);
    }
    let note = format!(
        "TLS's clocks per byte, both ends, on top of {:.2} of plain loopback TCP; {} MiB slices in frames of {} KiB",
        Spread::of(&without).median,
        SLICE >> 20,
        FRAME >> 10
    );
    report.add("sync.tls_cost", &costs, "clocks/B", &note);
    Ok(())
}

/// Clocks per byte of plain loopback TCP, both ends by turns on one core.
pub(crate) fn plain(rig: &Rig, extent: Extent) -> anyhow::Result<Vec<f64>> {
    let mut wires = lane([None, None])?;
    carry(rig, &mut wires)?;
    (0..extent.slices).map(|_| carry(rig, &mut wires)).collect()
}

fn lane(keys: [Option<Arc<Keyring>>; 2]) -> anyhow::Result<Lane> {
    let settings = SyncSettings {
        interface: None,
        second: None,
        port: free_port()?,
        dscp: 48,
    };
    let [client, server] = keys;
    let mut server = SecureNet::new(SyncNet::listener(settings.clone(), &[ADDRESSES[1]])?, server);
    let mut client = SecureNet::new(SyncNet::connector(settings), client);
    let wire = client
        .connect(ADDRESSES[0], ADDRESSES[1])
        .context("no connection")?;
    let accepted = (0..IDLE_MAX).find_map(|_| server.accept());
    Ok((wire, accepted.context("nothing was accepted")?.wire))
}

/// Carries a slice; gives the clocks of a byte.
fn carry(rig: &Rig, (from, to): &mut Lane) -> anyhow::Result<f64> {
    let frame = vec![0x5a; FRAME];
    let mut buffer = vec![0; 4 * FRAME];
    let (mut sent, mut got, mut idle) = (0, 0, 0);
    let began = rig.now();
    while got < SLICE {
        if sent < SLICE
            && let Io::Done(n) = from.send(&frame)
        {
            sent += n as u64;
        }
        from.flush();
        // The handshake, and nothing else, comes this way.
        ensure!(from.recv(&mut buffer) == Io::Wait, "the lane is broken");
        match to.recv(&mut buffer) {
            Io::Done(n) => (got, idle) = (got + n as u64, 0),
            Io::Wait => idle += 1,
            end => bail!("the lane has ended: {end:?}"),
        }
        ensure!(idle < IDLE_MAX, "the lane stands still");
    }
    ensure!(sent == got, "{sent} bytes became {got}");
    let seconds = rig.now().since(began).as_secs_f64();
    Ok(seconds * rig.hz() / as_f64(got))
}
