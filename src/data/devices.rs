//! The devices behind ports, which come and go while the process runs. A kernel interface that was deleted and made again, a card
//! that its driver calls fallen, or an operator's word: the port is shut, the workers let go of it, and its device is made anew,
//! tried again until it is there (`src/dpdk/port/renew.rs`). Meanwhile the port is down, and frames for it are refused and
//! counted.
//!
//! Whether a kernel interface is still the same the kernel is asked, since packet sockets and taps stay open, and silent, when
//! theirs is gone.

use std::time::Duration;

use crossbeam_channel::Sender;
use dataplane::io::PortId;
use dataplane::time::Instant;

use super::kernel_link::KernelLinks;
use crate::dpdk::{Device, PortSet, RenewError};

/// How often interfaces are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Between two attempts to have a device.
const TRY_EVERY: Duration = Duration::from_millis(500);
/// A worker that hasn't let go by now is stuck.
const LET_GO_WITHIN: Duration = Duration::from_secs(5);

/// Who is told how the first attempt of a reset has ended.
pub(super) type Told = Sender<Result<(), String>>;

/// All of them, taps included.
#[derive(Debug)]
pub(super) struct Devices {
    all: Vec<Watched>,
    look_at: Instant,
}

/// What has become of a device.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct News {
    /// Port, or tap.
    pub(super) port: PortId,
    /// For the operator, with its name.
    pub(super) text: String,
    /// Whether it is there again.
    pub(super) back: bool,
}

#[derive(Debug)]
struct Watched {
    port: PortId,
    name: String,
    interface: Option<Interface>,
    state: State,
    wanted: Vec<Told>,
    renewed: u64,
}

/// The kernel interface below a device, or the tap itself.
#[derive(Debug)]
struct Interface {
    name: String,
    /// The driver makes it, so it need not be there.
    is_own: bool,
    kernel: KernelLinks,
    index: Option<u32>,
}

#[derive(Debug)]
enum State {
    /// Workers use it.
    InUse,
    /// They have been told to let go.
    LettingGo { cause: String, stuck_at: Instant },
    /// Nobody uses it, and it isn't there.
    Away { cause: String, try_at: Instant },
}

impl Devices {
    /// Of ports that are open. One whose interface can't be watched is taken for there.
    pub(super) fn new(ports: &PortSet) -> Self {
        let all = (0..ports.len()).filter_map(|port| {
            let port = PortId(u16::try_from(port).ok()?);
            let config = ports.config(port)?;
            let interface = Interface::open(&config.device, config.netns.as_deref());
            Some(Watched {
                port,
                name: config.name.clone(),
                interface,
                state: State::InUse,
                wanted: Vec::new(),
                renewed: 0,
            })
        });
        Self {
            all: all.collect(),
            look_at: Instant::default(),
        }
    }

    /// Has the device of a port, or the tap of that name, made anew. False when there is none.
    pub(super) fn reset(&mut self, name: &str, told: Told) -> bool {
        let found = self.all.iter_mut().find(|device| device.name == name);
        found.map(|device| device.wanted.push(told)).is_some()
    }

    /// Why a port's device is away, if it is, and how often it was made anew.
    pub(super) fn report(&self, port: PortId) -> (Option<String>, u64) {
        self.all.get(port.index()).map_or((None, 0), |device| {
            let away = match &device.state {
                State::InUse => None,
                State::LettingGo { cause, .. } | State::Away { cause, .. } => Some(cause.clone()),
            };
            (away, device.renewed)
        })
    }

    /// Looks at all and goes on with those that are being made anew.
    pub(super) fn turn(&mut self, now: Instant, ports: &mut PortSet) -> Vec<News> {
        let looking = now >= self.look_at;
        if looking {
            self.look_at = now + LOOK_EVERY;
        }
        let (mut news, mut behind) = (Vec::new(), Vec::new());
        for device in &mut self.all {
            let mac = ports.mac(device.port);
            let told = device.turn(now, looking, ports);
            if told.as_ref().is_some_and(|told| told.back) && ports.mac(device.port) != mac {
                behind.extend(ports.tap_of(device.port));
            }
            news.extend(told);
        }
        for tap in behind {
            if let Some(device) = self.all.get_mut(tap.index()) {
                news.push(device.shut("its port has another MAC address".to_owned(), now, ports));
            }
        }
        news
    }
}

impl Watched {
    fn turn(&mut self, now: Instant, looking: bool, ports: &mut PortSet) -> Option<News> {
        match &self.state {
            State::InUse => {
                let cause = self.cause(looking, ports)?;
                Some(self.shut(cause, now, ports))
            }
            State::LettingGo { stuck_at, .. } => match ports.held_by(self.port) {
                None => self.renew(now, ports),
                Some(worker) if now >= *stuck_at => {
                    let cause = format!("worker{worker} has not let go of it");
                    let news = self.news(cause.clone(), false);
                    let stuck_at = now + Duration::from_secs(3600);
                    self.state = State::LettingGo { cause, stuck_at };
                    Some(news)
                }
                Some(_) => None,
            },
            State::Away { try_at, .. } if now >= *try_at || !self.wanted.is_empty() => self.renew(now, ports),
            State::Away { .. } => None,
        }
    }

    /// Why it has to be made anew, if it has to.
    fn cause(&mut self, looking: bool, ports: &PortSet) -> Option<String> {
        if !self.wanted.is_empty() {
            return Some("an operator's reset".to_owned());
        }
        if !looking {
            return None;
        }
        if ports.has_fallen(self.port) {
            return Some("its driver says that the device was taken out or needs a reset".to_owned());
        }
        self.interface.as_mut()?.fallen()
    }

    fn shut(&mut self, cause: String, now: Instant, ports: &mut PortSet) -> News {
        ports.shut(self.port);
        let news = self.news(format!("down: {cause}"), false);
        self.state = State::LettingGo {
            cause,
            stuck_at: now + LET_GO_WITHIN,
        };
        news
    }

    fn renew(&mut self, now: Instant, ports: &mut PortSet) -> Option<News> {
        let outcome = match self.interface.as_mut().and_then(Interface::missing) {
            Some(missing) => Err(missing),
            None => ports.renew(self.port).map_err(|error| match error {
                RenewError::Port(cause) => cause.to_string(),
                held @ (RenewError::InUse(_) | RenewError::Open) => held.to_string(),
            }),
        };
        for told in self.wanted.drain(..) {
            // Whoever asked may have gone.
            let _ = told.try_send(outcome.clone());
        }
        if let Err(cause) = outcome {
            let known = matches!(&self.state, State::Away { cause: known, .. } if *known == cause);
            let news = self.news(format!("away: {cause}"), false);
            let try_at = now + TRY_EVERY;
            self.state = State::Away { cause, try_at };
            return (!known).then_some(news);
        }
        if let Some(interface) = &mut self.interface {
            interface.settle();
        }
        self.state = State::InUse;
        self.renewed += 1;
        let mac = ports.mac(self.port).unwrap_or_default();
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        Some(self.news(format!("made anew, MAC address {mac}"), true))
    }

    fn news(&self, text: String, back: bool) -> News {
        News {
            port: self.port,
            text: format!("{}: {text}", self.name),
            back,
        }
    }
}

impl Interface {
    /// Of a device that has one.
    fn open(device: &Device, netns: Option<&str>) -> Option<Self> {
        let name = device.argument("iface")?;
        let kernel = KernelLinks::open(netns)
            .inspect_err(|error| tracing::warn!(%error, interface = name, "its end won't be noticed"))
            .ok()?;
        let mut interface = Self {
            name: name.to_owned(),
            is_own: device.name().starts_with("net_tap"),
            kernel,
            index: None,
        };
        interface.settle();
        Some(interface)
    }

    /// What is there now is what the device is made of.
    fn settle(&mut self) {
        let found = self.kernel.look(&self.name).ok().flatten();
        self.index = found.map(|link| link.index);
    }

    /// What has become of it. A kernel that can't be asked knows of no change.
    fn fallen(&mut self) -> Option<String> {
        let found = self.kernel.look(&self.name).ok()?;
        let name = &self.name;
        match found {
            None => Some(format!("interface {name} was deleted")),
            Some(link) if self.index.is_some_and(|index| index != link.index) => {
                Some(format!("interface {name} was made anew"))
            }
            Some(_) => None,
        }
    }

    /// Without an interface that others make there is nothing to attempt.
    fn missing(&mut self) -> Option<String> {
        let gone = !self.is_own && matches!(self.kernel.look(&self.name), Ok(None));
        gone.then(|| format!("there is no interface {}", self.name))
    }
}
