//! The connection to the data process: made, greeted, told everything, lost, made again. The data process is in no
//! hurry: it forwards by itself from its own reading of the configuration.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use ctl::protocol::{Refusal, RefusalKind};
use dataplane::config::{Forwarding, Intent};
use dataplane::time::Instant;

use super::groups::Groups;
use crate::ipc::{Client, Event, IpcError, Reply, Request};

/// Between two attempts to connect.
const CONNECT_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The connection, or the wish for one.
#[derive(Debug)]
pub struct DataLink {
    path: PathBuf,
    node: String,
    client: Option<Client>,
    connections: u64,
    connect_at: Instant,
    /// Its process may be dying still, and its socket take connections that nobody will answer.
    just_lost: bool,
    /// Told once per loss, not per attempt.
    complained: bool,
}

impl DataLink {
    /// Not connected yet; the first [`Self::turn`] tries.
    #[must_use]
    pub const fn new(path: PathBuf, node: String, now: Instant) -> Self {
        Self {
            path,
            node,
            client: None,
            connections: 0,
            connect_at: now,
            just_lost: false,
            complained: false,
        }
    }

    /// Connects when it is time to, and says everything there is to say.
    pub fn turn(
        &mut self,
        now: Instant,
        intent: &Intent,
        forwarding: Option<&Forwarding>,
        groups: &mut Groups,
    ) {
        if core::mem::take(&mut self.just_lost) {
            self.connect_at = now + CONNECT_AGAIN_AFTER;
        }
        if self.client.is_some() || now < self.connect_at {
            return;
        }
        self.connect_at = now + CONNECT_AGAIN_AFTER;
        match self.connect(intent, forwarding, groups) {
            Ok(client) => {
                tracing::info!(boot = client.boot(), "connected to the data process");
                self.client = Some(client);
                self.connections += 1;
                self.complained = false;
            }
            Err(error) => {
                if !self.complained {
                    tracing::warn!(%error, path = %self.path.display(), "no connection to the data process yet");
                }
                self.complained = true;
            }
        }
    }

    fn connect(
        &self,
        intent: &Intent,
        forwarding: Option<&Forwarding>,
        groups: &mut Groups,
    ) -> Result<Client, IpcError> {
        let mut client = Client::connect(&self.path, &self.node, PATIENCE)?;
        // First what runs, so that nothing running is overridden.
        let Reply::Groups(told) = client.call(Request::Groups)? else {
            return Err(IpcError::WrongReply);
        };
        accept(
            client.call(Request::SetIntent(Box::new(intent.clone()))),
            "the configuration",
        )?;
        if let Some(forwarding) = forwarding {
            accept(
                client.call(Request::SetForwarding(Box::new(forwarding.clone()))),
                "routes and neighbours",
            )?;
        }
        for request in groups.settle(&told) {
            accept(client.call(request), "the state of an HA group")?;
        }
        Ok(client)
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

    /// When [`Self::turn`] has something to do.
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

/// A refusal is logged and the rest is still said; anything else ends the connection.
fn accept(result: Result<Reply, IpcError>, what: &str) -> Result<(), IpcError> {
    match result {
        Ok(_) => Ok(()),
        Err(IpcError::Refused(refusal)) => {
            tracing::error!(%refusal, "the data process refuses {what}");
            Ok(())
        }
        Err(error) => Err(error),
    }
}
