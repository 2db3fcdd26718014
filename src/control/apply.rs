//! The configuration that runs, and how another one takes its place.
//!
//! ```text
//!   apply ─► checked here ─► by the data process ─► both run it ─┬─ confirm ─► the file is replaced: it is for good
//!                                                                └─ roll back, N s, or a process lost: the one before
//!   SIGHUP, a new data process ─► the file is read, checked and taken by both
//! ```
//!
//! Only the file survives a restart, and it is replaced by one rename, when the operator confirms. So whoever dies
//! before comes back with the configuration before, whoever dies after it with the new one. The data process holds a
//! timer of its own, for the case that this process is the one that dies.

use std::path::PathBuf;
use std::time::Duration;

use ctl::config_report::{Applied, RunningConfig, SettingChange};
use ctl::protocol::{Refusal, RefusalKind};
use dataplane::time::Instant;

use super::host::ThisMachine;
use super::link::DataLink;
use super::save;
use super::watch::Watch;
use crate::config::{self, Config};
use crate::ipc::{ConfigText, Request};
use crate::machine;

/// How much longer the data process waits than this one, which decides.
const GRACE: Duration = Duration::from_secs(5);

/// What runs here.
#[derive(Debug)]
pub struct Configured {
    /// File that the process starts with.
    file: PathBuf,
    running: Config,
    trial: Option<Trial>,
}

/// What runs is tried.
#[derive(Debug)]
struct Trial {
    before: Box<Config>,
    until: Instant,
    /// The connection to the data process that tries it, too.
    connection: Option<u64>,
}

/// Whom a configuration concerns.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The data process.
    pub data: &'a mut DataLink,
    /// Routes, neighbours and addresses.
    pub watch: &'a mut Watch,
    /// Now.
    pub now: Instant,
}

impl Configured {
    /// The configuration that the process has started with.
    #[must_use]
    pub fn new(running: Config) -> Self {
        Self {
            file: running.file().into(),
            running,
            trial: None,
        }
    }

    /// What runs.
    #[must_use]
    pub const fn running(&self) -> &Config {
        &self.running
    }

    /// What runs, as it was written.
    #[must_use]
    pub fn text(&self) -> ConfigText {
        text_of(&self.running)
    }

    /// What runs, for the operator.
    #[must_use]
    pub fn report(&self, now: Instant) -> RunningConfig {
        RunningConfig {
            file: self.file.display().to_string(),
            text: self.running.text().to_owned(),
            rolled_back_in_s: self.trial.as_ref().map(|t| t.until.since(now).as_secs()),
        }
    }

    /// Tries a configuration in both processes, or in neither.
    ///
    /// # Errors
    /// Who can't take it, and why.
    pub fn apply(
        &mut self,
        wanted: ConfigText,
        within: Duration,
        parts: &mut Parts<'_>,
    ) -> Result<Applied, Refusal> {
        if let Some(trial) = &self.trial {
            let left = trial.until.since(parts.now).as_secs();
            return Err(refused(format!(
                "another configuration waits to be confirmed, for {left} s more: \
                 twinpathctl config confirm, or config rollback"
            )));
        }
        let new = read(&wanted)?;
        let changes = self.check(&new)?;
        let nothing = |who: &str, refusal: Refusal| {
            Refusal::new(refusal.kind, format!("{who}; nothing was changed:\n{refusal}"))
        };
        let checked = parts.data.call(Request::CheckConfig(wanted.clone()));
        checked.map_err(|r| nothing("the data process can't take this configuration", r))?;
        let try_ms = Some(u64::try_from((within + GRACE).as_millis()).unwrap_or(u64::MAX));
        let config = wanted;
        let tried = parts.data.call(Request::SetConfig { config, try_ms });
        tried.map_err(|r| nothing("the data process has not taken this configuration", r))?;
        let warnings = config::check_host(&new, &ThisMachine);
        let before = Box::new(self.adopt(new, parts));
        self.trial = Some(Trial {
            before,
            until: parts.now + within,
            connection: parts.data.connection(),
        });
        log(&changes, "tried");
        Ok(Applied {
            changes,
            confirm_within_s: within.as_secs(),
            warnings: warnings.iter().map(ToString::to_string).collect(),
        })
    }

    /// Keeps what is tried: the file becomes what runs.
    ///
    /// # Errors
    /// When nothing is tried, or the file can't be replaced; then it is as it was, and the time goes on.
    pub fn confirm(&mut self, parts: &mut Parts<'_>) -> Result<(), Refusal> {
        let Some(trial) = &self.trial else {
            return Err(nothing_tried());
        };
        if let Err(error) = save::replace(&self.file, self.running.text()) {
            let (file, left) = (self.file.display(), trial.until.since(parts.now).as_secs());
            return Err(refused(format!(
                "{file} can't be replaced: {error}; it is as it was. The configuration is rolled back in {left} s, \
                 unless it is confirmed before"
            )));
        }
        self.trial = None;
        tracing::info!(file = %self.file.display(), "configuration confirmed and saved");
        let config = self.text();
        let kept = parts.data.call(Request::SetConfig { config, try_ms: None });
        if let Err(refusal) = kept {
            // It is told again when it is connected again.
            tracing::warn!(%refusal, "the data process was not told that its configuration is confirmed");
        }
        Ok(())
    }

    /// Gives up what is tried, as the operator wants.
    ///
    /// # Errors
    /// When nothing is tried.
    pub fn roll_back(&mut self, parts: &mut Parts<'_>) -> Result<(), Refusal> {
        if self.trial.is_none() {
            return Err(nothing_tried());
        }
        self.give_up("an operator wants the one before", parts);
        Ok(())
    }

    /// Gives up what nobody confirms, or what the data process can't be trying any more.
    pub fn turn(&mut self, parts: &mut Parts<'_>) {
        let Some(trial) = &self.trial else { return };
        if trial.connection != parts.data.connection() {
            self.give_up("the data process was lost", parts);
        } else if parts.now >= trial.until {
            self.give_up("it was not confirmed in time", parts);
        }
    }

    /// When [`Self::turn`] has something to do.
    #[must_use]
    pub fn next_turn(&self) -> Option<Instant> {
        self.trial.as_ref().map(|trial| trial.until)
    }

    /// SIGHUP: both processes take the file as it is now, or neither.
    pub fn reload(&mut self, parts: &mut Parts<'_>) {
        if self.trial.is_some() {
            tracing::warn!("a configuration waits to be confirmed, so the file is not read");
            return;
        }
        let Some((wanted, new, changes)) = self.reread() else {
            return;
        };
        if parts.data.connection().is_some() {
            let config = wanted.clone();
            let taken = parts
                .data
                .call(Request::CheckConfig(wanted))
                .and_then(|_| parts.data.call(Request::SetConfig { config, try_ms: None }));
            if let Err(refusal) = taken {
                tracing::error!(%refusal, "the data process can't take the file; nothing was changed");
                return;
            }
        }
        self.adopt(new, parts);
        log(&changes, "taken from the file");
    }

    /// Another data process has read the file at its start: this one goes by it, too, before it tells what to do.
    pub fn follow_restart(&mut self, parts: &mut Parts<'_>) {
        if let Some((_, new, changes)) = self.reread() {
            self.adopt(new, parts);
            log(&changes, "taken from the file");
        }
    }

    /// The file as it is now; none, with a word in the log, when it can't be taken.
    fn reread(&self) -> Option<(ConfigText, Config, Vec<SettingChange>)> {
        let file = self.file.display().to_string();
        let read = std::fs::read_to_string(&self.file)
            .map_err(|error| refused(format!("{file} can't be read: {error}")))
            .and_then(|text| {
                let wanted = ConfigText { file, text };
                let new = read(&wanted)?;
                let changes = self.check(&new)?;
                Ok((wanted, new, changes))
            });
        read.inspect_err(|refusal| tracing::error!(%refusal, "the file is not taken; nothing was changed"))
            .ok()
    }

    /// What `new` changes.
    fn check(&self, new: &Config) -> Result<Vec<SettingChange>, Refusal> {
        let changes = config::diff(&self.running, new);
        let blocked = changes.iter().filter(|change| change.takes.restarts_control());
        let lines: Vec<String> = blocked.map(ToString::to_string).collect();
        if lines.is_empty() {
            return Ok(changes);
        }
        Err(refused(format!(
            "the control process can't take this configuration while it runs; nothing was changed:\n{}",
            lines.join("\n")
        )))
    }

    fn give_up(&mut self, why: &str, parts: &mut Parts<'_>) {
        let Some(trial) = self.trial.take() else { return };
        tracing::warn!(why, "configuration rolled back");
        if let Err(refusal) = parts.data.call(Request::RollBack) {
            // It rolls back by its own timer, and is told what runs when it is connected again.
            tracing::warn!(%refusal, "the data process was not told");
        }
        self.adopt(*trial.before, parts);
    }

    /// Runs `new`; returns what ran before.
    fn adopt(&mut self, new: Config, parts: &mut Parts<'_>) -> Config {
        crate::log::set_level(new.log.level);
        parts.watch.set_fixed(new.forwarding.clone());
        core::mem::replace(&mut self.running, new)
    }
}

fn log(changes: &[SettingChange], how: &str) {
    tracing::info!(settings = changes.len(), how, "changed configuration");
    for change in changes {
        tracing::info!(%change, how, "changed setting");
    }
}

fn read(wanted: &ConfigText) -> Result<Config, Refusal> {
    let (file, text) = (&wanted.file, &wanted.text);
    config::load(file, text, &machine::cores())
        .map_err(|faults| refused(format!("{file} has errors; nothing was changed:\n{faults}")))
}

fn text_of(config: &Config) -> ConfigText {
    ConfigText {
        file: config.file().to_owned(),
        text: config.text().to_owned(),
    }
}

fn nothing_tried() -> Refusal {
    refused("no configuration waits to be confirmed".to_owned())
}

fn refused(message: String) -> Refusal {
    Refusal::new(RefusalKind::Refused, message)
}
