//! Frames cut into fragments, and a slow receiver that puts them together again (RFC 791 section 3.2, RFC 8200 section
//! 4.5). It shares no code with the packet path's way of following fragments.

use dataplane::wire::checksum::Sum;

/// Bytes before the IP header.
const L2: usize = 14;
const HEADER4: usize = 20;
const HEADER6: usize = 40;
const MORE4: u16 = 0x2000;

fn is_v6(frame: &[u8]) -> bool {
    frame[12..14] == [0x86, 0xdd]
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put(bytes: &mut [u8], at: usize, value: usize) {
    let [.., a, b] = value.to_be_bytes();
    bytes[at..at + 2].copy_from_slice(&[a, b]);
}

/// Cuts an untagged frame without options or extension headers. `units` are the lengths of all pieces but the last, in
/// 8 bytes; the cut ends where the packet does.
#[must_use]
pub fn cut(frame: &[u8], id: u32, units: &[usize]) -> Vec<Vec<u8>> {
    let header = L2 + if is_v6(frame) { HEADER6 } else { HEADER4 };
    let data = &frame[header..];
    let mut pieces = Vec::new();
    let mut at = 0_usize;
    for len in units.iter().map(|n| n * 8).chain([usize::MAX]) {
        let end = data.len().min(at.saturating_add(len));
        pieces.push(piece(frame, id, at, &data[at..end], end < data.len()));
        at = end;
        if at == data.len() {
            break;
        }
    }
    pieces
}

/// A fragment with the headers of `frame`, of `bytes` from offset `at` on.
#[must_use]
pub fn piece(frame: &[u8], id: u32, at: usize, bytes: &[u8], more: bool) -> Vec<u8> {
    if is_v6(frame) {
        let mut piece = frame[..L2 + HEADER6].to_vec();
        put(&mut piece, L2 + 4, 8 + bytes.len());
        let next = core::mem::replace(&mut piece[L2 + 6], 44);
        piece.extend([next, 0]);
        piece.extend(
            u16::try_from(at | usize::from(more))
                .unwrap_or_default()
                .to_be_bytes(),
        );
        piece.extend(id.to_be_bytes());
        piece.extend(bytes);
        return piece;
    }
    let mut piece = frame[..L2 + HEADER4].to_vec();
    put(&mut piece, L2 + 2, HEADER4 + bytes.len());
    put(&mut piece, L2 + 4, id as usize & 0xffff);
    put(
        &mut piece,
        L2 + 6,
        (at / 8) | (usize::from(more) * usize::from(MORE4)),
    );
    checksum(&mut piece);
    piece.extend(bytes);
    piece
}

/// Computes the IPv4 header checksum of a frame without options.
fn checksum(frame: &mut [u8]) {
    frame[L2 + 10..L2 + 12].fill(0);
    let sum = Sum::ZERO.bytes(&frame[L2..L2 + HEADER4]).finish();
    put(frame, L2 + 10, usize::from(sum));
}

/// What a receiver makes of fragments of one packet, in any order: the frame that was cut, IPv4 with "don't fragment" and
/// identification 0, so that it can be compared with one that never was.
///
/// # Errors
/// What a receiver would complain about.
pub fn join(pieces: &[Vec<u8>]) -> Result<Vec<u8>, String> {
    let first = pieces.first().ok_or("no pieces")?;
    let v6 = is_v6(first);
    if v6 && first[L2 + 6] != 44 {
        return if pieces.len() == 1 {
            Ok(first.clone())
        } else {
            Err("more than a whole packet".to_owned())
        };
    }
    let header = L2 + if v6 { HEADER6 } else { HEADER4 };
    let mut head = None;
    let mut whole: Vec<Option<u8>> = Vec::new();
    let mut end = None;
    for piece in pieces {
        let mut this = piece[..header].to_vec();
        let (at, more, data) = if v6 {
            let field = usize::from(word(piece, header + 2));
            let ip_end = header + usize::from(word(piece, L2 + 4));
            this[L2 + 6] = piece[header];
            put(&mut this, L2 + 4, 0);
            this.extend(&piece[header + 4..header + 8]);
            (field & !7, field & 1 == 1, &piece[header + 8..ip_end])
        } else {
            let field = word(piece, L2 + 6);
            let ip_end = L2 + usize::from(word(piece, L2 + 2));
            if Sum::ZERO.bytes(&piece[L2..header]).finish() != 0 {
                return Err("IPv4 header checksum".to_owned());
            }
            for at in [2, 6, 10] {
                put(&mut this, L2 + at, 0);
            }
            (
                usize::from(field & 0x1fff) * 8,
                field & MORE4 != 0,
                &piece[header..ip_end],
            )
        };
        if *head.get_or_insert_with(|| this.clone()) != this {
            return Err(format!("headers differ: {head:02x?} and {this:02x?}"));
        }
        whole.resize(whole.len().max(at + data.len()), None);
        for (place, byte) in whole[at..].iter_mut().zip(data) {
            if place.replace(*byte).is_some() {
                return Err(format!("overlap at {at}"));
            }
        }
        if !more && end.replace(at + data.len()).is_some() {
            return Err("two ends".to_owned());
        }
    }
    let data: Option<Vec<u8>> = whole.iter().copied().collect();
    let data = data.ok_or("a hole")?;
    if end != Some(data.len()) {
        return Err(format!("{} bytes, but the end is {end:?}", data.len()));
    }
    let mut frame = head.unwrap_or_default()[..header].to_vec();
    if v6 {
        put(&mut frame, L2 + 4, data.len());
    } else {
        put(&mut frame, L2 + 2, HEADER4 + data.len());
        put(&mut frame, L2 + 4, 0);
        put(&mut frame, L2 + 6, 0x4000);
        checksum(&mut frame);
    }
    frame.extend(data);
    Ok(frame)
}

/// Identification of an IPv4 frame.
#[must_use]
pub fn id4(frame: &[u8]) -> u16 {
    word(frame, L2 + 4)
}
