//! The pool of packet buffers: one per process, created after the EAL, shared by every port and worker,
//! freed by `Eal::stop` once every mbuf is back.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;

use thiserror::Error;

use super::error::Errno;
use super::{Eal, Mbuf, sys};

/// Room for a frame and its headroom in each mbuf, unless a port needs more ([`super::port::room_for`]): a 1500-byte
/// payload with two VLAN tags and then some.
pub const ROOM_DEFAULT: u16 = 2048 + HEADROOM;
/// Bytes in front of a received frame that `prepend` may use.
#[expect(clippy::cast_possible_truncation, reason = "128")]
pub const HEADROOM: u16 = sys::TWINPATH_HEADROOM as u16;
/// Mbufs that each worker keeps at hand, besides the shared ring.
pub const CACHE: u32 = 256;

/// Why there is no pool.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PoolError {
    /// The name holds a zero byte.
    #[error("mempool name {0:?} holds a zero byte")]
    Name(String),
    /// A pool smaller than the workers' caches would starve some of them.
    #[error("{mbufs} mbufs are too few: at least {least} are needed")]
    TooFew {
        /// Asked for.
        mbufs: u32,
        /// The least that works.
        least: u32,
    },
    /// The EAL's memory does not hold it.
    #[error(
        "a pool of {mbufs} mbufs of {room} bytes could not be created: {cause}; raise memory_mb or lower mbufs"
    )]
    Create {
        /// Asked for.
        mbufs: u32,
        /// Bytes of each.
        room: u16,
        /// DPDK's answer.
        cause: Errno,
    },
}

/// The pool itself. Kept alive by every handle that may allocate from it.
#[derive(Debug)]
pub(super) struct Pool {
    raw: NonNull<sys::rte_mempool>,
    pub(super) size: u32,
    /// Bytes of each, headroom included.
    pub(super) room: u16,
}

// SAFETY: a mempool is made for allocation and release from any thread; per-lcore caches are found by the
// calling thread's own lcore id, and threads without one go to the shared ring.
unsafe impl Send for Pool {}
// SAFETY: as above; no method needs exclusive access.
unsafe impl Sync for Pool {}

impl Pool {
    /// The pool for DPDK calls.
    pub(super) const fn raw(&self) -> *mut sys::rte_mempool {
        self.raw.as_ptr()
    }

    /// A packet of length 0.
    pub(super) fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool is alive as long as this value.
        let raw = unsafe { sys::twinpath_mbuf_alloc(self.raw()) };
        // SAFETY: a fresh mbuf has one segment, one reference and no other owner.
        NonNull::new(raw).map(|raw| unsafe { Mbuf::from_raw(raw) })
    }

    /// Mbufs not in the pool.
    pub(super) fn in_use(&self) -> u32 {
        // SAFETY: counts under the pool's own rules; the pool is alive as long as this value.
        unsafe { sys::rte_mempool_in_use_count(self.raw()) }
    }

    /// Mbufs in the pool.
    pub(super) fn available(&self) -> u32 {
        // SAFETY: as for `in_use`.
        unsafe { sys::rte_mempool_avail_count(self.raw()) }
    }
}

/// The packet buffers of the process.
#[derive(Debug)]
pub struct Mempool {
    pool: Arc<Pool>,
}

impl Mempool {
    /// Creates `mbufs` buffers of `room` bytes each (headroom included, see [`ROOM_DEFAULT`]) on any NUMA
    /// node. Best memory use at a power of two minus one.
    ///
    /// # Errors
    /// When the EAL's memory is too small, or fewer buffers are asked for than the caches of a few workers.
    pub fn create(eal: &Eal, name: &str, mbufs: u32, room: u16) -> Result<Self, PoolError> {
        let least = 4 * CACHE;
        if mbufs < least {
            return Err(PoolError::TooFew { mbufs, least });
        }
        let label = CString::new(name).map_err(|_| PoolError::Name(name.to_owned()))?;
        // With more threads than cores, a thread may lose its core in the middle of a ring operation; on the
        // ordinary ring every other thread would then spin until it is scheduled again.
        let ops = if eal.is_overcommitted() {
            c"ring_mt_rts"
        } else {
            c"ring_mp_mc"
        };
        // SAFETY: both strings are zero terminated and outlive the call; the EAL has started.
        let raw = unsafe {
            sys::rte_pktmbuf_pool_create_by_ops(label.as_ptr(), mbufs, CACHE, 0, room, -1, ops.as_ptr())
        };
        let raw = NonNull::new(raw).ok_or_else(|| PoolError::Create {
            mbufs,
            room,
            cause: Errno::last(),
        })?;
        Ok(Self {
            pool: Arc::new(Pool {
                raw,
                size: mbufs,
                room,
            }),
        })
    }

    /// A packet of length 0; none when the pool is empty.
    #[must_use]
    pub fn alloc(&self) -> Option<Mbuf> {
        self.pool.alloc()
    }

    /// Buffers in all.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.pool.size
    }

    /// Buffers in the pool, per-worker caches included. Exact only while no worker runs.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.pool.available()
    }

    /// Buffers held by packets and by ports. Exact only while no worker runs.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.pool.in_use()
    }

    pub(super) const fn shared(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Frees the pool when nothing can refer to it any more, and says how many mbufs are missing otherwise.
    pub(super) fn destroy(self) -> Result<u32, u32> {
        let pool = Arc::try_unwrap(self.pool).map_err(|pool| pool.in_use())?;
        if pool.in_use() != 0 {
            return Err(pool.in_use());
        }
        // SAFETY: no handle is left and every mbuf is back, so nothing can reach the pool afterwards.
        unsafe { sys::rte_mempool_free(pool.raw()) };
        Ok(pool.size)
    }
}
