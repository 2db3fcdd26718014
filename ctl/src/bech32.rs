//! Bech32m (BIP 350): 32 bytes as a line that survives being read out, copied and mistyped. A wrong character is
//! found by the checksum, and the part before the `1` says what the bytes are.

use thiserror::Error;

/// The digits, by value.
const DIGITS: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
/// What distinguishes Bech32m from its forerunner (BIP 350).
const FINAL: u32 = 0x2bc8_30a3;
/// Digits of the checksum.
const CHECK: usize = 6;

/// Why a text is not 32 bytes of the kind wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TextError {
    /// Another kind of text.
    #[error("it doesn't begin with {0}1")]
    Kind(&'static str),
    /// A character that is no digit.
    #[error("{0:?} can't be part of it")]
    Digit(char),
    /// Too short or too long.
    #[error("it has {0} digits instead of 58")]
    Length(usize),
    /// The checksum is wrong.
    #[error("it was mistyped or cut: its checksum is wrong")]
    Check,
}

/// Writes `bytes` as `KIND1…`.
#[must_use]
pub fn encode(kind: &str, bytes: &[u8; 32]) -> String {
    let mut values = regroup(bytes, 8, 5);
    let mut checked = expand(kind);
    checked.extend_from_slice(&values);
    checked.extend_from_slice(&[0; CHECK]);
    let check = polymod(&checked) ^ FINAL;
    values.extend((0..CHECK).map(|n| five_bits(check >> (5 * (CHECK - 1 - n)))));
    let digits = values.iter().map(|v| char::from(DIGITS[usize::from(*v)]));
    format!("{kind}1{}", digits.collect::<String>())
}

/// Reads `KIND1…`, all small or all capital letters.
///
/// # Errors
/// What is wrong with it.
pub fn decode(kind: &'static str, text: &str) -> Result<[u8; 32], TextError> {
    let lower = if text.chars().any(|c| c.is_ascii_lowercase()) {
        text.to_owned()
    } else {
        text.to_ascii_lowercase()
    };
    let rest = lower.strip_prefix(kind).and_then(|t| t.strip_prefix('1'));
    let rest = rest.ok_or(TextError::Kind(kind))?;
    let value = |c: char| DIGITS.iter().position(|d| char::from(*d) == c);
    let values = rest
        .chars()
        .map(|c| value(c).map(five_bits_of).ok_or(TextError::Digit(c)))
        .collect::<Result<Vec<u8>, _>>()?;
    // 256 bits are 51 digits and one bit more, padded with zeros.
    if values.len() != 52 + CHECK {
        return Err(TextError::Length(values.len()));
    }
    let mut checked = expand(kind);
    checked.extend_from_slice(&values);
    if polymod(&checked) != FINAL {
        return Err(TextError::Check);
    }
    let bytes = regroup(&values[..52], 5, 8);
    let padding_is_zero = bytes.get(32).is_none_or(|b| *b == 0);
    let whole = bytes.get(..32).and_then(|b| <[u8; 32]>::try_from(b).ok());
    whole.filter(|_| padding_is_zero).ok_or(TextError::Check)
}

fn five_bits(word: u32) -> u8 {
    u8::try_from(word & 31).unwrap_or(0)
}

fn five_bits_of(digit: usize) -> u8 {
    u8::try_from(digit & 31).unwrap_or(0)
}

/// The kind's part in the checksum.
fn expand(kind: &str) -> Vec<u8> {
    let high = kind.bytes().map(|b| b >> 5);
    let low = kind.bytes().map(|b| b & 31);
    high.chain([0]).chain(low).collect()
}

fn polymod(values: &[u8]) -> u32 {
    const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
    values.iter().fold(1, |check, value| {
        let top = check >> 25;
        let shifted = (check & 0x01ff_ffff) << 5 ^ u32::from(*value);
        let chosen = GENERATOR.iter().enumerate().filter(|(n, _)| top >> n & 1 == 1);
        chosen.fold(shifted, |check, (_, g)| check ^ g)
    })
}

/// Groups of `from` bits as groups of `to` bits, the last one filled up with zeros.
fn regroup(groups: &[u8], from: u32, to: u32) -> Vec<u8> {
    let (mut held, mut bits, mut out) = (0u32, 0u32, Vec::new());
    let mask = (1 << to) - 1;
    for group in groups {
        held = (held << from | u32::from(*group)) & 0xffff;
        bits += from;
        while bits >= to {
            bits -= to;
            out.push(u8::try_from(held >> bits & mask).unwrap_or(0));
        }
    }
    if bits > 0 {
        out.push(u8::try_from(held << (to - bits) & mask).unwrap_or(0));
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// sync/PROTOCOL.md R-58.
    #[test]
    fn the_checksum_is_that_of_bip_350() {
        // BIP 350, test vectors: "abcdef1l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx" is 31, 30, … 0.
        let mut values = expand("abcdef");
        values.extend((0..32).rev());
        let digits = "zd3ryx".bytes().map(|d| DIGITS.iter().position(|x| *x == d));
        values.extend(digits.map(|d| five_bits_of(d.unwrap())));
        assert_eq!(polymod(&values), FINAL);
    }

    #[test]
    fn capital_letters_mean_the_same_and_mixed_ones_nothing() {
        let text = encode("tpk", &[7; 32]);
        assert_eq!(decode("tpk", &text.to_ascii_uppercase()), Ok([7; 32]));
        let mixed = text.replacen("tpk1", "TPK1", 1);
        assert_eq!(decode("tpk", &mixed), Err(TextError::Kind("tpk")));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes: [u8; 32]) {
            let text = encode("tpk", &bytes);
            prop_assert_eq!(decode("tpk", &text), Ok(bytes));
            prop_assert_eq!(decode("tsk", &text), Err(TextError::Kind("tsk")));
        }

        #[test]
        fn up_to_four_wrong_characters_are_noticed(
            bytes: [u8; 32], at in proptest::collection::btree_map(4usize..62, 1usize..32, 1..=4)
        ) {
            let mut text = encode("tpk", &bytes).into_bytes();
            for (at, by) in at {
                let digit = DIGITS.iter().position(|d| *d == text[at]).unwrap();
                text[at] = DIGITS[(digit + by) % 32];
            }
            prop_assert_eq!(decode("tpk", std::str::from_utf8(&text).unwrap()), Err(TextError::Check));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,80}", tail in "[qpzry9x8gf2tvdw0s3jn54khce6mua7l]{50,60}") {
            let _ = decode("tpk", &text);
            let made_up = decode("tpk", &format!("tpk1{tail}"));
            prop_assert!(made_up.is_err());
        }
    }
}
