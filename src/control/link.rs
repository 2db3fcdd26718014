//! The connection to the data process: made, greeted, told everything, lost, made again. The data process is in no
//! hurry: it forwards by itself from its own reading of the configuration.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use ctl::protocol::{Refusal, RefusalKind};
use dataplane::config::Forwarding;
use dataplane::time::Instant;

use super::groups::Groups;
use crate::ipc::{Client, ConfigText, Event, IpcError, Reply, Request};

/// Between two attempts to connect.
const CONNECT_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// A data process that answers, and hasn't been told anything.
#[derive(Debug)]
pub struct Greeted {
    client: Client,
    /// It isn't the one that was connected before.
    pub restarted: bool,
}

/// The connection, or the wish for one.
#[derive(Debug)]
pub struct DataLink {
    path: PathBuf,
    node: String,
    client: Option<Client>,
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
}

impl DataLink {
    /// Not connected yet; the first [`Self::greet`] tries.
    #[must_use]
    pub const fn new(path: PathBuf, node: String, now: Instant) -> Self {
        Self {
            path,
            node,
            client: None,
            connections: 0,
            connect_at: now,
            boot: None,
            numbered_alike: true,
            just_lost: false,
            complained: false,
        }
    }

    /// Connects when it is time to. Nothing has been said yet: [`Self::introduce`] follows.
    pub fn greet(&mut self, now: Instant) -> Option<Greeted> {
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

    /// Says everything there is to say.
    pub fn introduce(
        &mut self,
        mut greeted: Greeted,
        config: ConfigText,
        forwarding: Option<&Forwarding>,
        groups: &mut Groups,
    ) {
        let client = &mut greeted.client;
        match say_all(client, config, forwarding, groups) {
            Ok(numbered_alike) => {
                tracing::info!(boot = client.boot(), "connected to the data process");
                self.boot = Some(client.boot());
                self.client = Some(greeted.client);
                self.connections += 1;
                self.numbered_alike = numbered_alike;
                self.complained = false;
            }
            Err(error) => self.complain(&error),
        }
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

    /// Tells new reachability, when there is somebody to tell.
    pub fn tell(&mut self, forwarding: &Forwarding) {
        if self.client.is_some()
            && self.numbered_alike
            && let Err(error) = self.call(Request::SetForwarding(Box::new(forwarding.clone())))
        {
            tracing::warn!(%error, "routes and neighbours were not taken");
        }
    }

    /// The events since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        if let Some(client) = &mut self.client
            && let Err(error) = client.poll(|event| events.push(event))
        {
            self.lose(&error);
        }
        events
    }

    /// Readable when an event has come.
    #[must_use]
    pub fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.client.as_ref().map(Client::readable)
    }

    /// When [`Self::greet`] has something to do.
    #[must_use]
    pub fn next_turn(&self) -> Option<Instant> {
        self.client.is_none().then_some(self.connect_at)
    }

    fn lose(&mut self, error: &IpcError) {
        tracing::warn!(%error, "lost the data process; connecting again");
        self.client = None;
        self.just_lost = true;
    }
}

/// Returns whether both processes number interfaces and VRFs alike.
fn say_all(
    client: &mut Client,
    config: ConfigText,
    forwarding: Option<&Forwarding>,
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
    if let Some(forwarding) = forwarding.filter(|_| numbered_alike) {
        let forwarding = Box::new(forwarding.clone());
        accept(
            client.call(Request::SetForwarding(forwarding)),
            "routes and neighbours",
        )?;
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
