//! The connection to the data process: made, greeted, told everything, lost, made again. The data process is in no
//! hurry: it forwards by itself from its own reading of the configuration.
//!
//! That it has died is told by its lifeline, where it has one; its socket says the same, only later.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use ctl::protocol::{Refusal, RefusalKind};
use dataplane::config::ForwardingPart;
use dataplane::time::Instant;

use super::groups::Groups;
use crate::dpdk::lifeline::Watch;
use crate::ipc::{Client, ConfigText, Event, IpcError, Reply, Request};

/// Between two attempts to connect.
const CONNECT_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a dead process's socket is waited for. Nobody else can serve in its place before it is closed, but the loop may not
/// depend on that.
const DYING_MAX: Duration = Duration::from_secs(10);

/// A data process that answers, and hasn't been told anything.
#[derive(Debug)]
pub struct Greeted {
    client: Client,
    /// It isn't the one that was connected before.
    pub restarted: bool,
}

/// A process that is dead by its lifeline, and whose end of the connection isn't closed yet: the kernel is taking it down.
/// Until then its socket takes connections, and whoever says something there waits for an answer in vain.
#[derive(Debug)]
struct Dying {
    client: Client,
    /// Set by the first turn that sees it.
    until: Option<Instant>,
}

/// The connection, or the wish for one.
#[derive(Debug)]
pub struct DataLink {
    path: PathBuf,
    lifeline: PathBuf,
    node: String,
    client: Option<Client>,
    /// Of the process with this boot number: begun once, it stays when the connection is lost and made again.
    watch: Option<(u64, Watch)>,
    dying: Option<Dying>,
    connections: u64,
    connect_at: Instant,
    /// Of the process that was reached last.
    boot: Option<u64>,
    /// Routes and neighbours name interfaces and VRFs by number.
    numbered_alike: bool,
    /// Its process may be dying still, and its socket take connections that nobody will answer.
    just_lost: bool,
    /// Told once per loss, not per attempt.
    complained: bool,
    /// That there is no lifeline has been told.
    unwatched: bool,
}

impl DataLink {
    /// Not connected yet; the first [`Self::greet`] tries.
    #[must_use]
    pub const fn new(path: PathBuf, lifeline: PathBuf, node: String, now: Instant) -> Self {
        Self {
            path,
            lifeline,
            node,
            client: None,
            watch: None,
            dying: None,
            connections: 0,
            connect_at: now,
            boot: None,
            numbered_alike: true,
            just_lost: false,
            complained: false,
            unwatched: false,
        }
    }

    /// Connects when it is time to. Nothing has been said yet: [`Self::introduce`] follows.
    pub fn greet(&mut self, now: Instant) -> Option<Greeted> {
        if self.is_dying(now) {
            return None;
        }
        if core::mem::take(&mut self.just_lost) {
            self.connect_at = now + CONNECT_AGAIN_AFTER;
        }
        if self.client.is_some() || now < self.connect_at {
            return None;
        }
        self.connect_at = now + CONNECT_AGAIN_AFTER;
        match Client::connect(&self.path, &self.node, PATIENCE) {
            Ok(client) => {
                let boot = client.boot();
                let restarted = self.boot.is_some_and(|before| before != boot);
                Some(Greeted { client, restarted })
            }
            Err(error) => {
                self.complain(&error);
                None
            }
        }
    }

    /// Whether the process that was lost is still being taken down.
    fn is_dying(&mut self, now: Instant) -> bool {
        let Some(dying) = &mut self.dying else {
            return false;
        };
        let until = *dying.until.get_or_insert(now + DYING_MAX);
        self.connect_at = until;
        if now < until && dying.client.poll(|_| ()).is_ok() {
            return true;
        }
        self.dying = None;
        // The socket that listens may be closed a little later than the one that was connected.
        self.just_lost = true;
        false
    }

    /// Says everything there is to say.
    pub fn introduce(
        &mut self,
        mut greeted: Greeted,
        config: ConfigText,
        forwarding: impl Iterator<Item = ForwardingPart>,
        groups: &mut Groups,
    ) {
        let client = &mut greeted.client;
        match say_all(client, config, forwarding, groups) {
            Ok(numbered_alike) => {
                tracing::info!(boot = client.boot(), "connected to the data process");
                self.boot = Some(client.boot());
                self.watch(greeted.client.boot());
                self.client = Some(greeted.client);
                self.connections += 1;
                self.numbered_alike = numbered_alike;
                self.complained = false;
            }
            Err(error) => self.complain(&error),
        }
    }

    fn watch(&mut self, boot: u64) {
        if self.watch.as_ref().is_some_and(|(watched, _)| *watched == boot) {
            return;
        }
        self.watch = match Watch::begin(&self.lifeline, boot) {
            Ok(watch) => Some((boot, watch)),
            Err(error) => {
                if !core::mem::replace(&mut self.unwatched, true) {
                    tracing::info!(%error, "a death of the data process is told by its socket alone, and later");
                }
                None
            }
        };
    }

    fn complain(&mut self, error: &IpcError) {
        if !self.complained {
            tracing::warn!(%error, path = %self.path.display(), "no connection to the data process yet");
        }
        self.complained = true;
    }

    /// Which connection this is, counted; none while there is none.
    #[must_use]
    pub fn connection(&self) -> Option<u64> {
        self.client.is_some().then_some(self.connections)
    }

    /// Asks the data process.
    ///
    /// # Errors
    /// Its refusal, or that it can't be reached.
    pub fn call(&mut self, request: Request) -> Result<Reply, Refusal> {
        self.notice_end();
        let Some(client) = &mut self.client else {
            return Err(Refusal::new(
                RefusalKind::Unreachable,
                "the data process isn't running, or doesn't answer",
            ));
        };
        match client.call(request) {
            Ok(reply) => Ok(reply),
            Err(IpcError::Refused(refusal)) => Err(refusal),
            Err(error) => {
                self.lose(&error);
                Err(Refusal::new(RefusalKind::Unreachable, error.to_string()))
            }
        }
    }

    /// Tells new reachability, or a part of it, when there is somebody to tell.
    pub fn tell(&mut self, part: ForwardingPart) {
        if self.client.is_some()
            && self.numbered_alike
            && let Err(error) = self.call(Request::SetForwarding(Box::new(part)))
        {
            tracing::warn!(%error, "routes and neighbours were not taken");
        }
    }

    /// The events since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        self.notice_end();
        let mut events = Vec::new();
        if let Some(client) = &mut self.client
            && let Err(error) = client.poll(|event| events.push(event))
        {
            self.lose(&error);
        }
        events
    }

    /// Readable when an event has come, or the data process has ended.
    pub fn readable(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        // Once it is over, a watch without a connection would have whoever waits spin.
        let watch = self.watch.as_ref().filter(|_| self.client.is_some());
        let sockets = self.client.iter().chain(self.dying.iter().map(|d| &d.client));
        sockets
            .map(Client::readable)
            .chain(watch.map(|(_, watch)| watch.readable()))
    }

    /// When [`Self::greet`] has something to do.
    #[must_use]
    pub fn next_turn(&self) -> Option<Instant> {
        self.client.is_none().then_some(self.connect_at)
    }

    fn notice_end(&mut self) {
        if self.client.is_some() && self.watch.as_ref().is_some_and(|(_, watch)| watch.is_over()) {
            self.lose(&IpcError::Ended);
        }
    }

    fn lose(&mut self, error: &IpcError) {
        tracing::warn!(%error, "lost the data process; connecting again");
        let client = self.client.take();
        if matches!(error, IpcError::Ended) {
            self.watch = None;
            self.dying = client.map(|client| Dying { client, until: None });
        } else {
            self.just_lost = true;
        }
    }
}

/// Returns whether both processes number interfaces and VRFs alike.
fn say_all(
    client: &mut Client,
    config: ConfigText,
    forwarding: impl Iterator<Item = ForwardingPart>,
    groups: &mut Groups,
) -> Result<bool, IpcError> {
    // First what runs, so that nothing running is overridden.
    let Reply::Groups(told) = client.call(Request::Groups)? else {
        return Err(IpcError::WrongReply);
    };
    let try_ms = None;
    let numbered_alike = match accept(
        client.call(Request::SetConfig { config, try_ms }),
        "the configuration",
    )? {
        Some(Reply::LeftOut(left_out)) => {
            for change in &left_out {
                tracing::error!(%change, "the data process leaves this setting out");
            }
            !left_out.iter().any(|change| change.path.starts_with("order."))
        }
        Some(_) => return Err(IpcError::WrongReply),
        None => true,
    };
    if numbered_alike {
        for part in forwarding {
            let part = Request::SetForwarding(Box::new(part));
            accept(client.call(part), "routes and neighbours")?;
        }
    }
    for request in groups.settle(&told) {
        accept(client.call(request), "the state of an HA group")?;
    }
    Ok(numbered_alike)
}

/// A refusal is logged and the rest is still said; anything else ends the connection.
fn accept(result: Result<Reply, IpcError>, what: &str) -> Result<Option<Reply>, IpcError> {
    match result {
        Ok(reply) => Ok(Some(reply)),
        Err(IpcError::Refused(refusal)) => {
            tracing::error!(%refusal, "the data process refuses {what}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
