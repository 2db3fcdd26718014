//! IPv6 extension headers (RFC 8200, section 4): walked once, bounded in number and bytes, never changed.

/// Hop-by-hop options; only directly after the IPv6 header.
pub const HOP_BY_HOP: u8 = 0;
/// Routing.
pub const ROUTING: u8 = 43;
/// Fragment.
pub const FRAGMENT: u8 = 44;
/// Authentication header (RFC 4302); its length counts in 4-byte units.
pub const AUTHENTICATION: u8 = 51;
/// No next header.
pub const NO_NEXT: u8 = 59;
/// Destination options.
pub const DESTINATION: u8 = 60;

/// More headers than this are nobody's honest traffic (RFC 8504, section 5.3 leaves the limit to us).
pub const COUNT_MAX: usize = 8;
/// Bytes of all extension headers of a packet that is let through.
pub const BYTES_MAX: usize = 256;

/// Where the walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upper {
    /// Protocol after the last extension header.
    pub proto: u8,
    /// Its offset from the end of the IPv6 header.
    pub offset: usize,
    /// The fragment header, if there was one. Of a later piece, `proto` is then only what the first piece's chain
    /// goes on with, and `offset` is where the piece's bytes start.
    pub fragment: Option<Fragment>,
}

/// A fragment header (RFC 8200, section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Identification.
    pub id: u32,
    /// Offset in bytes (a multiple of 8) from the start of the fragmentable part.
    pub offset: u16,
    /// Not the last piece.
    pub more: bool,
    /// Where the header ends, from the end of the IPv6 header.
    pub end: usize,
}

impl Fragment {
    /// Whether it makes the packet its own only piece, which needs no reassembly (RFC 6946).
    #[must_use]
    pub const fn is_atomic(&self) -> bool {
        self.offset == 0 && !self.more
    }
}

/// Why the walk could not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A header goes past the end of the packet.
    Truncated,
    /// Too many, too long, twice, or hop-by-hop not first.
    OutOfPlace,
    /// Routing header of type 0 (RFC 5095), or of another type with segments left: its destination, and with it the
    /// flow, is not the one in the IPv6 header.
    SourceRouted,
    /// First piece of a packet without the whole chain of headers (RFC 7112, section 5).
    Tiny,
}

/// Walks the chain in `bytes` (what follows the IPv6 header, `next` being its first type). Ends at the upper layer, or
/// at the fragment header of a later piece.
///
/// # Errors
/// The first [`Fault`] met.
pub fn walk(bytes: &[u8], next: u8) -> Result<Upper, Fault> {
    let mut upper = Upper {
        proto: next,
        offset: 0,
        fragment: None,
    };
    for count in 0.. {
        // Where the chain breaks off tells a damaged packet from one that hides its ports.
        let broken = match upper.fragment {
            Some(fragment) if fragment.more => Fault::Tiny,
            _ => Fault::Truncated,
        };
        let header = bytes.get(upper.offset..).and_then(|b| b.first_chunk::<8>());
        let len = match upper.proto {
            HOP_BY_HOP if count > 0 => return Err(Fault::OutOfPlace),
            HOP_BY_HOP | DESTINATION | ROUTING => usize::from(header.ok_or(broken)?[1]) * 8 + 8,
            AUTHENTICATION => usize::from(header.ok_or(broken)?[1]) * 4 + 8,
            FRAGMENT => 8,
            _ => return Ok(upper),
        };
        let header = header.ok_or(broken)?;
        if upper.proto == ROUTING && (header[2] == 0 || header[3] != 0) {
            return Err(Fault::SourceRouted);
        }
        let is_fragment = upper.proto == FRAGMENT;
        upper.offset += len;
        upper.proto = header[0];
        if count >= COUNT_MAX || upper.offset > BYTES_MAX {
            return Err(Fault::OutOfPlace);
        }
        if upper.offset > bytes.len() {
            return Err(broken);
        }
        if is_fragment {
            if upper.fragment.is_some() {
                return Err(Fault::OutOfPlace);
            }
            let field = u16::from_be_bytes([header[2], header[3]]);
            let fragment = Fragment {
                id: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
                offset: field & 0xfff8,
                more: field & 1 != 0,
                end: upper.offset,
            };
            upper.fragment = Some(fragment);
            if fragment.offset != 0 {
                return Ok(upper);
            }
        }
    }
    Err(Fault::OutOfPlace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_of_four_kinds_ends_at_its_upper_layer() {
        let mut chain = vec![ROUTING, 0, 1, 4, 0, 0, 0, 0]; // hop-by-hop, PadN
        chain.extend([DESTINATION, 0, 2, 0, 0, 0, 0, 0]); // routing type 2
        chain.extend([AUTHENTICATION, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        chain.extend([6, 4, 0, 0, 0, 0, 0, 0]); // AH: (4 + 2) * 4 = 24 bytes
        chain.extend([0; 16]);
        chain.extend([0xaa; 4]);
        assert_eq!(
            walk(&chain, HOP_BY_HOP),
            Ok(Upper {
                proto: 6,
                offset: 56,
                fragment: None
            })
        );
    }

    #[test]
    fn a_chain_that_never_ends_is_refused() {
        let endless: Vec<u8> = [DESTINATION, 0, 1, 4, 0, 0, 0, 0].repeat(100);
        assert_eq!(walk(&endless, DESTINATION), Err(Fault::OutOfPlace));
        let long = [&[6, 255, 1, 4][..], &[0; 4000]].concat();
        assert_eq!(walk(&long, DESTINATION), Err(Fault::OutOfPlace));
    }

    #[test]
    fn source_routes_are_refused_rfc_5095() {
        assert_eq!(walk(&[6, 0, 0, 0, 0, 0, 0, 0], ROUTING), Err(Fault::SourceRouted));
        assert_eq!(walk(&[6, 0, 4, 1, 0, 0, 0, 0], ROUTING), Err(Fault::SourceRouted));
        let spent = Upper {
            proto: 6,
            offset: 8,
            fragment: None,
        };
        assert_eq!(walk(&[6, 0, 4, 0, 0, 0, 0, 0], ROUTING), Ok(spent));
    }

    #[test]
    fn hop_by_hop_is_only_allowed_first_rfc_8200_4_1() {
        let chain = [[HOP_BY_HOP, 0, 1, 4, 0, 0, 0, 0], [6, 0, 1, 4, 0, 0, 0, 0]].concat();
        assert_eq!(walk(&chain, DESTINATION), Err(Fault::OutOfPlace));
    }

    #[test]
    fn fragments_are_told_from_atomic_ones_rfc_6946() {
        let walked = |field: u16| {
            let header = [&[17, 0][..], &field.to_be_bytes(), &[0, 0, 0, 1]].concat();
            let upper = walk(&header, FRAGMENT).unwrap();
            assert_eq!((upper.proto, upper.offset), (17, 8));
            upper.fragment.unwrap()
        };
        let fragment = |offset, more| Fragment {
            id: 1,
            offset,
            more,
            end: 8,
        };
        assert_eq!(walked(0), fragment(0, false));
        assert_eq!(walked(1), fragment(0, true));
        assert_eq!(walked(8), fragment(8, false));
        assert_eq!(walked(9), fragment(8, true));
        assert!(walked(0).is_atomic());
        assert!(!walked(1).is_atomic() && !walked(8).is_atomic());
    }

    #[test]
    fn a_first_piece_has_the_whole_chain_and_a_later_one_ends_it_rfc_7112() {
        let piece = |field: u8| [DESTINATION, 0, 0, field, 0, 0, 0, 1];
        assert_eq!(walk(&piece(1), FRAGMENT), Err(Fault::Tiny));
        assert_eq!(walk(&piece(0), FRAGMENT), Err(Fault::Truncated), "atomic");
        let later = walk(&piece(8), FRAGMENT).unwrap();
        assert_eq!((later.proto, later.offset), (DESTINATION, 8));
        let nested = [piece(1), [FRAGMENT, 0, 1, 4, 0, 0, 0, 0], piece(1)].concat();
        assert_eq!(walk(&nested, FRAGMENT), Err(Fault::OutOfPlace));
    }

    #[test]
    fn a_header_past_the_end_is_truncated() {
        assert_eq!(walk(&[6, 0, 1], DESTINATION), Err(Fault::Truncated));
        assert_eq!(
            walk(&[6, 1, 1, 4, 0, 0, 0, 0], DESTINATION),
            Err(Fault::Truncated)
        );
        assert_eq!(walk(&[17, 0, 0], FRAGMENT), Err(Fault::Truncated));
    }
}
