//! One owned packet buffer. Born in `rx` or `alloc`, moved along the stages and between workers, ended by
//! `drop`, by `free` of a burst, or by a port that accepted it in `tx`. The folder head has the whole rule.

use core::mem::offset_of;
use core::ptr::NonNull;
use core::slice;

use dataplane::io::{Packet, Verified};

use super::sys;

/// Owner of one single-segment frame in DPDK memory.
#[derive(Debug)]
#[repr(transparent)]
pub struct Mbuf {
    raw: NonNull<sys::rte_mbuf>,
}

/// The first cache line of `struct rte_mbuf`, as far as Rust touches it.
#[repr(C)]
pub(super) struct Head {
    pub(super) buf_addr: *mut u8,
    _iova_or_next: u64,
    pub(super) data_off: u16,
    pub(super) refcnt: u16,
    pub(super) nb_segs: u16,
    pub(super) port: u16,
    pub(super) ol_flags: u64,
    packet_type: u32,
    pub(super) pkt_len: u32,
    pub(super) data_len: u16,
    _vlan_tci: u16,
    _hash: [u32; 2],
    _vlan_tci_outer: u16,
    pub(super) buf_len: u16,
}

// The same numbers that shim.c asserts against DPDK's headers.
const _: () = {
    assert!(offset_of!(Head, buf_addr) == sys::TWINPATH_MBUF_BUF_ADDR as usize);
    assert!(offset_of!(Head, data_off) == sys::TWINPATH_MBUF_DATA_OFF as usize);
    assert!(offset_of!(Head, refcnt) == sys::TWINPATH_MBUF_REFCNT as usize);
    assert!(offset_of!(Head, nb_segs) == sys::TWINPATH_MBUF_NB_SEGS as usize);
    assert!(offset_of!(Head, port) == sys::TWINPATH_MBUF_PORT as usize);
    assert!(offset_of!(Head, ol_flags) == sys::TWINPATH_MBUF_OL_FLAGS as usize);
    assert!(offset_of!(Head, packet_type) == sys::TWINPATH_MBUF_PACKET_TYPE as usize);
    assert!(offset_of!(Head, pkt_len) == sys::TWINPATH_MBUF_PKT_LEN as usize);
    assert!(offset_of!(Head, data_len) == sys::TWINPATH_MBUF_DATA_LEN as usize);
    assert!(offset_of!(Head, buf_len) == sys::TWINPATH_MBUF_BUF_LEN as usize);
    assert!(size_of::<Head>() <= sys::TWINPATH_MBUF_SIZE as usize);
    assert!(size_of::<sys::rte_mbuf>() == sys::TWINPATH_MBUF_SIZE as usize);
    assert!(size_of::<Mbuf>() == size_of::<*mut sys::rte_mbuf>());
};

// SAFETY: an Mbuf is the only reference to its buffer, and the pool takes it back from any thread.
unsafe impl Send for Mbuf {}

impl Mbuf {
    /// Takes ownership.
    ///
    /// # Safety
    /// `raw` is a live mbuf with one reference that nothing else will use or free.
    pub(super) const unsafe fn from_raw(raw: NonNull<sys::rte_mbuf>) -> Self {
        Self { raw }
    }

    pub(super) const fn head(&self) -> &Head {
        // SAFETY: the mbuf is live and ours alone (from_raw's contract), aligned to a cache line, and Head
        // describes its beginning as asserted above and in shim.c.
        unsafe { self.raw.cast::<Head>().as_ref() }
    }

    const fn head_mut(&mut self) -> &mut Head {
        // SAFETY: as for `head`; `&mut self` makes the reference unique.
        unsafe { self.raw.cast::<Head>().as_mut() }
    }

    /// First byte of the frame.
    const fn frame(&self) -> *mut u8 {
        let head = self.head();
        // SAFETY: DPDK and the methods below keep data_off + data_len within buf_len.
        unsafe { head.buf_addr.add(head.data_off as usize) }
    }

    /// Asks for the frame's first line ahead of the parser.
    pub(super) fn prefetch(&self) {
        // SAFETY: a prefetch is a hint and never faults.
        unsafe {
            core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(
                self.frame().cast_const().cast(),
            );
        }
    }

    /// Adds a segment behind the frame, as a driver does whose frames don't fit into one buffer. For tests of `rx`, which joins
    /// them: everything else here knows of one segment. Gives the segment back when DPDK has no number for it.
    ///
    /// # Errors
    /// At 65,535 segments.
    pub fn chain(&mut self, segment: Self) -> Result<(), Self> {
        // SAFETY: both mbufs are live and ours alone; the chain owns the second one from here on.
        if unsafe { sys::twinpath_mbuf_chain(self.raw.as_ptr(), segment.raw.as_ptr()) } {
            core::mem::forget(segment);
            Ok(())
        } else {
            Err(segment)
        }
    }

    /// Makes one segment of several; false, and nothing done, when they don't fit into the first one's buffer.
    pub(super) fn join(&mut self) -> bool {
        // SAFETY: the mbuf and the segments behind it are live and ours alone.
        unsafe { sys::twinpath_mbuf_join(self.raw.as_ptr()) }
    }

    const fn set_lens(&mut self, len: u16) {
        let head = self.head_mut();
        head.data_len = len;
        head.pkt_len = len as u32;
    }
}

impl Packet for Mbuf {
    fn data(&self) -> &[u8] {
        // SAFETY: the frame's bytes lie within the live buffer, which only this value refers to; DPDK
        // initialised pool memory when it mapped it, so every byte has a value.
        unsafe { slice::from_raw_parts(self.frame(), usize::from(self.head().data_len)) }
    }

    fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `data`; `&mut self` makes the slice unique.
        unsafe { slice::from_raw_parts_mut(self.frame(), usize::from(self.head().data_len)) }
    }

    fn set_len(&mut self, len: usize) -> bool {
        let head = self.head();
        match u16::try_from(len) {
            Ok(len) if len <= head.buf_len.saturating_sub(head.data_off) => {
                self.set_lens(len);
                true
            }
            _ => false,
        }
    }

    fn prepend(&mut self, count: usize) -> bool {
        let head = self.head();
        let grown = u16::try_from(count).ok().and_then(|count| {
            Some((
                head.data_off.checked_sub(count)?,
                head.data_len.checked_add(count)?,
            ))
        });
        let Some((data_off, data_len)) = grown else {
            return false;
        };
        self.head_mut().data_off = data_off;
        self.set_lens(data_len);
        true
    }

    fn trim_front(&mut self, count: usize) -> bool {
        let head = self.head();
        let cut = u16::try_from(count).ok().and_then(|count| {
            Some((
                head.data_off.checked_add(count)?,
                head.data_len.checked_sub(count)?,
            ))
        });
        let Some((data_off, data_len)) = cut else {
            return false;
        };
        self.head_mut().data_off = data_off;
        self.set_lens(data_len);
        true
    }

    fn verified(&self) -> Verified {
        let head = self.head();
        // What is said of a tunnel's packet is said of the one inside.
        let nothing = head.ol_flags & (sys::TWINPATH_IP_CKSUM_GOOD | sys::TWINPATH_L4_CKSUM_GOOD) == 0;
        if nothing || head.packet_type & sys::TWINPATH_TUNNEL_MASK != 0 {
            return Verified::default();
        }
        Verified {
            header: head.ol_flags & sys::TWINPATH_IP_CKSUM_MASK == sys::TWINPATH_IP_CKSUM_GOOD,
            transport: head.ol_flags & sys::TWINPATH_L4_CKSUM_MASK == sys::TWINPATH_L4_CKSUM_GOOD,
        }
    }
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        // SAFETY: the mbuf is live and ours alone; nothing uses it afterwards.
        unsafe { sys::twinpath_mbuf_free(self.raw.as_ptr()) }
    }
}
