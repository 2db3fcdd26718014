//! `config diff`, `config apply` and `config show`: what a configuration says, and what a change of it takes. Same rules
//! for serialization as [`crate::report`].

use serde::{Deserialize, Serialize};

/// What has to happen before a changed setting counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Takes {
    /// Nothing: a running node takes it.
    Live,
    /// Nothing now: it only counts while a node starts.
    NextStart,
    /// A restart of the data process.
    RestartDataplane,
    /// A restart of the control process.
    RestartControl,
    /// A restart of both.
    RestartBoth,
}

impl Takes {
    /// The words in text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::NextStart => "at the next start",
            Self::RestartDataplane => "restart twinpath-dataplane",
            Self::RestartControl => "restart twinpath-control",
            Self::RestartBoth => "restart both processes",
        }
    }

    /// Whether a running data process can't have it.
    #[must_use]
    pub const fn restarts_dataplane(self) -> bool {
        matches!(self, Self::RestartDataplane | Self::RestartBoth)
    }

    /// Whether a running control process can't have it.
    #[must_use]
    pub const fn restarts_control(self) -> bool {
        matches!(self, Self::RestartControl | Self::RestartBoth)
    }
}

/// One setting that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingChange {
    /// Where: `vrf.main.firewall.rule.10`.
    pub path: String,
    /// Value before; none for a new setting.
    pub old: Option<String>,
    /// Value after; none for a removed one.
    pub new: Option<String>,
    /// What has to happen.
    pub takes: Takes,
    /// Why.
    pub reason: String,
}

impl SettingChange {
    /// Whether tables of the data process are built by it, so that nothing else of a configuration can be taken alone.
    #[must_use]
    pub fn shapes_tables(&self) -> bool {
        let beside = ["node.", "dataplane.", "port.", "sync.", "log.", "keepalived."];
        !beside.iter().any(|kind| self.path.starts_with(kind))
    }
}

impl std::fmt::Display for SettingChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = |v: &Option<String>| v.clone().unwrap_or_else(|| "(none)".to_owned());
        let (old, new) = (value(&self.old), value(&self.new));
        let (path, takes, reason) = (&self.path, self.takes.name(), &self.reason);
        write!(f, "{path}: {old} -> {new} ({takes}: {reason})")
    }
}

/// One setting of a running node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Where.
    pub path: String,
    /// Its value, given or by default.
    pub value: String,
    /// What has to happen for another value.
    pub takes: Takes,
    /// Why.
    pub reason: String,
}

/// The configuration that a node runs with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningConfig {
    /// File that it starts with.
    pub file: String,
    /// What runs, as it was written.
    pub text: String,
    /// Seconds until it is rolled back, while it waits to be confirmed.
    pub rolled_back_in_s: Option<u64>,
}

/// A configuration that is tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// What it has changed.
    pub changes: Vec<SettingChange>,
    /// Until when it has to be confirmed.
    pub confirm_within_s: u64,
    /// What it names and this machine lacks.
    pub warnings: Vec<String>,
}
