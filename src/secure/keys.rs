//! Who is trusted: this node's private key and, for each peer, the public keys it may prove to hold.
//!
//! One [`Keyring`] per process, shared by the networks of all event threads. [`Keyring::replace`] exchanges all keys
//! at once: new streams use the new ones, and a stream whose peer's key is no longer listed ends. Listing a second
//! key before the peer takes it into use, and removing the first one after that, changes a key without a pause.

use core::fmt;
use core::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use ctl::key::{KeyError, PrivateKey, PublicKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, DigitallySignedStruct, DistinguishedName,
    Error, PeerIncompatible, ServerConfig, ServerConnection, SignatureScheme,
};
use thiserror::Error;

/// The application protocol (RFC 7301): streams of another service under the same key are no use here.
const PROTOCOL: &[u8] = b"twinpath-sync";

/// A peer by both addresses of its connections, and the keys it may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    /// Our address.
    pub source: IpAddr,
    /// Its address.
    pub address: IpAddr,
    /// Any one of these.
    pub keys: Vec<PublicKey>,
}

/// Why a set of keys can't be used.
#[derive(Debug, Error)]
pub enum KeyringError {
    /// The private key's file.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// With a node's own key as a peer's, its own words sent back to it would be believed.
    #[error("the peer at {0} is configured with this node's own public key")]
    Own(IpAddr),
    /// The library refuses the key or the settings.
    #[error("TLS: {0}")]
    Tls(#[from] Error),
}

/// Keys of this process.
pub struct Keyring {
    table: ArcSwap<Table>,
    generation: AtomicU64,
}

#[derive(Debug)]
struct Table {
    own: PublicKey,
    peers: Vec<Peer>,
}

#[derive(Debug)]
struct Peer {
    source: IpAddr,
    address: IpAddr,
    /// As TLS carries them.
    keys: Arc<[Vec<u8>]>,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table.load();
        write!(f, "keyring of {} for {} peers", table.own, table.peers.len())
    }
}

impl Keyring {
    /// The key in the file `private_key`, and the peers'.
    ///
    /// # Errors
    /// When the file holds no key, others may read it, or a peer has this node's own key.
    pub fn open(private_key: &Path, peers: &[Trusted]) -> Result<Self, KeyringError> {
        Self::new(&PrivateKey::read(private_key)?, peers)
    }

    /// The same from a key at hand.
    ///
    /// # Errors
    /// When a peer has this node's own key.
    pub fn new(own: &PrivateKey, peers: &[Trusted]) -> Result<Self, KeyringError> {
        Ok(Self {
            table: ArcSwap::from_pointee(Table::new(own, peers)?),
            generation: AtomicU64::new(0),
        })
    }

    /// Takes other keys into use. After an error, the old ones stay.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn replace(&self, own: &PrivateKey, peers: &[Trusted]) -> Result<(), KeyringError> {
        self.table.store(Arc::new(Table::new(own, peers)?));
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// This node's public key.
    #[must_use]
    pub fn own(&self) -> PublicKey {
        self.table.load().own
    }

    /// Changes whenever keys do.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether `key`, as TLS carries it, is one of the peer's.
    pub(super) fn trusts(&self, (source, address): (IpAddr, IpAddr), key: &[u8]) -> bool {
        let table = self.table.load();
        let peer = table.peer(source, address);
        peer.is_some_and(|p| p.keys.iter().any(|k| k == key))
    }

    /// Our end of a stream to a peer; none for a stranger.
    pub(super) fn client(&self, source: IpAddr, address: IpAddr) -> Option<Connection> {
        let table = self.table.load();
        let config = Arc::clone(&table.peer(source, address)?.client);
        // A name has to be given; it is neither sent nor compared.
        let made = ClientConnection::new(config, ServerName::IpAddress(address.into()));
        made.ok().map(Connection::from)
    }

    /// Our end of a stream from a peer; none for a stranger.
    pub(super) fn server(&self, local: IpAddr, remote: IpAddr) -> Option<Connection> {
        let table = self.table.load();
        let config = Arc::clone(&table.peer(local, remote)?.server);
        ServerConnection::new(config).ok().map(Connection::from)
    }
}

impl Table {
    fn new(own: &PrivateKey, peers: &[Trusted]) -> Result<Self, KeyringError> {
        let provider = Arc::new(provider());
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.pkcs8()));
        let signing = provider.key_provider.load_private_key(private)?;
        let public = CertificateDer::from(own.public().spki());
        let shown = Arc::new(CertifiedKey::new(vec![public], signing));
        let peer = |trusted: &Trusted| -> Result<Peer, KeyringError> {
            if trusted.keys.contains(&own.public()) {
                return Err(KeyringError::Own(trusted.address));
            }
            let keys: Arc<[Vec<u8>]> = trusted.keys.iter().map(PublicKey::spki).collect();
            let pins = Arc::new(Pins {
                keys: Arc::clone(&keys),
                algorithms: provider.signature_verification_algorithms,
            });
            Ok(Peer {
                source: trusted.source,
                address: trusted.address,
                keys,
                client: Arc::new(client_config(&provider, &pins, &shown)?),
                server: Arc::new(server_config(&provider, pins, &shown)?),
            })
        };
        Ok(Self {
            own: own.public(),
            peers: peers.iter().map(peer).collect::<Result<_, _>>()?,
        })
    }

    fn peer(&self, source: IpAddr, address: IpAddr) -> Option<&Peer> {
        let found = |p: &&Peer| p.source == source && p.address == address;
        self.peers.iter().find(found)
    }
}

/// The algorithms of this project: those of TLS 1.3, X25519.
fn provider() -> CryptoProvider {
    let all = ring::default_provider();
    let suites = all.cipher_suites.iter().copied();
    CryptoProvider {
        cipher_suites: suites.filter(|s| s.tls13().is_some()).collect(),
        kx_groups: vec![ring::kx_group::X25519],
        ..all
    }
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    pins: &Arc<Pins>,
    shown: &Arc<CertifiedKey>,
) -> Result<ClientConfig, Error> {
    let pins: Arc<dyn ServerCertVerifier> = Arc::<Pins>::clone(pins);
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(pins)
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::clone(
            shown,
        ))));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.enable_sni = false;
    // Each stream proves its key anew: a ticket would outlive the key's removal. No early data either: it can be
    // replayed (RFC 8446 section 8).
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    pins: Arc<Pins>,
    shown: &Arc<CertifiedKey>,
) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(pins)
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::clone(
            shown,
        ))));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// The keys of one peer, as the library asks for them: a key is trusted because it is listed, and for no other
/// reason. That its holder has the private half is what the signature shows.
#[derive(Debug)]
struct Pins {
    keys: Arc<[Vec<u8>]>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pins {
    fn check(&self, shown: &CertificateDer<'_>) -> Result<(), Error> {
        if self.keys.iter().any(|k| k == shown.as_ref()) {
            Ok(())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(shown.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }
}

/// TLS 1.2 is never offered.
fn not_offered() -> Result<HandshakeSignatureValid, Error> {
    Err(PeerIncompatible::Tls12NotOffered.into())
}

impl ServerCertVerifier for Pins {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(shown).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        not_offered()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Pins {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(shown).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        not_offered()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Settings of somebody who shows a key that isn't his.
#[cfg(test)]
pub(super) fn impostor(shown: &Arc<CertifiedKey>, peer: &[PublicKey]) -> ClientConfig {
    let provider = Arc::new(provider());
    let pins = Arc::new(Pins {
        keys: peer.iter().map(PublicKey::spki).collect(),
        algorithms: provider.signature_verification_algorithms,
    });
    client_config(&provider, &pins, shown).unwrap()
}
