//! TCP header (RFC 9293, section 3.1).

super::view! {
    /// The fixed 20 bytes of a TCP header.
    Tcp[20] {
        /// Source port.
        src_port / set_src_port: u16 @ 0,
        /// Destination port.
        dst_port / set_dst_port: u16 @ 2,
        /// Source and destination port, as on the wire.
        ports / set_ports: port_pair @ 0,
        /// Sequence number.
        seq / set_seq: u32 @ 4,
        /// Acknowledgment number, valid with [`ACK`].
        ack / set_ack: u32 @ 8,
        /// Header length in 32-bit words (4 bits) and reserved bits.
        data_offset / set_data_offset: u8 @ 12,
        /// Control bits.
        flags / set_flags: u8 @ 13,
        /// Window, before scaling.
        window / set_window: u16 @ 14,
        /// Checksum.
        checksum / set_checksum: u16 @ 16,
        /// Urgent pointer.
        urgent / set_urgent: u16 @ 18,
    }
}

/// No more data from the sender.
pub const FIN: u8 = 0x01;
/// Synchronize sequence numbers.
pub const SYN: u8 = 0x02;
/// Reset the connection.
pub const RST: u8 = 0x04;
/// Push.
pub const PSH: u8 = 0x08;
/// The acknowledgment number is valid.
pub const ACK: u8 = 0x10;
/// The urgent pointer is valid.
pub const URG: u8 = 0x20;
/// ECN echo (RFC 3168).
pub const ECE: u8 = 0x40;
/// Congestion window reduced (RFC 3168).
pub const CWR: u8 = 0x80;

impl<B: core::ops::Deref<Target = [u8; 20]>> Tcp<B> {
    /// Bytes of the header with its options, as announced (0 to 60).
    #[inline]
    #[must_use]
    pub fn header_len(&self) -> usize {
        usize::from(self.data_offset() >> 4) * 4
    }
}

/// Whether a stack may send this combination. PSH, ECE and CWR may go with anything; of the rest, each packet
/// is a SYN, a reset or carries ACK (RFC 9293, section 3.10.7), and SYN, FIN and RST exclude one another.
#[inline]
#[must_use]
pub const fn flags_valid(flags: u8) -> bool {
    /// One bit per combination of FIN, SYN, RST, ACK (shifted to bit 3) and URG (bit 4).
    const VALID: u32 = {
        let (fin, syn, rst, ack, urg) = (1, 2, 4, 8, 16);
        1 << syn
            | 1 << (syn | urg)
            | 1 << (syn | ack)
            | 1 << rst
            | 1 << (rst | ack)
            | 1 << (fin | ack)
            | 1 << (fin | ack | urg)
            | 1 << ack
            | 1 << (ack | urg)
    };
    let index = flags & (FIN | SYN | RST) | (flags & (ACK | URG)) >> 1;
    VALID >> index & 1 != 0
}

/// The window scale option's shift count among a SYN's options (RFC 7323, section 2), at most 14 (section 2.3).
#[must_use]
pub fn window_scale(mut options: &[u8]) -> Option<u8> {
    loop {
        match *options {
            [] | [0, ..] => return None,
            [1, ref rest @ ..] => options = rest,
            [3, 3, shift, ..] => return Some(shift.min(14)),
            [_, len, ..] if len >= 2 => options = options.get(usize::from(len)..)?,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_the_64_flag_combinations_is_judged() {
        let sane = [
            SYN,
            SYN | URG,
            SYN | ACK,
            RST,
            RST | ACK,
            FIN | ACK,
            FIN | ACK | URG,
            ACK,
            ACK | URG,
        ];
        for flags in 0..=255u8 {
            let core = flags & (FIN | SYN | RST | ACK | URG);
            assert_eq!(flags_valid(flags), sane.contains(&core), "flags {flags:#010b}");
        }
    }

    #[test]
    fn window_scale_is_found_behind_other_options() {
        // MSS, SACK permitted, timestamps, NOP, window scale 7: the order a common stack sends.
        let options = [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
        assert_eq!(window_scale(&options), Some(7));
        assert_eq!(
            window_scale(&[3, 3, 200]),
            Some(14),
            "RFC 7323 2.3: larger counts are used as 14"
        );
    }

    #[test]
    fn malformed_options_have_no_window_scale() {
        for options in [
            &[2u8][..],
            &[2, 0, 3, 3, 7],
            &[2, 1, 3, 3, 7],
            &[8, 10, 1],
            &[3, 3],
            &[0, 3, 3, 7],
            &[],
        ] {
            assert_eq!(window_scale(options), None, "{options:?}");
        }
    }
}
