//! The targets: what each reads, and what it starts from.

use std::io::Cursor;

use ctl::bech32;
use ctl::key::PublicKey;
use ctl::protocol;
use serde::Serialize;
use serde::de::DeserializeOwned;
use state_sync::fuzz;
use twinpath::config::{self, EXAMPLE};
use twinpath::control::vrrp::notify::{self, Lines};
use twinpath::ipc;

use crate::{packets, session};

/// One decoder, or a few that read the same.
pub(crate) struct Target {
    /// How `scripts/fuzz` calls it.
    pub(crate) name: &'static str,
    /// Reads bytes; panics when it has found something.
    pub(crate) run: fn(&[u8]),
    /// Inputs to start from.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub(crate) const TARGETS: &[Target] = &[
    target("packets", packets::run, packets::seeds),
    target("preface", fuzz::preface, golden),
    target("frames", fuzz::stream, golden),
    target("records", fuzz::records, golden),
    target("session", session::run, session::seeds),
    target("ctl", operator, ctl_seeds),
    target("ipc", process, ipc_seeds),
    target("config", configuration, config_seeds),
    target("keepalived", keepalived, keepalived_seeds),
    target("keys", keys, keys_seeds),
];

const fn target(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Target {
    Target { name, run, seeds }
}

/// Bytes of each record of version 1, of both directions of a connection, and of these without their prefaces.
pub(crate) fn golden() -> Vec<Vec<u8>> {
    let both = [
        include_str!("../data/sync-v1/client.hex"),
        include_str!("../data/sync-v1/local-node.hex"),
    ];
    let records = include_str!("../data/sync-v1/records.hex");
    let mut all: Vec<_> = records.split("\n= ").map(bytes).collect();
    for whole in both.map(bytes) {
        let preface = 10 + usize::from(whole[5]);
        all.push(whole[10..preface].to_vec());
        all.push(whole[preface..].to_vec());
        all.push(whole);
    }
    all
}

/// Hexadecimal bytes; lines with anything else are passed over.
fn bytes(text: &str) -> Vec<u8> {
    let is_byte = |word: &str| word.len() == 2 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let lines = text.lines().filter(|line| line.split_whitespace().all(is_byte));
    lines
        .flat_map(str::split_whitespace)
        .filter_map(|word| u8::from_str_radix(word, 16).ok())
        .collect()
}

/// A request and a response: what is understood means the same when it is written and read again.
fn operator(data: &[u8]) {
    let _ = protocol::read_frame(&mut Cursor::new(data));
    if let Ok(command) = protocol::decode_request(data) {
        let again = protocol::encode_request(&command).and_then(|json| protocol::decode_request(&json));
        assert_eq!(again.ok(), Some(command));
    }
    if let Ok(response) = protocol::decode_response(data) {
        // A float may lose its last digit, which a second writing doesn't change any more.
        let again = protocol::encode_response(&response).and_then(|json| protocol::decode_response(&json));
        assert!(again.is_ok());
    }
}

fn ctl_seeds() -> Vec<Vec<u8>> {
    [
        r#"{"version":1,"command":{"set-ha-group":{"name":"group1","state":"master"}}}"#,
        r#"{"version":1,"command":"ha-groups"}"#,
        r#"{"version":1,"result":{"ok":{"count":3}}}"#,
        r#"{"version":1,"result":{"error":{"kind":"not-found","message":"no VRF \"blue\""}}}"#,
        "\0\0\0\x02{}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// Frames of the process socket, each read as everything it could be.
fn process(data: &[u8]) {
    let mut reader = ipc::FrameReader::new(ipc::FRAME_BYTES_MAX);
    reader.extend(data);
    while let Ok(Some(bytes)) = reader.frame() {
        let bytes = bytes.to_vec();
        again::<(u32, ipc::Request)>(&bytes);
        again::<(u32, Result<ipc::Reply, ctl::protocol::Refusal>)>(&bytes);
        again::<ipc::Event>(&bytes);
    }
}

/// What is understood can be written, and is understood again.
fn again<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    if let Ok(message) = ipc::decode::<T>(bytes) {
        let written = ipc::encode(&message);
        assert!(written.is_ok_and(|frame| ipc::decode::<T>(&frame[4..]).is_ok()));
    }
}

fn ipc_seeds() -> Vec<Vec<u8>> {
    let setup = testkit::config::Setup::default();
    [
        ipc::encode(&(
            1_u32,
            ipc::Request::Hello {
                node: "node1".to_owned(),
            },
        )),
        ipc::encode(&(
            2_u32,
            ipc::Request::SetConfig {
                config: ipc::ConfigText {
                    file: "node1.toml".to_owned(),
                    text: EXAMPLE.to_owned(),
                },
                try_ms: Some(1_000),
            },
        )),
        ipc::encode(&(
            3_u32,
            ipc::Request::SetForwarding(Box::new(setup.forwarding().into())),
        )),
        ipc::encode(&(
            4_u32,
            ipc::Request::Sync {
                vrf: Some("main".to_owned()),
            },
        )),
        ipc::encode(&(
            5_u32,
            ipc::Request::DeclareDead {
                peer: "peer1".to_owned(),
            },
        )),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A configuration; its faults are shown, too.
fn configuration(data: &[u8]) {
    if let Ok(text) = core::str::from_utf8(data)
        && let Err(faults) = config::load("f", text, &[0, 1, 2, 3])
    {
        assert!(!faults.to_string().is_empty());
    }
}

/// The example whole, and each of its tables alone.
fn config_seeds() -> Vec<Vec<u8>> {
    let tables = EXAMPLE.split("\n\n").map(|part| part.as_bytes().to_vec());
    tables.chain([EXAMPLE.as_bytes().to_vec()]).collect()
}

/// Lines of the FIFO, read in two pieces, and the state that keepalived writes on request.
fn keepalived(data: &[u8]) {
    let (mut once, mut twice) = (Vec::new(), Vec::new());
    Lines::default().take(data, |group, said| once.push((group.to_owned(), said)));
    let (first, second) = data.split_at(data.len() / 2);
    let mut lines = Lines::default();
    for part in [first, second] {
        lines.take(part, |group, said| twice.push((group.to_owned(), said)));
    }
    assert_eq!(once, twice);
    if let Some(list) = core::str::from_utf8(data).ok().and_then(notify::instances) {
        let _ = notify::joined(list.into_iter().map(|(_, said)| said));
    }
}

fn keepalived_seeds() -> Vec<Vec<u8>> {
    vec![
        b"INSTANCE \"a\" MASTER 100\nGROUP \"g\" MASTER 0\nGROUP \"h\" FAULT 0\nGROUP \"g\" STOP 0\n"
            .to_vec(),
        br#"[{"data":{"iname":"a","state":2}},{"data":{"iname":"b","state":1}}]"#.to_vec(),
    ]
}

const KEY_KINDS: [&str; 2] = ["tpk", "tsk"];

/// Texts of keys: only one text is a key's, apart from capital letters.
fn keys(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else {
        return;
    };
    for kind in KEY_KINDS {
        if let Ok(bytes) = bech32::decode(kind, text) {
            assert_eq!(bech32::encode(kind, &bytes), text.to_ascii_lowercase());
        }
    }
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(key.to_string(), text.to_ascii_lowercase());
    }
}

fn keys_seeds() -> Vec<Vec<u8>> {
    KEY_KINDS
        .iter()
        .flat_map(|kind| [[0; 32], [0xa5; 32]].map(|bytes| bech32::encode(kind, &bytes).into_bytes()))
        .collect()
}
