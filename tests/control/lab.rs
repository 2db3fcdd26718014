//! Two network namespaces to try things in, gone when dropped.

use std::ops::{Deref, DerefMut};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dataplane::config::{Forwarding, ForwardingPart, Route};
use dataplane::flow::VrfId;
use twinpath::clock::Clock;
use twinpath::control::vrf::{KernelMap, Source};
use twinpath::control::watch::Watch;

/// How long anything may take to come, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Two namespaces joined by a veth pair: `lan0` (192.0.2.1/24) here, `far0` (192.0.2.2/24) there.
pub(crate) struct Lab {
    pub(crate) here: String,
    there: String,
    pub(crate) clock: Clock,
}

impl Lab {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let lab = Self {
            here: format!("tpc-{unique}-a"),
            there: format!("tpc-{unique}-b"),
            clock: Clock::start(),
        };
        ip(&format!("netns add {}", lab.here));
        ip(&format!("netns add {}", lab.there));
        lab.here(&format!(
            "link add lan0 address 02:00:00:00:00:01 type veth peer far0 netns {}",
            lab.there
        ));
        lab.add_wan();
        lab.here("addr add 192.0.2.1/24 dev lan0");
        lab.here("addr add 2001:db8::1/64 dev lan0 nodad");
        lab.here("addr add 198.51.100.1/24 dev wan0");
        lab.here("link set lan0 up");
        lab.there("link set far0 address 02:00:00:00:00:fe");
        lab.there("addr add 192.0.2.2/24 dev far0");
        lab.there("addr add 2001:db8::2/64 dev far0 nodad");
        lab.there("link set far0 up");
        lab
    }

    /// `wan0` here, its other end without an address there.
    pub(crate) fn add_wan(&self) {
        self.here(&format!(
            "link add wan0 address 02:00:00:00:00:02 type veth peer farw netns {}",
            self.there
        ));
        self.there("link set farw up");
        self.here("link set wan0 up");
    }

    pub(crate) fn here(&self, command: &str) {
        ip(&format!("-n {} {command}", self.here));
    }

    pub(crate) fn there(&self, command: &str) {
        ip(&format!("-n {} {command}", self.there));
    }

    pub(crate) fn watch(&self) -> Watched {
        let map = KernelMap {
            vrfs: vec![Source::Netns(self.here.clone())],
            interfaces: vec![(VrfId(0), Some("lan0".into())), (VrfId(0), Some("wan0".into()))],
            fixed: Forwarding::default(),
        };
        Watched {
            watch: Watch::new(map, self.clock.now()),
            told: None,
        }
    }

    /// Turns the watcher until `wanted` holds of what it has told.
    pub(crate) fn until(&self, watch: &mut Watched, what: &str, wanted: impl Fn(&Forwarding) -> bool) {
        let give_up = self.clock.now() + PATIENCE;
        loop {
            let now = self.clock.now();
            if let Some(part) = watch.turn(now) {
                take(&mut watch.told, part);
            }
            match &watch.told {
                Some(forwarding) if wanted(forwarding) => return,
                _ => assert!(now < give_up, "never came: {what}\n{:#?}", watch.told),
            }
            std::thread::yield_now();
        }
    }
}

/// A watcher, and what whoever listens to it knows.
pub(crate) struct Watched {
    watch: Watch,
    told: Option<Forwarding>,
}

impl Watched {
    pub(crate) fn published(&self) -> Option<&Forwarding> {
        self.told.as_ref()
    }
}

impl Deref for Watched {
    type Target = Watch;

    fn deref(&self) -> &Watch {
        &self.watch
    }
}

impl DerefMut for Watched {
    fn deref_mut(&mut self) -> &mut Watch {
        &mut self.watch
    }
}

/// What is known after a part was told.
pub(crate) fn take(known: &mut Option<Forwarding>, part: ForwardingPart) {
    let before = known.take().filter(|_| !part.begins).unwrap_or_default();
    let mut all = part.forwarding;
    let told = std::mem::take(&mut all.routes);
    let same = |a: &Route, b: &Route| a.vrf == b.vrf && a.prefix == b.prefix;
    all.routes = before.routes;
    all.routes
        .retain(|route| !told.iter().any(|new| same(new, route)));
    all.routes
        .extend(told.into_iter().filter(|route| !route.via.is_empty()));
    *known = Some(all);
}

impl Drop for Lab {
    fn drop(&mut self) {
        for netns in [&self.here, &self.there] {
            let _reported_by_ip = Command::new("ip").args(["netns", "del", netns]).status();
        }
    }
}

fn ip(command: &str) {
    let done = Command::new("ip")
        .args(command.split_whitespace())
        .output()
        .expect("ip is installed");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success(),
        "ip {command}: {said} (these tests need root)"
    );
}
