//! `events`: reads the journal to its end, and with `--follow` goes on until it is interrupted. A control process that
//! restarts is waited for; what it missed meanwhile is read from the data process, which kept it.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use ctl::client::{Client, ClientError};
use ctl::journal::{Gap, Seen};
use ctl::protocol::{Command, Reply};
use ctl::render::event_line;
use serde_json::json;

/// Between two questions when nothing has happened.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// How events are shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) follow: bool,
    pub(crate) json: bool,
}

/// Prints events until the end of the list, or until standard output is closed.
///
/// # Errors
/// When the node can't be reached; while following only at first.
pub(crate) fn events(socket: &Path, from: u64, manner: Manner) -> Result<(), ClientError> {
    let mut seen = Seen::default();
    let mut node = Client::connect(socket)?;
    let mut from = from;
    // Of one loss: a control process without its data process refuses each question at once.
    let mut told = false;
    loop {
        let page = match node.call(&Command::Journal { from }) {
            Ok(Reply::Journal(page)) => page,
            Ok(_) => return Ok(()),
            Err(error) if !manner.follow => return Err(error),
            Err(error) => {
                if !told {
                    eprintln!("twinpathctl: {error}; trying again");
                }
                told = true;
                node = again(socket);
                continue;
            }
        };
        told = false;
        let gap = seen.take(&page);
        from = seen.next();
        let mut lines: Vec<String> = gap_line(gap, manner.json).into_iter().collect();
        if gap != Gap::Restarted {
            lines.extend(page.rows.iter().map(|row| {
                if manner.json {
                    serde_json::to_string(row).unwrap_or_default()
                } else {
                    event_line(row)
                }
            }));
        }
        if !show(&lines) {
            return Ok(());
        }
        if page.rows.is_empty() && gap != Gap::Restarted {
            if !manner.follow {
                return Ok(());
            }
            pause();
        }
    }
}

/// The connection, once somebody serves it again.
fn again(socket: &Path) -> Client {
    loop {
        pause();
        if let Ok(node) = Client::connect(socket) {
            return node;
        }
    }
}

fn gap_line(gap: Gap, json: bool) -> Option<String> {
    Some(match gap {
        Gap::None => return None,
        Gap::Missed(events) if json => json!({ "missed": events }).to_string(),
        Gap::Missed(events) => format!("({events} events missed)"),
        Gap::Restarted if json => json!({ "restarted": true }).to_string(),
        Gap::Restarted => "(the data process was restarted)".to_owned(),
    })
}

/// False when the reader has closed its end.
fn show(lines: &[String]) -> bool {
    let mut out = std::io::stdout();
    let written = lines.iter().try_for_each(|line| writeln!(out, "{line}"));
    written.and_then(|()| out.flush()).is_ok()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a program that only waits for an answer has no turns"
)]
fn pause() {
    std::thread::sleep(LOOK_AGAIN_AFTER);
}
