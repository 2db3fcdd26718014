//! The log of port blocks: who had which public ports, and when. A CG-NAT that cannot answer that can't be operated
//! (RFC 6888 section 4, RFC 6302).
//!
//! A worker queues a [`BlockEvent`] when it grants or releases a block; the agent fetches it, adds the wall clock,
//! and sends one RFC 5424 line. Two lines per block instead of two per connection (RFC 6888 REQ-14), no
//! destinations (REQ-12). The grant's identity is the same on both nodes, so a release after a failover is found
//! to its grant. A block is good for all protocols, so the line names none.

use core::fmt::Write as _;

use crate::flow::{Addr, VrfId};
use crate::time::Instant;

/// A block was granted or released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockEvent {
    /// Granted or released.
    pub held: bool,
    /// Inside address.
    pub subscriber: Addr,
    /// VRF of the inside address.
    pub vrf: VrfId,
    /// Public address.
    pub address: Addr,
    /// First port.
    pub port_first: u16,
    /// Last port.
    pub port_last: u16,
    /// Identity of the grant.
    pub grant: u64,
    /// When.
    pub at: Instant,
}

/// SD-ID of the structured data. 32473 is the enterprise number for examples (RFC 5612): the project has none.
const SD_ID: &str = "nat@32473";

/// Longest HOSTNAME (RFC 5424 section 6).
const HOSTNAME_MAX: usize = 255;

/// Appends the event as one RFC 5424 message, without framing and line end.
///
/// `pri` is `facility * 8 + severity` (at most 191), `unix_ns` the wall-clock time of the event in nanoseconds
/// since 1970 UTC, `vrf` the name of the event's VRF.
pub fn format_rfc5424(
    into: &mut String,
    event: &BlockEvent,
    pri: u8,
    unix_ns: u64,
    hostname: &str,
    vrf: &str,
) {
    // Writing to a string cannot fail.
    let _ = write!(into, "<{}>1 ", pri.min(191));
    timestamp(into, unix_ns);
    into.push(' ');
    header_field(into, hostname);
    let what = if event.held { "granted" } else { "released" };
    let _ = write!(into, " twinpath - block-{what} [{SD_ID} event=\"{what}\" vrf=\"");
    param_value(into, vrf);
    let BlockEvent {
        subscriber,
        address,
        port_first,
        port_last,
        grant,
        ..
    } = event;
    let _ = write!(
        into,
        "\" subscriber=\"{subscriber}\" address=\"{address}\" ports=\"{port_first}-{port_last}\" grant=\"{grant:016x}\"]"
    );
}

/// TIMESTAMP with microseconds, the most that RFC 5424 section 6.2.3 allows.
fn timestamp(into: &mut String, unix_ns: u64) {
    let (secs, micros) = (unix_ns / 1_000_000_000, unix_ns % 1_000_000_000 / 1_000);
    let (year, month, day) = date(secs / 86_400);
    let of_day = secs % 86_400;
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    let _ = write!(
        into,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z"
    );
}

/// Gregorian year, month and day of a number of days since 1970-01-01.
fn date(mut days: u64) -> (u64, u64, u64) {
    let mut year = 1970;
    while days >= days_of(year) {
        days -= days_of(year);
        year += 1;
    }
    let february = if days_of(year) == 366 { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

const fn days_of(year: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    if leap { 366 } else { 365 }
}

/// A header field: printable ASCII only, `-` when empty.
fn header_field(into: &mut String, value: &str) {
    let before = into.len();
    into.extend(
        value
            .chars()
            .take(HOSTNAME_MAX)
            .map(|c| if c.is_ascii_graphic() { c } else { '_' }),
    );
    if into.len() == before {
        into.push('-');
    }
}

/// A PARAM-VALUE: `"`, `\` and `]` escaped (RFC 5424 section 6.3.3). Control characters become U+FFFD, or a name
/// could forge a second line.
fn param_value(into: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '"' | '\\' | ']' => into.extend(['\\', c]),
            c if c.is_control() => into.push('\u{fffd}'),
            c => into.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: BlockEvent = BlockEvent {
        held: true,
        subscriber: Addr::v4([100, 64, 0, 7]),
        vrf: VrfId(0),
        address: Addr::v4([198, 51, 100, 1]),
        port_first: 1536,
        port_last: 2047,
        grant: 0x0000_1010_0000_002a,
        at: Instant::from_secs(0),
    };

    fn line(event: &BlockEvent, unix_ns: u64, hostname: &str, vrf: &str) -> String {
        let mut line = String::new();
        format_rfc5424(&mut line, event, 134, unix_ns, hostname, vrf);
        line
    }

    #[test]
    fn a_grant_is_one_rfc5424_line_with_all_that_a_trace_needs() {
        assert_eq!(
            line(&EVENT, 1_709_210_096_123_456_789, "node1", "main"),
            "<134>1 2024-02-29T12:34:56.123456Z node1 twinpath - block-granted [nat@32473 event=\"granted\" vrf=\"main\" \
             subscriber=\"100.64.0.7\" address=\"198.51.100.1\" ports=\"1536-2047\" grant=\"000010100000002a\"]"
        );
    }

    #[test]
    fn a_release_carries_the_same_grant() {
        let released = BlockEvent { held: false, ..EVENT };
        assert_eq!(
            line(&released, 0, "node1", "main"),
            "<134>1 1970-01-01T00:00:00.000000Z node1 twinpath - block-released [nat@32473 event=\"released\" vrf=\"main\" \
             subscriber=\"100.64.0.7\" address=\"198.51.100.1\" ports=\"1536-2047\" grant=\"000010100000002a\"]"
        );
    }

    /// RFC 5424 sections 6.2.4 and 6.3.3.
    #[test]
    fn names_cannot_break_out_of_their_field() {
        let line = line(&EVENT, 0, "my node\n", "a\"b\\c]d\ne");
        assert!(line.contains(" my_node_ twinpath "), "{line}");
        assert!(line.contains(" vrf=\"a\\\"b\\\\c\\]d\u{fffd}e\" "), "{line}");
        assert!(self::line(&EVENT, 0, "", "main").contains("Z - twinpath "));
    }

    #[test]
    fn dates_follow_the_gregorian_calendar() {
        let cases = [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (789, (1972, 2, 29)),
            (10_957, (2000, 1, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (19_722, (2023, 12, 31)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ];
        for (days, expected) in cases {
            assert_eq!(date(days), expected, "day {days}");
        }
    }
}
