//! The asking end of the operator's protocol: one connection, one command at a time, long lists page by page.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::protocol::{
    Command, PAGE_ROWS_MAX, ProtocolError, Refusal, Reply, decode_response, encode_request, read_frame,
    write_frame,
};
use crate::report::{Page, Rows};

/// Longest wait for one answer. Longer than the control process waits for the data process.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody serves the socket.
    #[error("no node answers at {0}: {1}; is twinpath-control running?")]
    Connect(std::path::PathBuf, std::io::Error),
    /// The conversation failed.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The node closed the connection without an answer.
    #[error("the node closed the connection without an answer")]
    Closed,
    /// The node says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A connection to a control process.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects to a control socket.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let failed = |e| ClientError::Connect(socket.to_owned(), e);
        let stream = UnixStream::connect(socket).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        Ok(Self { stream })
    }

    /// Carries out one command; of a long list, one page.
    ///
    /// # Errors
    /// The node's refusal, or that the conversation failed.
    pub fn call(&mut self, command: &Command) -> Result<Reply, ClientError> {
        write_frame(&mut self.stream, &encode_request(command)?)?;
        let json = read_frame(&mut self.stream)?.ok_or(ClientError::Closed)?;
        Ok(decode_response(&json)??)
    }

    /// Carries out a command and reads a long list to its end, or to the limit of its page.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn call_whole(&mut self, mut command: Command) -> Result<Reply, ClientError> {
        let Some(mut left) = page_of(&mut command).map(|page| page.limit) else {
            return self.call(&command);
        };
        let mut whole: Option<Reply> = None;
        loop {
            if let Some(page) = page_of(&mut command) {
                page.limit = left.min(PAGE_ROWS_MAX);
            }
            let reply = self.call(&command)?;
            let (read, next) = extent(&reply);
            left = left.saturating_sub(read);
            whole = Some(match whole {
                Some(before) => joined(before, reply),
                None => reply,
            });
            match (whole, next) {
                (Some(whole), None) => return Ok(whole),
                (Some(whole), Some(_)) if left == 0 => return Ok(whole),
                (kept, next) => {
                    whole = kept;
                    if let Some(page) = page_of(&mut command) {
                        page.cursor = next;
                    }
                }
            }
        }
    }
}

const fn page_of(command: &mut Command) -> Option<&mut Page> {
    match command {
        Command::Conntracks { page, .. }
        | Command::NatUsers { page, .. }
        | Command::NatBlocks { page, .. } => Some(page),
        _ => None,
    }
}

/// Rows in an answer, and where the next ones start.
fn extent(reply: &Reply) -> (u32, Option<u64>) {
    let (rows, next) = match reply {
        Reply::Conntracks(r) => (r.rows.len(), r.next),
        Reply::NatUsers(r) => (r.rows.len(), r.next),
        Reply::NatBlocks(r) => (r.rows.len(), r.next),
        _ => (0, None),
    };
    (u32::try_from(rows).unwrap_or(u32::MAX), next)
}

fn joined(before: Reply, after: Reply) -> Reply {
    match (before, after) {
        (Reply::Conntracks(a), Reply::Conntracks(b)) => Reply::Conntracks(chained(a, b)),
        (Reply::NatUsers(a), Reply::NatUsers(b)) => Reply::NatUsers(chained(a, b)),
        (Reply::NatBlocks(a), Reply::NatBlocks(b)) => Reply::NatBlocks(chained(a, b)),
        (_, after) => after,
    }
}

fn chained<T>(mut before: Rows<T>, after: Rows<T>) -> Rows<T> {
    before.rows.extend(after.rows);
    Rows {
        rows: before.rows,
        next: after.next,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::protocol::{decode_request, encode_response};
    use crate::report::UserRow;

    /// A node with `total` subscribers, that never gives more than 3 rows at once.
    fn ask_for(limit: u32, total: u64) -> (usize, Option<u64>) {
        let path = std::env::temp_dir().join(format!("twinpath-ctl-{}-{limit}-{total}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let node = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while let Some(json) = read_frame(&mut stream).unwrap() {
                let Command::NatUsers { page, .. } = decode_request(&json).unwrap() else {
                    unreachable!()
                };
                let start = page.cursor.unwrap_or(0);
                let end = total.min(start + u64::from(page.limit.min(3)));
                let row = UserRow {
                    subscriber: "100.64.0.1".parse().unwrap(),
                    pool: "p".into(),
                    address: "198.51.100.1".parse().unwrap(),
                    blocks: 1,
                    ports_used: 0,
                    mappings: 0,
                };
                let rows = (start..end).map(|_| row.clone()).collect();
                let reply = Reply::NatUsers(Rows {
                    rows,
                    next: (end < total).then_some(end),
                });
                write_frame(&mut stream, &encode_response(&Ok(reply)).unwrap()).unwrap();
            }
        });
        let mut client = Client::connect(&path).unwrap();
        let command = Command::NatUsers {
            vrf: "main".into(),
            page: Page { limit, cursor: None },
        };
        let Reply::NatUsers(rows) = client.call_whole(command).unwrap() else {
            unreachable!()
        };
        drop(client);
        node.join().unwrap();
        std::fs::remove_file(path).unwrap();
        (rows.rows.len(), rows.next)
    }

    #[test]
    fn a_long_list_is_read_page_by_page_to_its_end_or_its_limit() {
        assert_eq!(ask_for(u32::MAX, 10), (10, None));
        assert_eq!(ask_for(7, 10), (7, Some(7)));
        assert_eq!(ask_for(10, 10), (10, None));
        assert_eq!(ask_for(5, 0), (0, None));
    }
}
