//! Configurations: differences, settings, what runs, what is tried.

use crate::config_report::{Applied, RunningConfig, Setting, SettingChange};

pub(super) fn changes(changes: &[SettingChange]) -> String {
    changes.iter().map(|change| format!("{change}\n")).collect()
}

pub(super) fn settings(settings: &[Setting]) -> String {
    let line = |s: &Setting| format!("{}: {} ({}: {})\n", s.path, s.value, s.takes.name(), s.reason);
    settings.iter().map(line).collect()
}

/// The changes have been shown before they were made.
pub(super) fn applied(applied: &Applied) -> String {
    let warnings: String = applied
        .warnings
        .iter()
        .map(|warning| format!("{warning} (not an error of the file)\n"))
        .collect();
    let settings = match applied.changes.len() {
        0 => "No setting is different".to_owned(),
        1 => "1 setting has changed".to_owned(),
        n => format!("{n} settings have changed"),
    };
    format!(
        "{warnings}{settings}. Within {} s: twinpathctl config confirm, or everything is as before.\n",
        applied.confirm_within_s
    )
}

/// Also while it is tried, it can be saved and read as a configuration.
pub(super) fn running(running: &RunningConfig) -> String {
    let tried = running.rolled_back_in_s.map_or(String::new(), |left| {
        format!("# Waits to be confirmed: rolled back in {left} s\n")
    });
    tried + &running.text
}
