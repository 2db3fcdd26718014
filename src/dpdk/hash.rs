//! DPDK's own hash table, as something to measure against: nothing that forwards packets uses it.
//!
//! Born in the EAL's memory with room for a fixed number of keys. It keeps the packet buffers' pool alive, without which
//! [`super::Eal::stop`] does not end the EAL; so the memory is there as long as the table is.

use std::ffi::CString;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::error::Errno;
use super::mempool::Pool;
use super::{Mempool, sys};

/// Bytes of a key.
pub const KEY_LEN: usize = 16;
/// Keys of one lookup.
pub const BULK: usize = sys::TWINPATH_HASH_BULK as usize;

/// A key.
pub type Key = [u8; KEY_LEN];

/// Why there is no table, or no room in it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HashError {
    /// The EAL's memory does not hold it, or there is one of that name.
    #[error("a hash table of {entries} keys could not be created: {cause}")]
    Create {
        /// Asked for.
        entries: u32,
        /// DPDK's answer.
        cause: Errno,
    },
    /// A key did not find a place.
    #[error("a key was not added: {0}")]
    Add(Errno),
}

/// An `rte_hash` of its default hash function, used by one thread.
#[derive(Debug)]
pub struct BulkHash {
    raw: NonNull<sys::rte_hash>,
    _pool: Arc<Pool>,
}

impl BulkHash {
    /// A table for `entries` keys beside the buffers of `pool`.
    ///
    /// # Errors
    /// When the EAL's memory is too small, or the name is taken or holds a zero byte.
    pub fn create(pool: &Mempool, name: &str, entries: u32) -> Result<Self, HashError> {
        let failed = |cause| HashError::Create { entries, cause };
        let label = CString::new(name).map_err(|_| failed(Errno(libc::EINVAL)))?;
        let parameters = sys::rte_hash_parameters {
            name: label.as_ptr(),
            entries,
            key_len: u32::try_from(KEY_LEN).unwrap_or_default(),
            ..Default::default()
        };
        // SAFETY: the pool tells that the EAL has started; parameters and name outlive the call, which copies them.
        let raw = unsafe { sys::rte_hash_create(&raw const parameters) };
        Ok(Self {
            raw: NonNull::new(raw).ok_or_else(|| failed(Errno::last()))?,
            _pool: Arc::clone(pool.shared()),
        })
    }

    /// Adds a key; returns its place.
    ///
    /// # Errors
    /// When it finds no room.
    pub fn add(&mut self, key: &Key) -> Result<i32, HashError> {
        // SAFETY: the table is alive and this thread's alone; the key has the length that it was made for.
        let code = unsafe { sys::rte_hash_add_key(self.raw.as_ptr(), key.as_ptr().cast()) };
        Errno::check(code).map_err(HashError::Add)
    }

    /// The place of each key; negative where there is none.
    #[inline]
    pub fn find(&self, keys: &[Key; BULK], places: &mut [i32; BULK]) {
        let mut list = [ptr::null(); BULK];
        for (at, key) in list.iter_mut().zip(keys) {
            *at = ptr::from_ref(key).cast();
        }
        // SAFETY: the table is alive, and not written to while it is borrowed; BULK keys of its length and as many places.
        unsafe {
            sys::rte_hash_lookup_bulk(
                self.raw.as_ptr(),
                list.as_mut_ptr(),
                sys::TWINPATH_HASH_BULK,
                places.as_mut_ptr(),
            )
        };
    }
}

impl Drop for BulkHash {
    fn drop(&mut self) {
        // SAFETY: the table is alive, because the pool is, and nobody uses it from here on.
        unsafe { sys::rte_hash_free(self.raw.as_ptr()) };
    }
}
