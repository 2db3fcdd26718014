//! Keys of the sync link. A node proves who it is with an Ed25519 key of its own (RFC 8032); the other node's
//! configuration lists the public half. There is no authority, no certificate and no date of expiry.
//!
//! Made by `twinpathctl key generate`, which leaves the private half in a file that only its owner can read and
//! prints the public one; read by the data process at start and when it is told to read its keys again.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::str::FromStr;

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use thiserror::Error;

use crate::bech32::{self, TextError};

const PUBLIC: &str = "tpk";
const PRIVATE: &str = "tsk";
/// Longer than any key file: whatever has more is something else.
const FILE_MAX: u64 = 4_096;

/// What of SubjectPublicKeyInfo comes before the 32 bytes (RFC 8410 section 4).
const SPKI_HEAD: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
/// What of PKCS #8 comes before the 32 bytes (RFC 8410 section 7).
const PKCS8_HEAD: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The half that others know: written as `tpk1…`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

/// The half that stays on its node. Never shown by `Debug`.
#[derive(Clone)]
pub struct PrivateKey {
    seed: [u8; 32],
    public: PublicKey,
}

/// Why there is no private key.
#[derive(Debug, Error)]
pub enum KeyError {
    /// No such file.
    #[error("there is no key file {0}")]
    Missing(String),
    /// Others than the owner may use the file.
    #[error("the key file {path} can be used by others (mode {mode:04o})")]
    Exposed {
        /// File.
        path: String,
        /// Its permissions.
        mode: u32,
    },
    /// It exists and is never overwritten.
    #[error("{0} exists already")]
    Exists(String),
    /// The file holds something else.
    #[error("{path} holds no private key: {cause}")]
    NoKey {
        /// File.
        path: String,
        /// What is wrong.
        cause: TextError,
    },
    /// The operating system says no.
    #[error("{path}: {cause}")]
    Io {
        /// File.
        path: String,
        /// Its answer.
        cause: io::Error,
    },
    /// The operating system has no random numbers.
    #[error("no random numbers to be had")]
    Random,
}

impl KeyError {
    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Self::Missing(path) => format!("make one with: twinpathctl key generate {path}"),
            Self::Exposed { path, .. } => {
                format!("make a new key, if somebody may have read it, or: chmod 600 {path}")
            }
            Self::Exists(path) => format!("choose another name, or remove {path} if nobody uses it"),
            Self::NoKey { .. } => "name the file that twinpathctl key generate has written".to_owned(),
            Self::Io { .. } => "check the path, and who owns the file and its folder".to_owned(),
            Self::Random => "try again when the system has started".to_owned(),
        }
    }
}

impl PublicKey {
    /// As TLS carries it (RFC 7250 section 3).
    #[must_use]
    pub fn spki(&self) -> Vec<u8> {
        [&SPKI_HEAD[..], &self.0].concat()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bech32::encode(PUBLIC, &self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        bech32::decode(PUBLIC, text).map(Self)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "private key of {}", self.public)
    }
}

impl PrivateKey {
    /// A new one from the operating system's random numbers.
    ///
    /// # Errors
    /// When it has none.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        SystemRandom::new()
            .fill(&mut seed)
            .map_err(|_| KeyError::Random)?;
        Self::of_seed(seed).ok_or(KeyError::Random)
    }

    /// The key of a seed: the same one each time.
    #[must_use]
    pub fn of_seed(seed: [u8; 32]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).ok()?;
        let public = <[u8; 32]>::try_from(pair.public_key().as_ref()).ok()?;
        Some(Self {
            seed,
            public: PublicKey(public),
        })
    }

    /// Its other half.
    #[must_use]
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    /// As PKCS #8 (RFC 8410 section 7).
    #[must_use]
    pub fn pkcs8(&self) -> Vec<u8> {
        [&PKCS8_HEAD[..], &self.seed].concat()
    }

    /// Writes it into a new file that only its owner can read.
    ///
    /// # Errors
    /// When the file exists, or can't be made.
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        let failed = |cause: io::Error| match cause.kind() {
            io::ErrorKind::AlreadyExists => KeyError::Exists(path.display().to_string()),
            _ => io_error(path, cause),
        };
        let text = format!(
            "# Private key of a node's sync link. Its public key is {}\n{}\n",
            self.public,
            bech32::encode(PRIVATE, &self.seed)
        );
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(path).map_err(failed)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|cause| io_error(path, cause))
    }

    /// Reads it from a file that nobody but its owner may use.
    ///
    /// # Errors
    /// When there is none, others may use it, or it holds something else.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let shown = || path.display().to_string();
        let file = File::open(path).map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => KeyError::Missing(shown()),
            _ => io_error(path, cause),
        })?;
        // Asked of the open file: what is read is what was looked at.
        let mode = file.metadata().map_err(|cause| io_error(path, cause))?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: shown(), mode });
        }
        let mut text = String::new();
        file.take(FILE_MAX)
            .read_to_string(&mut text)
            .map_err(|cause| io_error(path, cause))?;
        let line = text
            .lines()
            .map(str::trim)
            .find(|l| !l.is_empty() && !l.starts_with('#'));
        let no_key = |cause| KeyError::NoKey { path: shown(), cause };
        let seed = bech32::decode(PRIVATE, line.unwrap_or_default()).map_err(no_key)?;
        Self::of_seed(seed).ok_or(KeyError::Random)
    }
}

fn io_error(path: &Path, cause: io::Error) -> KeyError {
    let path = path.display().to_string();
    KeyError::Io { path, cause }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    /// A path of this test's own, free at first and at last.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("twinpath-key-{}-{name}", std::process::id()));
            let _ = std::fs::remove_file(&path);
            Self(path)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn the_public_key_is_that_of_rfc_8032_section_7_1() {
        let hex = |text: &str| -> [u8; 32] {
            core::array::from_fn(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap())
        };
        let seed = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let public = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert_eq!(PrivateKey::of_seed(seed).unwrap().public(), PublicKey(public));
    }

    #[test]
    fn a_generated_key_is_read_back_and_only_its_owner_can() {
        let place = Place::new("back");
        let key = PrivateKey::generate().unwrap();
        key.write(&place.0).unwrap();
        let mode = std::fs::metadata(&place.0).unwrap().mode() & 0o7777;
        assert_eq!(mode, 0o600);
        assert_eq!(PrivateKey::read(&place.0).unwrap().public(), key.public());
        assert_ne!(PrivateKey::generate().unwrap().public(), key.public());
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let place = Place::new("twice");
        let first = PrivateKey::generate().unwrap();
        first.write(&place.0).unwrap();
        let again = PrivateKey::generate().unwrap().write(&place.0);
        assert!(matches!(again, Err(KeyError::Exists(_))));
        assert_eq!(PrivateKey::read(&place.0).unwrap().public(), first.public());
    }

    #[test]
    fn a_file_that_others_may_use_is_refused() {
        let place = Place::new("modes");
        PrivateKey::generate().unwrap().write(&place.0).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o610, 0o666] {
            set_permissions(&place.0, Permissions::from_mode(mode)).unwrap();
            let refused = PrivateKey::read(&place.0);
            assert!(matches!(refused, Err(KeyError::Exposed { mode: m, .. }) if m == mode));
        }
        set_permissions(&place.0, Permissions::from_mode(0o400)).unwrap();
        assert!(PrivateKey::read(&place.0).is_ok());
    }

    #[test]
    fn a_missing_or_strange_file_says_what_to_do() {
        let place = Place::new("strange");
        let missing = PrivateKey::read(&place.0).unwrap_err();
        assert!(missing.advice().contains("twinpathctl key generate"), "{missing}");
        std::fs::write(&place.0, PrivateKey::generate().unwrap().public().to_string()).unwrap();
        set_permissions(&place.0, Permissions::from_mode(0o600)).unwrap();
        let strange = PrivateKey::read(&place.0).unwrap_err();
        assert!(
            matches!(strange, KeyError::NoKey { .. }),
            "a public key is no private one"
        );
    }

    #[test]
    fn no_part_of_a_private_key_is_shown() {
        let key = PrivateKey::generate().unwrap();
        let shown = format!("{key:?}");
        assert!(!shown.contains("tsk") && shown.contains(&key.public().to_string()));
    }
}
