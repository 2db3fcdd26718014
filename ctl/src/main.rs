//! `twinpathctl`: reads the words, asks the node, prints the answer. Exit code 0: done; 1: there is no such thing, or
//! the node refuses; 2: the words aren't understood; 3: the node can't be reached. `compare` has its own: 0 equal, 1
//! different, 2 unknown.

mod follow;
mod manual;
mod words;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, ExitCode};
use std::time::Duration;

use clap::{CommandFactory, Parser};
use ctl::client::{Client, ClientError};
use ctl::job_report::Verdict;
use ctl::key::{KeyError, PrivateKey};
use ctl::protocol::{Command, ProtocolError, RefusalKind, Reply};
use ctl::switchover::SwitchoverPhase;
use ctl::{paths, render};

use crate::follow::Manner;
use crate::words::{Config, Key, Line, Verb};

const REFUSED: u8 = 1;
/// Of `compare`: the tables differ; it couldn't be found out.
const DIFFERENT: u8 = 1;
const UNKNOWN: u8 = 2;
const USAGE: u8 = 2;
const UNREACHABLE: u8 = 3;

/// Between two looks at a job or a switchover.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// A message and the exit code that goes with it.
struct Failure(u8, String);

fn main() -> ExitCode {
    let line = Line::parse();
    match run(line) {
        Ok(code) => code,
        Err(Failure(code, message)) => {
            eprintln!("twinpathctl: {message}");
            ExitCode::from(code)
        }
    }
}

fn run(line: Line) -> Result<ExitCode, Failure> {
    let command = match line.verb {
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut Line::command(), "twinpathctl", &mut std::io::stdout());
            return Ok(ExitCode::SUCCESS);
        }
        Verb::Manual { folder } => {
            return manual::write(Line::command(), &folder)
                .map(|()| ExitCode::SUCCESS)
                .map_err(|error| Failure(USAGE, format!("{}: {error}", folder.display())));
        }
        Verb::Key(key) => return key_line(key, line.json),
        Verb::Config(Config::Check { file }) => {
            let named = line.node.is_some() || line.socket.is_some();
            if !named {
                return check_here(&file, line.json);
            }
            let (file, text) = read(&file)?;
            Command::ConfigCheck { file, text }
        }
        Verb::Config(Config::Diff { file }) => {
            let (file, text) = read(&file)?;
            Command::ConfigDiff { file, text }
        }
        Verb::Config(Config::Apply { file, confirm_within }) => {
            let (file, text) = read(&file)?;
            let within_s = confirm_within;
            Command::ConfigApply { file, text, within_s }
        }
        Verb::Config(Config::Confirm) => Command::ConfigConfirm,
        Verb::Config(Config::Rollback) => Command::ConfigRollBack,
        Verb::Config(Config::Show { settings: false }) => Command::ConfigShow,
        Verb::Config(Config::Show { settings: true }) => Command::ConfigSettings,
        Verb::Events(words) => {
            let socket = socket(line.node.as_deref(), line.socket)?;
            let manner = Manner {
                follow: words.follow,
                json: line.json,
            };
            return follow::events(&socket, words.from, manner)
                .map(|()| ExitCode::SUCCESS)
                .map_err(failure);
        }
        Verb::Show(show) => show.command(),
        Verb::Flush(flush) => flush.command(),
        Verb::Set(set) => set.command(),
        Verb::Peer(peer) => peer.command(),
        Verb::Port(port) => port.command(),
        Verb::Worker(worker) => worker.command(),
        Verb::Compare(compare) => compare.command(),
        Verb::Resync(resync) => resync
            .command()
            .ok_or_else(|| Failure(USAGE, "\"all\" stands alone".to_owned()))?,
        Verb::Hold(grip) => grip.command(true),
        Verb::Release(grip) => grip.command(false),
        Verb::Switchover(switchover) => switchover.command(),
        Verb::KeepalivedConfig { group } => Command::KeepalivedConfig {
            group,
            ctl: own_path(),
        },
        Verb::KeepalivedCheck => Command::KeepalivedCheck,
    };
    let checking = matches!(command, Command::ConfigCheck { .. });
    let socket = socket(line.node.as_deref(), line.socket)?;
    let comparing = matches!(command, Command::Compare(_));
    let mut node = Client::connect(&socket).map_err(failure)?;
    if let Command::ConfigApply { file, text, .. } = &command
        && !line.json
    {
        let (file, text) = (file.clone(), text.clone());
        let changes = node.call(&Command::ConfigDiff { file, text });
        print(&changes.map_err(failure)?, false);
    }
    let reply = node
        .call_whole(command)
        .and_then(|reply| wait_for_job(&mut node, reply))
        .and_then(|reply| wait_for_switchover(&mut node, reply))
        .map_err(failure)
        .map_err(|Failure(code, message)| {
            let unknown = comparing && code == REFUSED;
            Failure(if unknown { UNKNOWN } else { code }, message)
        })?;
    print(&reply, line.json);
    Ok(match &reply {
        Reply::Lines(lines) if checking && !lines.is_empty() => ExitCode::from(REFUSED),
        Reply::Compare(report) => ExitCode::from(match report.verdict() {
            Verdict::Equal => 0,
            Verdict::Different => DIFFERENT,
            Verdict::Unknown => UNKNOWN,
        }),
        Reply::Switchover(report) if report.phase != SwitchoverPhase::Done => ExitCode::from(REFUSED),
        Reply::Resync(outcome) if outcome.cause.is_some() => ExitCode::from(REFUSED),
        Reply::Rebalance(report) if report.failed() > 0 => ExitCode::from(REFUSED),
        _ => ExitCode::SUCCESS,
    })
}

/// Asks how far a job is until it is over; says so on a terminal.
#[expect(
    clippy::disallowed_methods,
    reason = "a program that only waits for an answer has no turns"
)]
fn wait_for_job(node: &mut Client, reply: Reply) -> Result<Reply, ClientError> {
    let Reply::Job(number) = reply else {
        return Ok(reply);
    };
    let watched = std::io::stderr().is_terminal();
    loop {
        let reply = node.call(&Command::Job { number })?;
        let (finished, done, total) = match &reply {
            Reply::Compare(report) => (
                report.finished,
                report.parts.iter().map(|p| p.slots_done).sum(),
                report.parts.iter().map(|p| p.slots_total).sum(),
            ),
            Reply::Resync(outcome) => {
                let total = outcome.slots_sent + outcome.slots_asked;
                (outcome.finished, total.saturating_sub(outcome.slots_open), total)
            }
            Reply::Rebalance(report) => {
                let total = u32::try_from(report.moves.len()).unwrap_or(u32::MAX);
                let over = u32::try_from(report.moved() + report.failed()).unwrap_or(u32::MAX);
                (report.finished, over, total)
            }
            _ => return Ok(reply),
        };
        if watched {
            let end = if finished { "\n" } else { "" };
            eprint!("\r{done} of {total} slots{end}");
        }
        if finished {
            return Ok(reply);
        }
        std::thread::sleep(LOOK_AGAIN_AFTER);
    }
}

/// Asks how far a switchover is until it is over.
#[expect(
    clippy::disallowed_methods,
    reason = "a program that only waits for an answer has no turns"
)]
fn wait_for_switchover(node: &mut Client, mut reply: Reply) -> Result<Reply, ClientError> {
    while let Reply::Switchover(report) = &reply
        && !report.phase.is_over()
    {
        std::thread::sleep(LOOK_AGAIN_AFTER);
        let name = report.group.clone();
        reply = node.call(&Command::SwitchoverReport { name })?;
    }
    Ok(reply)
}

fn failure(error: ClientError) -> Failure {
    let code = match &error {
        ClientError::Connect(..) | ClientError::Closed | ClientError::Protocol(ProtocolError::Io(_)) => {
            UNREACHABLE
        }
        ClientError::Refused(refusal) if refusal.kind == RefusalKind::Unreachable => UNREACHABLE,
        ClientError::Refused(_) | ClientError::Protocol(_) => REFUSED,
    };
    Failure(code, error.to_string())
}

fn read(file: &Path) -> Result<(String, String), Failure> {
    let name = file.display().to_string();
    match std::fs::read_to_string(file) {
        Ok(text) => Ok((name, text)),
        Err(error) => Err(Failure(USAGE, format!("{name} can't be read: {error}"))),
    }
}

/// This program, as others can run it.
fn own_path() -> String {
    std::env::current_exe().map_or_else(|_| "twinpathctl".to_owned(), |path| path.display().to_string())
}

/// The socket of the node that is meant.
fn socket(node: Option<&str>, socket: Option<PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(socket) = socket {
        return Ok(socket);
    }
    if let Some(node) = node {
        if node.is_empty() || node.contains('/') || node.starts_with('.') {
            return Err(Failure(USAGE, format!("\"{node}\" can't be the name of a node")));
        }
        return Ok(paths::control_socket(node));
    }
    let mut nodes: Vec<String> = std::fs::read_dir(paths::run_dir())
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|node| paths::control_socket(node).exists())
        .collect();
    nodes.sort();
    match nodes.as_slice() {
        [node] => Ok(paths::control_socket(node)),
        [] => Err(Failure(
            UNREACHABLE,
            format!("no node runs on this machine ({})", paths::run_dir().display()),
        )),
        several => Err(Failure(
            USAGE,
            format!("say which node with --node: {}", several.join(", ")),
        )),
    }
}

fn print(reply: &Reply, json: bool) {
    let text = if json {
        format!("{:#}\n", render::json(reply))
    } else {
        render::text(reply)
    };
    // A reader that has seen enough, such as `head`, is no failure.
    let _closed_early = std::io::stdout().write_all(text.as_bytes());
}

/// Makes or reads a private key, and prints its public half as it stands in a configuration.
fn key_line(words: Key, json: bool) -> Result<ExitCode, Failure> {
    let refused = |e: KeyError| Failure(REFUSED, format!("{e}; {}", e.advice()));
    let key = match words {
        Key::Generate { file } => {
            let key = PrivateKey::generate().map_err(refused)?;
            key.write(&file).map_err(refused)?;
            key
        }
        Key::Show { file } => PrivateKey::read(&file).map_err(refused)?,
    };
    let public = key.public().to_string();
    if json {
        println!("{}", serde_json::json!({ "public_key": public }));
    } else {
        println!("{public}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks a file without a node: with the control process's own reader, which is installed beside this program.
fn check_here(file: &Path, json: bool) -> Result<ExitCode, Failure> {
    let beside = std::env::current_exe()
        .ok()
        .map(|me| me.with_file_name("twinpath-control"));
    let program = beside
        .filter(|path| path.exists())
        .unwrap_or_else(|| PathBuf::from("twinpath-control"));
    let checked = Process::new(&program)
        .arg("--check")
        .arg("--config")
        .arg(file)
        .output();
    let checked =
        checked.map_err(|e| Failure(UNREACHABLE, format!("{} can't be run: {e}", program.display())))?;
    let errors = String::from_utf8_lossy(&checked.stderr);
    print(&Reply::Lines(errors.lines().map(str::to_owned).collect()), json);
    Ok(if checked.status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(REFUSED)
    })
}
