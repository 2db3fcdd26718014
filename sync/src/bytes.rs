//! Fields of the wire: network byte order, variable-length numbers, addresses. Reading says "short" instead of
//! failing hard, because everything read here was written by somebody else.

use bytes::{Buf, BufMut};
use dataplane::flow::Addr;

/// The bytes end before the field does, or the field contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Short;

impl From<bytes::TryGetError> for Short {
    fn from(_: bytes::TryGetError) -> Self {
        Self
    }
}

/// Appends `n` in groups of seven bits, lowest first, the high bit meaning "more".
#[expect(clippy::cast_possible_truncation, reason = "masked to seven bits")]
pub(crate) fn put_number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.put_u8(n as u8 | 0x80);
        n >>= 7;
    }
    out.put_u8(n as u8);
}

/// Reads what [`put_number`] wrote; at most ten bytes, no bit beyond the 64th.
#[inline]
pub(crate) fn get_number(from: &mut &[u8]) -> Result<u64, Short> {
    if let [byte @ ..0x80, rest @ ..] = *from {
        *from = rest;
        return Ok(u64::from(*byte));
    }
    get_long_number(from)
}

fn get_long_number(from: &mut &[u8]) -> Result<u64, Short> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = from.try_get_u8()?;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return Err(Short);
        }
        n |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(n);
        }
    }
    Err(Short)
}

/// Appends an address in 4 bytes (`v4`) or 16.
#[inline]
pub(crate) fn put_address(out: &mut Vec<u8>, address: &Addr, v4: bool) {
    if v4 {
        out.put_slice(&address.v4_octets());
    } else {
        out.put_slice(&address.octets());
    }
}

/// Reads what [`put_address`] wrote.
#[inline]
pub(crate) fn get_address(from: &mut &[u8], v4: bool) -> Result<Addr, Short> {
    if v4 {
        let mut octets = [0; 4];
        from.try_copy_to_slice(&mut octets)?;
        Ok(Addr::v4(octets))
    } else {
        let mut octets = [0; 16];
        from.try_copy_to_slice(&mut octets)?;
        Ok(Addr::v6(octets))
    }
}

/// Appends a text of at most 255 bytes, cut there, behind its length.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    let bytes = &text.as_bytes()[..text.len().min(255)];
    out.put_u8(u8::try_from(bytes.len()).unwrap_or(u8::MAX));
    out.put_slice(bytes);
}

/// Reads a text of at most `max` bytes.
pub(crate) fn get_text(from: &mut &[u8], max: usize) -> Result<String, Short> {
    let len = usize::from(from.try_get_u8()?);
    if len > max || from.len() < len {
        return Err(Short);
    }
    let (text, rest) = from.split_at(len);
    *from = rest;
    core::str::from_utf8(text).map(str::to_owned).map_err(|_| Short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_have_these_bytes() {
        for (n, bytes) in [(0, &[0][..]), (127, &[127]), (128, &[0x80, 1]), (300, &[0xac, 2])] {
            let mut out = Vec::new();
            put_number(&mut out, n);
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn numbers_beyond_64_bits_and_unended_ones_are_refused() {
        assert_eq!(get_number(&mut &[0xff; 11][..]), Err(Short));
        assert_eq!(get_number(&mut &[0x80; 3][..]), Err(Short));
        let mut over = [0xff; 10];
        over[9] = 2;
        assert_eq!(get_number(&mut &over[..]), Err(Short));
    }

    proptest! {
        #[test]
        fn numbers_come_back(n: u64) {
            let mut out = Vec::new();
            put_number(&mut out, n);
            let mut from = &out[..];
            prop_assert_eq!(get_number(&mut from), Ok(n));
            prop_assert!(from.is_empty());
        }
    }
}
