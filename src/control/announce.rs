//! Pools in the kernel's routing tables, for routing daemons that announce what they find there: as long as this node is active
//! for a VRF with `announce_pools`, the table that the VRF's routes come from has a blackhole route for each prefix of its
//! pools. The kernel forwards nothing by them, and the [mirror](super::mirror) takes routes of that kind for none.
//!
//! Whose routes they are is told by their protocol number ([`PROTOCOL`]). So a process that comes after one that has ended finds
//! what that one has left: it stays while nobody knows better, and what the role doesn't want any more goes. A restart of this
//! process moves no announcement. When the data process ends and no control process is there, the service that ran it has
//! `twinpath-control --withdraw` take the routes away. Roles come from the
//! data process, after it has changed them: at a take-over the route follows the role, and at a switchover the peer has decided
//! before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ctl::report::{RoleRow, RoleState};
use dataplane::flow::VrfId;
use dataplane::time::Instant;
use ipnet::Ipv4Net;

use super::link::DataLink;
use super::netlink::{NetlinkError, OwnRoutes};
use super::watch::Watch;
use crate::config::Config;
use crate::ipc::{Reply, Request};

/// Between two attempts at what the kernel has refused.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long a process that has just begun waits for a data process that may be forwarding.
const PATIENCE: Duration = Duration::from_secs(5);

/// A routing table: namespace (none is the process's own) and number.
type Table = (Option<String>, u32);

/// What is announced, and what the kernel has of it.
#[derive(Debug)]
pub struct Announcer {
    /// The configuration that `wishes` are of.
    text: String,
    wishes: Vec<Wish>,
    /// Each namespace of the configuration.
    spaces: BTreeMap<Option<String>, Space>,
    active: BTreeSet<String>,
    /// Connection to the data process that `active` is of.
    connection: Option<u64>,
    met: bool,
    patience_until: Instant,
    due: Option<Instant>,
    complained: bool,
}

/// A VRF whose pools are announced.
#[derive(Debug)]
struct Wish {
    vrf: VrfId,
    name: String,
    prefixes: Vec<Ipv4Net>,
}

/// One namespace.
#[derive(Debug, Default)]
struct Space {
    routes: Option<OwnRoutes>,
    there: BTreeSet<(u32, Ipv4Net)>,
}

impl Announcer {
    /// Nothing has been looked at yet.
    #[must_use]
    pub fn new(namespaces: Vec<Option<String>>, now: Instant) -> Self {
        Self {
            text: String::new(),
            wishes: Vec::new(),
            spaces: namespaces.into_iter().map(|n| (n, Space::default())).collect(),
            active: BTreeSet::new(),
            connection: None,
            met: false,
            patience_until: now + PATIENCE,
            due: Some(now),
            complained: false,
        }
    }

    /// A VRF has a role, as the data process says.
    pub fn note(&mut self, row: &RoleRow) {
        let changed = if matches!(row.role, RoleState::Master | RoleState::Alone) {
            self.active.insert(row.vrf.clone())
        } else {
            self.active.remove(&row.vrf)
        };
        if changed {
            self.due = Some(Instant::default());
        }
    }

    /// Has the kernel's tables follow what is known now.
    pub fn turn(&mut self, now: Instant, config: &Config, data: &mut DataLink, watch: &Watch) {
        if self.text != config.text() {
            config.text().clone_into(&mut self.text);
            self.wishes = wishes(config);
            self.due = Some(now);
        }
        self.meet(data);
        let known = self.connection.is_some() || self.met || now >= self.patience_until;
        if !known || self.due.is_none_or(|due| now < due) {
            return;
        }
        self.due = None;
        let wanted = self.wanted(|vrf| watch.table(vrf), now);
        for (netns, space) in &mut self.spaces {
            let of_space = wanted.iter().filter(|((n, _), _)| n == netns);
            let of_space = of_space.map(|((_, table), prefix)| (*table, *prefix)).collect();
            if let Err(error) = space.follow(netns.as_deref(), &of_space) {
                if !core::mem::replace(&mut self.complained, true) {
                    tracing::warn!(%error, namespace = netns, "routes of pools can't be kept, and are tried again");
                }
                self.due = Some(now + AGAIN_AFTER);
            }
        }
        self.complained &= self.due.is_some();
    }

    /// When [`Self::turn`] has something to do by itself.
    #[must_use]
    pub fn next_turn(&self) -> Option<Instant> {
        let known = self.connection.is_some() || self.met;
        self.due
            .map(|due| if known { due } else { due.max(self.patience_until) })
    }

    /// This process is to end in order. A data process that goes on forwards what is announced, so its routes stay for the next
    /// control process; without one they would lead nowhere.
    pub fn end(&mut self, data: &DataLink) {
        if data.connection().is_none() {
            self.withdraw();
        }
    }

    /// Takes away every route that is there.
    pub fn withdraw(&mut self) {
        for (netns, space) in &mut self.spaces {
            if let Err(error) = space.follow(netns.as_deref(), &BTreeSet::new()) {
                tracing::warn!(%error, namespace = netns, "routes of pools are left behind");
            }
        }
    }

    /// Notices a new connection to the data process, or the loss of one: without a data process nothing is forwarded.
    fn meet(&mut self, data: &mut DataLink) {
        if data.connection() == self.connection {
            return;
        }
        self.connection = None;
        self.active.clear();
        self.due = Some(Instant::default());
        if data.connection().is_some()
            && let Ok(Reply::Roles(roles)) = data.call(Request::Roles)
        {
            for row in &roles {
                self.note(row);
            }
            self.connection = data.connection();
            self.met = true;
        }
    }

    /// Every route that shall be there. A VRF device may be missing for now.
    fn wanted(&mut self, table: impl Fn(VrfId) -> Option<Table>, now: Instant) -> BTreeSet<(Table, Ipv4Net)> {
        let mut wanted = BTreeSet::new();
        for wish in self.wishes.iter().filter(|w| self.active.contains(&w.name)) {
            match table(wish.vrf) {
                Some(table) => wanted.extend(wish.prefixes.iter().map(|prefix| (table.clone(), *prefix))),
                None => self.due = Some(now + AGAIN_AFTER),
            }
        }
        wanted
    }
}

impl Space {
    fn follow(&mut self, netns: Option<&str>, wanted: &BTreeSet<(u32, Ipv4Net)>) -> Result<(), NetlinkError> {
        let routes = match &mut self.routes {
            Some(routes) => routes,
            none => {
                let mut opened = OwnRoutes::open(netns, PROTOCOL)?;
                self.there = opened.read()?.into_iter().collect();
                none.insert(opened)
            }
        };
        let result = Self::change(routes, &mut self.there, wanted);
        if result.is_err() {
            // What is there is read again.
            self.routes = None;
        }
        result
    }

    fn change(
        routes: &mut OwnRoutes,
        there: &mut BTreeSet<(u32, Ipv4Net)>,
        wanted: &BTreeSet<(u32, Ipv4Net)>,
    ) -> Result<(), NetlinkError> {
        for &(table, prefix) in wanted.difference(&there.clone()) {
            routes.add(table, prefix)?;
            there.insert((table, prefix));
            tracing::info!(table, %prefix, "route of a pool added");
        }
        for &(table, prefix) in there.clone().difference(wanted) {
            routes.remove(table, prefix)?;
            there.remove(&(table, prefix));
            tracing::info!(table, %prefix, "route of a pool removed");
        }
        Ok(())
    }
}

/// Origin of our routes, among the numbers of linux/rtnetlink.h that nobody has.
pub const PROTOCOL: u8 = 116;

/// The fewest prefixes that hold the pools' addresses and no others.
fn wishes(config: &Config) -> Vec<Wish> {
    let vrfs = config.vrfs.iter().zip(&config.intent.vrfs);
    let announcing = (0..)
        .map(VrfId)
        .zip(vrfs)
        .filter(|(_, (vrf, _))| vrf.announce_pools);
    announcing
        .map(|(id, (vrf, intent))| {
            let addresses = intent.pools.iter().flat_map(|pool| &pool.addresses);
            Wish {
                vrf: id,
                name: vrf.name.clone(),
                prefixes: Ipv4Net::aggregate(&addresses.map(|&a| Ipv4Net::from(a)).collect()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "[node]\nname = \"n\"\nid = 1\n[[port]]\nname = \"p\"\ndevice = \"net_null0\"\n\
                          [[interface]]\nname = \"wan\"\nport = \"p\"\n[[vrf]]\nname = \"main\"\nannounce_pools = true\n\
                          [[vrf.cg_nat.pool]]\nname = \"a\"\naddresses = [\"198.51.100.1-198.51.100.3\", \"203.0.113.8/29\"]\n";

    fn announcer() -> Announcer {
        let config = crate::config::load("test.toml", CONFIG, &[]).unwrap();
        let mut announcer = Announcer::new(vec![None], Instant::default());
        announcer.wishes = wishes(&config);
        announcer
    }

    fn role(role: RoleState) -> RoleRow {
        RoleRow {
            vrf: "main".into(),
            ha_group: Some("g".into()),
            role,
            term: 1,
            ready: true,
            cause: String::new(),
            in_doubt: false,
        }
    }

    #[test]
    fn the_fewest_prefixes_that_hold_the_pools_and_nothing_else() {
        let prefixes: Vec<String> = announcer().wishes[0]
            .prefixes
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(prefixes, ["198.51.100.1/32", "198.51.100.2/31", "203.0.113.8/29"]);
    }

    #[test]
    fn routes_are_wanted_while_the_role_is_held_and_at_no_other_time() {
        let mut announcer = announcer();
        let table = |_| Some((None, 254));
        for (state, routes) in [
            (RoleState::Fault, 0),
            (RoleState::Backup, 0),
            (RoleState::Master, 3),
            (RoleState::Backup, 0),
            (RoleState::Alone, 3),
        ] {
            announcer.note(&role(state));
            assert_eq!(
                announcer.wanted(table, Instant::default()).len(),
                routes,
                "{state:?}"
            );
        }
        announcer.due = None;
        assert!(announcer.wanted(|_| None, Instant::default()).is_empty());
        assert!(
            announcer.due.is_some(),
            "a VRF device that is missing is waited for"
        );
    }
}
