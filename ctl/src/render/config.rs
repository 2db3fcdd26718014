//! Configurations: differences.

use crate::config_report::SettingChange;

pub(super) fn changes(changes: &[SettingChange]) -> String {
    changes.iter().map(|change| format!("{change}\n")).collect()
}
