//! Where a node keeps its sockets, and the file that tells whether its data process lives: `/run/twinpath/NODE/`, or
//! below `TWINPATH_RUN_DIR` when several users share a machine. The directory is made by the first process of the node
//! and holds nothing that must outlive it.

use std::path::PathBuf;

/// Environment variable that replaces `/run/twinpath`.
pub const RUN_DIR_VARIABLE: &str = "TWINPATH_RUN_DIR";

/// Directory of all nodes on this machine.
#[must_use]
pub fn run_dir() -> PathBuf {
    std::env::var_os(RUN_DIR_VARIABLE).map_or_else(|| PathBuf::from("/run/twinpath"), PathBuf::from)
}

/// Directory of one node.
#[must_use]
pub fn node_dir(node: &str) -> PathBuf {
    run_dir().join(node)
}

/// Socket on which the control process serves operators.
#[must_use]
pub fn control_socket(node: &str) -> PathBuf {
    node_dir(node).join("control.sock")
}

/// Socket on which the data process serves the control process.
#[must_use]
pub fn data_socket(node: &str) -> PathBuf {
    node_dir(node).join("dataplane.sock")
}

/// File that the data process holds locked as long as it lives.
#[must_use]
pub fn data_lifeline(node: &str) -> PathBuf {
    node_dir(node).join("dataplane.alive")
}
