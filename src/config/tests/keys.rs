//! Keys in a configuration: what the file alone tells, and what the node's own files tell.

use std::fs::{Permissions, remove_file, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;

fn key(n: u8) -> PrivateKey {
    PrivateKey::of_seed([n; 32]).unwrap()
}

/// The base file, protected: the peer may hold keys 2 and 3.
fn protected(private_key: &str) -> String {
    let peer = "address = \"10.150.0.2\"";
    let (two, three) = (key(2).public(), key(3).public());
    let keys = format!("{peer}\npublic_keys = [\"{two}\", \"{three}\"]");
    let tls = format!("security = \"tls\"\nprivate_key = \"{private_key}\"");
    BASE.replacen(peer, &keys, 1)
        .replacen("security = \"none\"", &tls, 1)
}

/// A key file of one test.
struct KeyFile(PathBuf);

impl KeyFile {
    fn new(name: &str, key: &PrivateKey) -> Self {
        let path = std::env::temp_dir().join(format!("twinpath-config-{}-{name}", std::process::id()));
        let _ = remove_file(&path);
        key.write(&path).unwrap();
        Self(path)
    }

    fn config(&self) -> Config {
        load("f", &protected(&self.0.display().to_string()), &[]).unwrap()
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = remove_file(&self.0);
    }
}

#[test]
fn a_protected_pair_names_its_keys() {
    let config = load("f", &protected("/k"), &[]).unwrap();
    let sync = config.sync.as_ref().unwrap();
    assert_eq!(
        (sync.security, sync.private_key.as_deref()),
        (Security::Tls, Some("/k"))
    );
    assert_eq!(
        config.vrfs[0].peers[0].public_keys,
        [key(2).public(), key(3).public()]
    );
    let plain = load("f", BASE, &[]).unwrap();
    assert!(open_keys(&plain).unwrap().is_none());
}

#[test]
fn protection_without_a_private_key_is_located() {
    let text = protected("/k").replacen("private_key = \"/k\"\n", "", 1);
    let faults = load("f", &text, &[]).unwrap_err();
    let expected = "f:66:1: [sync] names no private key to prove who this node is; make one with twinpathctl key \
                    generate /etc/twinpath/sync.key, and add private_key = \"/etc/twinpath/sync.key\"";
    assert_eq!(faults.to_string(), expected);
}

#[test]
fn a_key_with_a_wrong_letter_is_located() {
    let good = key(3).public().to_string();
    let at = good.len() - 10;
    let other = if &good[at..=at] == "q" { "p" } else { "q" };
    let bad = format!("{}{other}{}", &good[..at], &good[at + 1..]);
    let faults = load("f", &protected("/k").replace(&good, &bad), &[]).unwrap_err();
    assert_eq!(faults.0.len(), 1);
    assert_eq!(faults.0[0].line, 60);
    assert!(faults.0[0].advice.contains("checksum"), "{faults}");
}

#[test]
fn one_peer_of_two_vrfs_has_one_list_of_keys() {
    let second = format!(
        "name = \"isp\"\n[vrf.ha_fp_conntrack]\nlisten_ha_group = \"group1\"\n\
         [[vrf.ha_fp_conntrack.peer]]\nname = \"peer1\"\nsource = \"10.150.0.1\"\naddress = \"10.150.0.2\"\n\
         public_keys = [\"{}\"]",
        key(2).public()
    );
    let text = protected("/k").replacen("name = \"isp\"", &second, 1);
    let faults = load("f", &text, &[]).unwrap_err().to_string();
    assert!(
        faults.contains("the peer at 10.150.0.2 has other public_keys in line 56"),
        "{faults}"
    );
}

#[test]
fn a_missing_or_exposed_key_file_is_located_and_says_what_to_do() {
    let file = KeyFile::new("exposed", &key(1));
    let config = file.config();
    let ring = open_keys(&config).unwrap().unwrap();
    assert_eq!(ring.own(), key(1).public());
    let path = file.0.display();
    set_permissions(&file.0, Permissions::from_mode(0o640)).unwrap();
    let exposed = open_keys(&config).unwrap_err().to_string();
    assert_eq!(
        exposed,
        format!(
            "f:69:15: the key file {path} can be used by others (mode 0640); \
             make a new key, if somebody may have read it, or: chmod 600 {path}"
        )
    );
    remove_file(&file.0).unwrap();
    let missing = open_keys(&config).unwrap_err().to_string();
    let expected =
        format!("f:69:15: there is no key file {path}; make one with: twinpathctl key generate {path}");
    assert_eq!(missing, expected);
    assert_eq!(replace_keys(&ring, &config).unwrap_err().to_string(), expected);
    assert_eq!(ring.own(), key(1).public(), "the keys in use stay");
    // And both daemons ask the machine for it.
    let machine = Made {
        interfaces: vec![("", "lan0"), ("", "sync0")],
        addresses: vec![IpAddr::from([10, 150, 0, 1])],
        cores: vec![0, 1],
    };
    let faults = check_host(&config, &machine);
    assert!(faults.iter().any(|f| f.what.starts_with("there is no key file")));
}

#[test]
fn a_node_does_not_believe_its_own_key() {
    let file = KeyFile::new("own", &key(2));
    let fault = open_keys(&file.config()).unwrap_err();
    assert_eq!((fault.line, fault.column), (60, 15));
    assert!(fault.what.contains("own public key"), "{fault}");
}

#[test]
fn keys_are_exchanged_while_a_node_runs() {
    let old = load("f", &protected("/k"), &[]).unwrap();
    let text = protected("/k2").replacen(&key(3).public().to_string(), &key(4).public().to_string(), 1);
    let changes = diff(&old, &load("f", &text, &[]).unwrap());
    let paths: Vec<&str> = changes.iter().map(|c| c.path.as_str()).collect();
    assert_eq!(paths, ["sync.private_key", "vrf.main.peer_keys.peer1"]);
    assert!(changes.iter().all(|c| c.takes == Takes::Live));
}
