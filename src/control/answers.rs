//! Each operator's command: answered from the configuration, from the groups, or by the data process.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use ctl::job_report::CompareWanted;
use ctl::protocol::{Command, PAGE_ROWS_MAX, Refusal, RefusalKind, Reply};
use ctl::report::{
    GroupState, HaGroupReport, InterfaceAddress, Page, RoleRow, RuleHits, RuleRow, VersionRow,
};
use ctl::switchover::SwitchoverReport;
use dataplane::config::{Action, InterfaceId, PortRange, RuleIntent};
use dataplane::time::Instant;

use super::apply::{Configured, Parts};
use super::groups::Groups;
use super::host::ThisMachine;
use super::link::DataLink;
use super::vrrp::{Vrrp, fragment};
use super::watch::Watch;
use crate::config::{self, Config};
use crate::ipc::{self, ConfigText, Request};
use crate::machine;

/// For how long a configuration may be tried, in seconds.
const WITHIN_S: RangeInclusive<u64> = 1..=86_400;

/// What answers are made of.
#[derive(Debug)]
pub struct Answers<'a> {
    /// The configuration this process runs with.
    pub configured: &'a mut Configured,
    /// HA groups.
    pub groups: &'a mut Groups,
    /// Groups that VRRP drives.
    pub vrrp: &'a mut Vrrp,
    /// The data process.
    pub data: &'a mut DataLink,
    /// Routes, neighbours and addresses.
    pub watch: &'a mut Watch,
    /// When this process started.
    pub started: Instant,
    /// Now.
    pub now: Instant,
}

/// Turns an ipc reply of the expected kind into the operator's.
macro_rules! forward {
    ($self:ident, $request:expr, $kind:ident => $reply:expr) => {
        match $self.data.call($request)? {
            ipc::Reply::$kind(value) => Ok($reply(value)),
            _ => Err(wrong_reply()),
        }
    };
}

impl Answers<'_> {
    /// Carries out a command.
    ///
    /// # Errors
    /// Why it isn't.
    pub fn answer(&mut self, command: Command) -> Result<Reply, Refusal> {
        if let Some(vrf) = vrf_of(&command) {
            self.check_vrf(vrf)?;
        }
        match command {
            Command::HaState { vrf } => {
                forward!(self, Request::SyncState { vrf }, SyncState => Reply::HaState)
            }
            Command::HaPeers { vrf } => {
                forward!(self, Request::SyncReport { vrf }, SyncReport => Reply::HaPeers)
            }
            Command::HaSlots { vrf } => forward!(self, Request::Slots { vrf }, Slots => Reply::HaSlots),
            Command::HaGroups => self.ha_groups(),
            Command::Conntracks { vrf, filter, page } => {
                let page = bounded(page);
                forward!(self, Request::Conntracks { vrf, filter, page }, Conntracks => Reply::Conntracks)
            }
            Command::ConntrackCount { vrf, filter } => {
                forward!(self, Request::ConntrackCount { vrf, filter }, Count => Reply::Count)
            }
            Command::NatStatistics { vrf } => {
                forward!(self, Request::NatStatistics { vrf }, NatStatistics => Reply::NatStatistics)
            }
            Command::NatPools { vrf } => forward!(self, Request::Pools { vrf }, Pools => Reply::NatPools),
            Command::NatUsers { vrf, page } => {
                forward!(self, Request::Users { vrf, page: bounded(page) }, Users => Reply::NatUsers)
            }
            Command::NatBlocks { vrf, page } => {
                forward!(self, Request::Blocks { vrf, page: bounded(page) }, Blocks => Reply::NatBlocks)
            }
            Command::FirewallRules { vrf } => self.rules(&vrf),
            Command::Ports => forward!(self, Request::Ports, Ports => Reply::Ports),
            Command::Workers => forward!(self, Request::Workers, Workers => Reply::Workers),
            Command::Events => forward!(self, Request::Events, Events => Reply::Events),
            Command::Drops => forward!(self, Request::Drops, Drops => Reply::Drops),
            Command::Memory => forward!(self, Request::Memory, Memory => Reply::Memory),
            Command::Version => self.versions(),
            Command::FlushConntracks { vrf, filter, lose } => {
                forward!(self, Request::FlushConntracks { vrf, filter, lose }, Count => Reply::Count)
            }
            Command::Sync { vrf } => forward!(self, Request::Sync { vrf }, Sync => Reply::Sync),
            Command::Operations => forward!(self, Request::Operations, Operations => Reply::Operations),
            Command::Conservation => {
                forward!(self, Request::Conservation, Conservation => Reply::Conservation)
            }
            Command::Protection => forward!(self, Request::Protection, Protection => Reply::Protection),
            Command::Journal { from } => {
                forward!(self, Request::Journal { from }, Journal => Reply::Journal)
            }
            Command::Compare(wanted) => forward!(self, Request::Compare(wanted), Job => Reply::Job),
            Command::Resync { vrf, slot } => {
                forward!(self, Request::Resync { vrf, slot }, Job => Reply::Job)
            }
            Command::Rebalance(wanted) => forward!(self, Request::Rebalance(wanted), Job => Reply::Job),
            Command::Job { number } => match self.data.call(Request::Job { number })? {
                ipc::Reply::Compare(report) => Ok(Reply::Compare(report)),
                ipc::Reply::Resync(outcome) => Ok(Reply::Resync(outcome)),
                ipc::Reply::Rebalance(report) => Ok(Reply::Rebalance(report)),
                _ => Err(wrong_reply()),
            },
            Command::ResetPort { name } => self.reset_port(name),
            Command::DeclareDead { peer } => self.declare_dead(peer),
            Command::SetHaGroup { name, state } => self.set_group(&name, state),
            Command::HoldHaGroup { name, held } => {
                self.check_group(&name)?;
                self.vrrp.hold(&name, held).map(|()| Reply::Done)
            }
            Command::Switchover { name, to } => self.switch_over(&name, to),
            Command::SwitchoverReport { name } => self.switchover(&name),
            Command::KeepalivedConfig { group, ctl } => self.keepalived_config(group.as_deref(), &ctl),
            Command::KeepalivedCheck => self.vrrp.check(self.now).map(|()| Reply::Done),
            Command::ConfigCheck { file, text } => Ok(Reply::Lines(check(&file, &text))),
            Command::ConfigDiff { file, text } => self.diff(&file, &text),
            Command::ConfigApply { file, text, within_s } => self.apply(ConfigText { file, text }, within_s),
            Command::ConfigConfirm => self.change(Configured::confirm).map(|()| Reply::Done),
            Command::ConfigRollBack => self.change(Configured::roll_back).map(|()| Reply::Done),
            Command::ConfigShow => Ok(Reply::RunningConfig(self.configured.report(self.now))),
            Command::ConfigSettings => Ok(Reply::Settings(config::settings(self.config()))),
        }
    }

    const fn config(&self) -> &Config {
        self.configured.running()
    }

    fn check_vrf(&self, name: &str) -> Result<(), Refusal> {
        let known = self.config().intent.vrfs.iter().any(|vrf| vrf.name == name);
        if known {
            Ok(())
        } else {
            Err(Refusal::not_found("VRF", name))
        }
    }

    fn interface_name(&self, id: InterfaceId) -> String {
        self.config()
            .intent
            .interfaces
            .get(id.index())
            .map_or_else(String::new, |i| i.name.clone())
    }

    fn ha_groups(&mut self) -> Result<Reply, Refusal> {
        let roles = match self.data.call(Request::Roles) {
            Ok(ipc::Reply::Roles(roles)) => roles,
            Ok(_) => return Err(wrong_reply()),
            // What is wanted can be shown without the process that does it.
            Err(refusal) if refusal.kind == RefusalKind::Unreachable => Vec::new(),
            Err(refusal) => return Err(refusal),
        };
        let switchovers = self.switchovers().unwrap_or_default();
        let report = |row: &ctl::report::GroupRow| {
            let intent = self.config().intent.ha_groups.iter().find(|g| g.name == row.name);
            let driven = self.config().ha_groups.iter().find(|g| g.name == row.name);
            let own = intent.map_or(&[][..], |g| &g.virtual_addresses);
            let addresses = driven.and_then(|g| g.vrrp.as_ref()).map_or(own, |v| &v.addresses);
            HaGroupReport {
                name: row.name.clone(),
                state: row.state,
                explicit: row.explicit,
                vrrp: self.vrrp.report(&row.name),
                virtual_addresses: addresses
                    .iter()
                    .map(|v| InterfaceAddress {
                        interface: self.interface_name(v.interface),
                        address: v.address,
                    })
                    .collect(),
                switchover: switchovers.iter().find(|s| s.group == row.name).cloned(),
                vrfs: roles
                    .iter()
                    .filter(|r: &&RoleRow| r.ha_group.as_ref() == Some(&row.name))
                    .cloned()
                    .collect(),
            }
        };
        let driven: Vec<_> = self.vrrp.rows().collect();
        let rows = self.groups.rows().iter().chain(&driven);
        Ok(Reply::HaGroups(rows.map(report).collect()))
    }

    fn set_group(&mut self, name: &str, state: GroupState) -> Result<Reply, Refusal> {
        if self.vrrp.drives(name) {
            let message = format!(
                "VRRP drives the HA group {name}, and nobody else: hold, release and switchover are what you may do here"
            );
            return Err(Refusal::new(RefusalKind::Refused, message));
        }
        self.data.call(self.groups.order(name, state)?)?;
        self.groups.ordered(name, state);
        tracing::info!(
            group = name,
            state = state.name(),
            "an operator has ordered a state"
        );
        Ok(Reply::Done)
    }

    fn switch_over(&mut self, name: &str, to: Option<String>) -> Result<Reply, Refusal> {
        self.check_group(name)?;
        if self.vrrp.drives(name) {
            self.vrrp.check_switchover(name)?;
        }
        let request = Request::Switchover {
            name: name.to_owned(),
            to,
        };
        forward!(self, request, Switchover => Reply::Switchover)
    }

    fn switchovers(&mut self) -> Result<Vec<SwitchoverReport>, Refusal> {
        match self.data.call(Request::Switchovers)? {
            ipc::Reply::Switchovers(reports) => Ok(reports),
            _ => Err(wrong_reply()),
        }
    }

    fn switchover(&mut self, name: &str) -> Result<Reply, Refusal> {
        self.check_group(name)?;
        let mut reports = self.switchovers()?.into_iter();
        let report = reports.find(|report| report.group == name);
        report.map(Reply::Switchover).ok_or_else(|| {
            let message = format!("the data process knows of no switchover of the HA group {name}");
            Refusal::new(RefusalKind::NotFound, message)
        })
    }

    fn declare_dead(&mut self, peer: String) -> Result<Reply, Refusal> {
        self.data.call(Request::DeclareDead { peer: peer.clone() })?;
        tracing::info!(peer, "an operator has declared the peer dead");
        Ok(Reply::Done)
    }

    fn reset_port(&mut self, name: String) -> Result<Reply, Refusal> {
        tracing::info!(name, "an operator resets the port");
        self.data.call(Request::ResetPort { name })?;
        Ok(Reply::Done)
    }

    fn check_group(&self, name: &str) -> Result<(), Refusal> {
        if self.config().ha_groups.iter().any(|g| g.name == name) {
            Ok(())
        } else {
            Err(Refusal::not_found("HA group", name))
        }
    }

    fn keepalived_config(&self, group: Option<&str>, ctl: &str) -> Result<Reply, Refusal> {
        if let Some(name) = group {
            self.check_group(name)?;
        }
        let driven = |g: &config::HaGroupConfig| g.vrrp.is_some() && group.is_none_or(|name| name == g.name);
        if !self.config().ha_groups.iter().any(driven) {
            let message = "no HA group here has vrrp in its configuration";
            return Err(Refusal::new(RefusalKind::Refused, message));
        }
        let dir = ctl::paths::node_dir(&self.config().node.name);
        let text = fragment::render(self.config(), group, &dir, ctl);
        Ok(Reply::Lines(text.lines().map(str::to_owned).collect()))
    }

    fn rules(&mut self, vrf: &str) -> Result<Reply, Refusal> {
        let hits = match self.data.call(Request::RuleHits { vrf: vrf.to_owned() }) {
            Ok(ipc::Reply::RuleHits(hits)) => Some(hits),
            Ok(_) => return Err(wrong_reply()),
            Err(refusal) if refusal.kind == RefusalKind::Unreachable => None,
            Err(refusal) => return Err(refusal),
        };
        let Some(intent) = self.config().intent.vrfs.iter().find(|v| v.name == vrf) else {
            return Err(Refusal::not_found("VRF", vrf));
        };
        let mut rows: Vec<RuleRow> = intent
            .firewall
            .rules
            .iter()
            .map(|rule| self.rule_row(rule, hits.as_deref()))
            .collect();
        rows.push(RuleRow {
            id: None,
            inbound: None,
            outbound: None,
            source: Vec::new(),
            destination: Vec::new(),
            protocol: None,
            source_ports: Vec::new(),
            destination_ports: Vec::new(),
            action: action_name(intent.firewall.default).to_owned(),
            log: false,
            hits: hits.as_deref().map(|hits| hits_of(hits, None).hits),
            new_flows_per_s: None,
            new_flows_per_source_per_s: None,
            limited: hits.as_deref().map(|hits| hits_of(hits, None).limited),
        });
        Ok(Reply::FirewallRules(rows))
    }

    fn rule_row(&self, rule: &RuleIntent, hits: Option<&[RuleHits]>) -> RuleRow {
        let counted = hits.map(|hits| hits_of(hits, Some(rule.id)));
        RuleRow {
            id: Some(rule.id),
            inbound: rule.inbound.map(|id| self.interface_name(id)),
            outbound: rule.outbound.map(|id| self.interface_name(id)),
            source: rule.source.clone(),
            destination: rule.destination.clone(),
            protocol: rule.protocol,
            source_ports: rule.source_ports.iter().map(ports_text).collect(),
            destination_ports: rule.destination_ports.iter().map(ports_text).collect(),
            action: action_name(rule.action).to_owned(),
            log: rule.log,
            hits: counted.map(|counted| counted.hits),
            new_flows_per_s: rule.limit.per_s.map(NonZeroU32::get),
            new_flows_per_source_per_s: rule.limit.per_source_per_s.map(NonZeroU32::get),
            limited: counted.map(|counted| counted.limited),
        }
    }

    fn versions(&mut self) -> Result<Reply, Refusal> {
        let mut rows = vec![VersionRow {
            process: "control".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            dpdk: None,
            node: self.config().node.name.clone(),
            pid: std::process::id(),
            uptime_s: self.now.since(self.started).as_secs(),
        }];
        match self.data.call(Request::Version) {
            Ok(ipc::Reply::Version(row)) => rows.push(row),
            Ok(_) => return Err(wrong_reply()),
            Err(refusal) if refusal.kind == RefusalKind::Unreachable => {}
            Err(refusal) => return Err(refusal),
        }
        Ok(Reply::Version(rows))
    }

    fn diff(&self, file: &str, text: &str) -> Result<Reply, Refusal> {
        let new = config::load(file, text, &machine::cores())
            .map_err(|faults| Refusal::new(RefusalKind::Refused, format!("{file} has errors:\n{faults}")))?;
        Ok(Reply::SettingChanges(config::diff(self.config(), &new)))
    }

    fn apply(&mut self, wanted: ConfigText, within_s: u64) -> Result<Reply, Refusal> {
        if !WITHIN_S.contains(&within_s) {
            let message = format!(
                "a configuration is tried for {} to {} seconds",
                WITHIN_S.start(),
                WITHIN_S.end()
            );
            return Err(Refusal::new(RefusalKind::Refused, message));
        }
        let within = Duration::from_secs(within_s);
        self.change(|configured, parts| configured.apply(wanted, within, parts))
            .map(Reply::Applied)
    }

    fn change<T>(&mut self, change: impl FnOnce(&mut Configured, &mut Parts<'_>) -> T) -> T {
        let mut parts = Parts {
            data: self.data,
            watch: self.watch,
            now: self.now,
        };
        change(self.configured, &mut parts)
    }
}

/// Every fault of a configuration text, one line each; when it has none, what it names and this machine lacks.
#[must_use]
pub fn check(file: &str, text: &str) -> Vec<String> {
    let faults = match config::load(file, text, &machine::cores()) {
        Ok(config) => config::check_host(&config, &ThisMachine),
        Err(faults) => faults.0,
    };
    faults.iter().map(ToString::to_string).collect()
}

fn vrf_of(command: &Command) -> Option<&str> {
    match command {
        Command::HaState { vrf }
        | Command::HaPeers { vrf }
        | Command::HaSlots { vrf }
        | Command::Conntracks { vrf, .. }
        | Command::ConntrackCount { vrf, .. }
        | Command::NatStatistics { vrf }
        | Command::NatPools { vrf }
        | Command::NatUsers { vrf, .. }
        | Command::NatBlocks { vrf, .. }
        | Command::FirewallRules { vrf } => Some(vrf),
        Command::FlushConntracks { vrf, .. }
        | Command::Resync { vrf, .. }
        | Command::Sync { vrf }
        | Command::Compare(CompareWanted { vrf, .. }) => vrf.as_deref(),
        _ => None,
    }
}

fn wrong_reply() -> Refusal {
    Refusal::new(RefusalKind::Refused, ipc::IpcError::WrongReply.to_string())
}

const fn bounded(page: Page) -> Page {
    let limit = if page.limit < PAGE_ROWS_MAX {
        page.limit
    } else {
        PAGE_ROWS_MAX
    };
    Page { limit, ..page }
}

const fn action_name(action: Action) -> &'static str {
    match action {
        Action::Accept => "accept",
        Action::Drop => "drop",
        Action::Reject => "reject",
    }
}

fn ports_text(range: &PortRange) -> String {
    if range.first == range.last {
        range.first.to_string()
    } else {
        format!("{}-{}", range.first, range.last)
    }
}

fn hits_of(hits: &[RuleHits], id: Option<u32>) -> RuleHits {
    let none = RuleHits {
        id,
        hits: 0,
        limited: 0,
    };
    // By id, as the data process says them.
    hits.binary_search_by_key(&id, |h| h.id)
        .map_or(none, |at| hits[at])
}
