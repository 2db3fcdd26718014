//! Packets for the peer that is active, and fences between them.

use dataplane::redirect::{Bytes, Fence, Redirect};
use dataplane::time::Instant;

use super::{Lane, State};
use crate::fence::put_fence;
use crate::redirect::put_redirect;
use crate::wire::Wire;

impl<W: Wire> Lane<W> {
    /// Bytes that wait for the network.
    pub(crate) fn bytes_queued(&self) -> usize {
        if let State::Up { conn, .. } = &self.state {
            conn.out.queued()
        } else {
            0
        }
    }

    /// Sends a packet; false when there is no connection, or the peer doesn't take any.
    pub(crate) fn redirect(&mut self, now: Instant, redirect: &Redirect, packet: Bytes<'_>) -> bool {
        let State::Up { conn, peering, .. } = &mut self.state else {
            return false;
        };
        let takes = peering.takes_redirects();
        if takes {
            // No record of what this node holds: nobody waits for the peer to have it.
            conn.put_aside(now, |out| put_redirect(out, redirect, packet));
        }
        takes
    }

    /// Sends a fence, behind all packets; false when there is no connection, or the peer doesn't know fences.
    pub(crate) fn fence(&mut self, now: Instant, fence: &Fence) -> bool {
        let State::Up { conn, peering, .. } = &mut self.state else {
            return false;
        };
        let takes = peering.takes_redirects();
        if takes {
            conn.put_aside(now, |out| put_fence(out, fence));
        }
        takes
    }
}
