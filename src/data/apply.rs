//! How a changed configuration takes the place of the one that runs, while packets flow.
//!
//! ```text
//!   CheckConfig ► could it be tried whole?          SetConfig, try for N ms ► runs ─┬─► SetConfig, the same: for good
//!                                                                                   └─► N ms, or RollBack: the one before
//! ```
//!
//! The control process decides and counts the time; the timer here is for the case that it dies meanwhile. The file
//! isn't written here: it says what both processes start with, whatever was tried.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use ctl::config_report::{SettingChange, Takes};
use ctl::protocol::{Refusal, RefusalKind};
use dataplane::config::Forwarding;
use dataplane::fingerprint;
use dataplane::flow::VrfId;
use dataplane::time::Instant;
use state_sync::port::PumpCommand;

use super::agent::Agent;
use super::settings;
use crate::config::{self, Config};
use crate::ipc::{ConfigText, Event, Reply};
use crate::machine;
use crate::secure::keys::Keyring;

/// What runs.
#[derive(Debug)]
pub(crate) struct Running {
    /// File that the process starts with.
    file: String,
    config: Config,
    /// Present when lanes are protected.
    keys: Option<Arc<Keyring>>,
    trial: Option<Trial>,
    /// Port blocks that the tables were made for.
    blocks_max: u32,
    /// Event threads that have yet to be told of the sections.
    untold: Vec<Sender<PumpCommand>>,
}

/// Until when what runs is tried, and what ran before.
#[derive(Debug)]
struct Trial {
    before: Box<Config>,
    until: Instant,
}

impl Running {
    /// What the process has started with.
    pub(crate) fn new(config: Config, keys: Option<Arc<Keyring>>) -> Self {
        Self {
            file: config.file().to_owned(),
            blocks_max: settings::blocks_max(&config),
            config,
            keys,
            trial: None,
            untold: Vec::new(),
        }
    }
}

impl Agent {
    /// Answers whether a configuration could be tried now.
    pub(super) fn check_config(&self, wanted: &ConfigText) -> Result<Reply, Refusal> {
        let config = read(wanted)?;
        let blocked = self.blocked(&config);
        if !blocked.is_empty() {
            return Err(refused(lines(&blocked)));
        }
        config::open_keys(&config)
            .map(|_| Reply::Done)
            .map_err(|fault| refused(fault.to_string()))
    }

    /// Takes a configuration, for `try_ms` or for good.
    pub(super) fn set_config(
        &mut self,
        wanted: &ConfigText,
        try_ms: Option<u64>,
        now: Instant,
    ) -> Result<Reply, Refusal> {
        if try_ms.is_some() && self.running.trial.is_some() {
            return Err(refused("another configuration is being tried".to_owned()));
        }
        if try_ms.is_none() && self.running.config.text() == wanted.text {
            if self.running.trial.take().is_some() {
                self.note("confirmed".to_owned());
            }
            return Ok(Reply::LeftOut(vec![]));
        }
        let new = read(wanted)?;
        let blocked = self.blocked(&new);
        let Some(ms) = try_ms else {
            return self.take_for_good(new, blocked);
        };
        if !blocked.is_empty() {
            return Err(refused(lines(&blocked)));
        }
        let before = Box::new(self.running.config.clone());
        self.take(new)?;
        let until = now + Duration::from_millis(ms);
        self.running.trial = Some(Trial { before, until });
        self.note(format!("tried for {} s", ms / 1_000));
        Ok(Reply::LeftOut(vec![]))
    }

    /// As far as it goes: what a restart is needed for is left out and named.
    fn take_for_good(&mut self, new: Config, blocked: Vec<SettingChange>) -> Result<Reply, Refusal> {
        if blocked.is_empty() {
            self.take(new)?;
            self.running.trial = None;
            self.note("taken".to_owned());
            return Ok(Reply::LeftOut(vec![]));
        }
        for change in &blocked {
            tracing::error!(%change, "this setting of the configuration is left out");
        }
        // Rules and timeouts mean the same without it, unless they would be about other pools, VRFs or interfaces.
        if blocked.iter().any(|change| change.shapes_tables()) {
            return Ok(Reply::LeftOut(config::diff(&self.running.config, &new)));
        }
        self.running.trial = None;
        let mut mixed = self.running.config.clone();
        mixed.take_intent(new);
        self.take(mixed)?;
        Ok(Reply::LeftOut(blocked))
    }

    /// Gives up what is tried.
    pub(super) fn roll_back(&mut self, why: &str) {
        let Some(Trial { before, .. }) = self.running.trial.take() else {
            return;
        };
        if let Err(refusal) = self.take_keys(&self.running.config, &before) {
            // A key file that can't be read any more must not keep rules from coming back.
            tracing::error!(%refusal, "keys stay as they are");
        }
        if let Err(refusal) = self.run_with(*before) {
            // It ran before, so there is nothing in it that could be refused.
            tracing::error!(%refusal, "the configuration before doesn't come back");
        }
        self.note(format!("rolled back: {why}"));
    }

    /// Rolls back what nobody has confirmed.
    pub(super) fn end_trial(&mut self, now: Instant) -> usize {
        let over = self.running.trial.as_ref().is_some_and(|t| t.until <= now);
        if over {
            self.roll_back("the control process has not confirmed it in time");
        }
        usize::from(over)
    }

    /// SIGHUP: keys are read again at once; the rest of the file is taken by both processes or by neither, so the
    /// control process leads, if there is one.
    pub(crate) fn reload(&mut self, now: Instant) {
        if self.running.trial.is_some() {
            tracing::warn!("a configuration waits to be confirmed, so the file is not read; its keys are");
            self.read_keys(&self.running.config);
            return;
        }
        let text = match std::fs::read_to_string(&self.running.file) {
            Ok(text) => text,
            Err(error) => return tracing::error!(%error, "the configuration can't be read; nothing changes"),
        };
        let file = self.running.file.clone();
        let wanted = ConfigText { file, text };
        match read(&wanted) {
            Ok(config) => self.read_keys(&config),
            Err(refusal) => return tracing::error!(%refusal, "nothing changes"),
        }
        if self.server.clients() > 0 {
            self.server.broadcast(Event::ReloadWanted);
            return;
        }
        let taken = self
            .check_config(&wanted)
            .and_then(|_| self.set_config(&wanted, None, now));
        if let Err(refusal) = taken {
            tracing::error!(%refusal, "the configuration is not taken, nothing of it");
        }
    }

    fn read_keys(&self, config: &Config) {
        let Some(keys) = &self.running.keys else {
            return;
        };
        match config::replace_keys(keys, config) {
            Ok(()) => tracing::info!(public_key = %keys.own(), "keys of the sync link read again"),
            Err(fault) => tracing::error!(%fault, "keys stay as they were"),
        }
    }

    /// What of `new` this process can't have without a restart.
    fn blocked(&self, new: &Config) -> Vec<SettingChange> {
        let mut changes = config::diff(&self.running.config, new);
        changes.retain(|change| change.takes.restarts_dataplane());
        changes.extend(outgrows(self.running.blocks_max, new));
        changes.extend(self.no_room_for(new));
        changes
    }

    /// Whether there is neither address space nor memory for the conntracks that a configuration wants.
    fn no_room_for(&self, new: &Config) -> Option<SettingChange> {
        let (most, reserved) = (new.dataplane.conntracks_max, self.rooms.reserved());
        let reason = if most > reserved {
            format!("tables were started with address space for {reserved}")
        } else {
            let lacking = self.rooms.lacks_bytes(new)?;
            format!(
                "{} MB of memory are missing: give the machine more, or take less",
                lacking.div_ceil(1 << 20)
            )
        };
        Some(SettingChange {
            path: "dataplane.conntracks_max".to_owned(),
            old: Some(self.running.config.dataplane.conntracks_max.to_string()),
            new: Some(most.to_string()),
            takes: Takes::RestartDataplane,
            reason,
        })
    }

    fn take(&mut self, new: Config) -> Result<(), Refusal> {
        self.take_keys(&self.running.config, &new)?;
        let before = self.running.config.clone();
        let taken = self.run_with(new.clone());
        if taken.is_err()
            && let Err(refusal) = self.take_keys(&new, &before)
        {
            tracing::error!(%refusal, "keys stay as they are");
        }
        taken
    }

    /// The keys of a configuration that is to run, where they are others than those in use.
    fn take_keys(&self, in_use: &Config, new: &Config) -> Result<(), Refusal> {
        match &self.running.keys {
            Some(keys) if !config::same_keys(in_use, new) => {
                config::replace_keys(keys, new).map_err(|fault| refused(fault.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Everything but the keys. An error has changed nothing.
    fn run_with(&mut self, new: Config) -> Result<(), Refusal> {
        if self.sources.intent != new.intent {
            let compiled = self.publisher.compile(&new.intent);
            let compiled = compiled.map_err(|error| refused(error.to_string()))?;
            tracing::info!(compiled, "rules");
        }
        crate::log::set_level(new.log.level);
        let old = core::mem::replace(&mut self.running.config, new);
        let new = &self.running.config;
        self.rooms.configure(new);
        if self.sources.intent == new.intent && old.forwarding == new.forwarding {
            return Ok(());
        }
        // Until the control process tells all of it anew.
        replace_fixed(self.publisher.forwarding(), &old.forwarding, &new.forwarding);
        self.publisher
            .replace_routes(&old.forwarding.routes, &new.forwarding.routes, &new.intent);
        self.sources.intent = new.intent.clone();
        self.sources.facts.names.set_pools(&new.intent);
        self.sources.unknown_pools.clear();
        self.publish();
        self.running.untold.clone_from(&self.sources.pump_commands);
        self.tell_sections();
        Ok(())
    }

    /// Peers are to know what this node's configuration is by now. An event thread that is asked a lot is told later.
    pub(super) fn tell_sections(&mut self) -> usize {
        let untold = &mut self.running.untold;
        if untold.is_empty() {
            return 0;
        }
        let intent = &self.running.config.intent;
        let vrfs = (0..).map(VrfId).take(intent.vrfs.len());
        let sections: Arc<[_]> = vrfs.map(|vrf| fingerprint::sections(intent, vrf)).collect();
        untold.retain(|pump| {
            pump.try_send(PumpCommand::Sections(Arc::clone(&sections)))
                .is_err()
        });
        1
    }

    fn note(&mut self, what: String) {
        tracing::info!(what, "changed configuration");
        let text = format!("changed configuration: {what}");
        self.sources.journal.note("configuration", None, None, text);
    }
}

/// Whether the pools of a configuration have more port blocks than there is room for.
fn outgrows(blocks_max: u32, new: &Config) -> Option<SettingChange> {
    let blocks = settings::block_count(&new.intent);
    (blocks > blocks_max).then(|| SettingChange {
        path: "vrf.cg_nat.pool".to_owned(),
        old: Some(format!("room for {blocks_max} port blocks")),
        new: Some(format!("{blocks} port blocks")),
        takes: Takes::RestartDataplane,
        reason: "tables of port blocks are allocated at start, for twice those of the pools there are then"
            .to_owned(),
    })
}

/// What the file says of reachability, routes apart, takes the place of what another one said; the kernel's part stays.
fn replace_fixed(all: &mut Forwarding, old: &Forwarding, new: &Forwarding) {
    replace(&mut all.links, &old.links, &new.links);
    replace(&mut all.addresses, &old.addresses, &new.addresses);
    replace(&mut all.neighbors, &old.neighbors, &new.neighbors);
    // Of two entries for one thing the last one counts: of neighbours the file's, of links the kernel's.
    all.links.rotate_right(new.links.len());
}

fn replace<T: PartialEq + Clone>(all: &mut Vec<T>, old: &[T], new: &[T]) {
    all.retain(|entry| !old.contains(entry));
    all.extend_from_slice(new);
}

fn read(wanted: &ConfigText) -> Result<Config, Refusal> {
    let read = config::load(&wanted.file, &wanted.text, &machine::cores());
    read.map_err(|faults| refused(faults.to_string()))
}

fn lines(changes: &[SettingChange]) -> String {
    let lines: Vec<String> = changes.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn refused(message: String) -> Refusal {
    Refusal::new(RefusalKind::Refused, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::config::{InterfaceId, Neighbor};

    fn of(last: &[u8]) -> Forwarding {
        let neighbor = |&last: &u8| Neighbor {
            interface: InterfaceId(0),
            address: [10, 0, 0, last].into(),
            mac: [last; 6],
        };
        Forwarding {
            neighbors: last.iter().map(neighbor).collect(),
            ..Forwarding::default()
        }
    }

    #[test]
    fn neighbors_of_the_file_change_and_those_of_the_kernel_stay() {
        let mut all = of(&[1, 2]);
        let (old, new) = (of(&[1]), of(&[3]));
        replace_fixed(&mut all, &old, &new);
        assert_eq!(all, of(&[2, 3]));
        replace_fixed(&mut all, &new, &old);
        assert_eq!(all, of(&[2, 1]));
    }
}
