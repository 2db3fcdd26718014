//! A data process played by threads: what its lifeline and its socket say comes apart as it does when one is killed.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;
use crate::dpdk::Lifeline;
use crate::ipc::Server;

/// A directory of its own for each test, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("twinpath-link-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn server(&self) -> Server {
        Server::bind(&self.0.join("dataplane.sock")).unwrap()
    }

    fn link(&self, now: Instant) -> DataLink {
        let (socket, lifeline) = (self.0.join("dataplane.sock"), self.0.join("dataplane.alive"));
        DataLink::new(socket, lifeline, "n".into(), now)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// A data process. Its thread holds the lifeline, so that the thread's end releases it as a kill does.
struct Played {
    thread: JoinHandle<Server>,
    end: Sender<()>,
}

impl Played {
    /// Serves from then on, with a lifeline or as a release that has none.
    fn start(dir: &Dir, server: Server, boot: u64, lifeline: bool) -> Self {
        let path = dir.0.join("dataplane.alive");
        let ((held, is_held), (end, ended)) = (channel(), channel());
        let thread = std::thread::spawn(move || {
            if lifeline {
                std::mem::forget(Lifeline::hold(&path, boot).unwrap());
            }
            held.send(()).unwrap();
            serve(server, boot, &ended)
        });
        is_held.recv().unwrap();
        Self { thread, end }
    }

    /// As `kill -9` does at first: nobody answers any more, and every socket is still open.
    fn die(self) -> Server {
        drop(self.end);
        self.thread.join().unwrap()
    }
}

fn serve(mut server: Server, boot: u64, ended: &Receiver<()>) -> Server {
    while ended.try_recv() == Err(TryRecvError::Empty) {
        for incoming in server.poll() {
            let reply = match incoming.request {
                Request::Hello { .. } => Reply::Hello { boot },
                Request::Groups => Reply::Groups(vec![]),
                Request::SetConfig { .. } => Reply::LeftOut(vec![]),
                other => unreachable!("{other:?}"),
            };
            server.reply(incoming.ticket, Ok(reply));
        }
        std::thread::yield_now();
    }
    server
}

const START: Instant = Instant::from_secs(100);

fn ms(ms: u64) -> Instant {
    START + Duration::from_millis(ms)
}

/// Connects, and says whether to another process than before.
fn connect(link: &mut DataLink, now: Instant) -> Option<bool> {
    let greeted = link.greet(now)?;
    let restarted = greeted.restarted;
    let config = ConfigText {
        file: "f".into(),
        text: String::new(),
    };
    link.introduce(greeted, config, std::iter::empty(), &mut Groups::new([]));
    assert!(link.connection().is_some(), "introduced");
    Some(restarted)
}

/// Whether there is something to do within `wait_ms`.
fn woken(link: &DataLink, wait_ms: u16) -> bool {
    let mut fds: Vec<_> = link
        .readable()
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
        .collect();
    poll(&mut fds, PollTimeout::from(wait_ms)).unwrap() > 0
}

fn is_lost(link: &mut DataLink) -> bool {
    assert!(woken(link, 20_000), "nobody told of the end");
    link.events();
    link.connection().is_none()
}

#[test]
fn a_dead_process_is_lost_at_once_and_not_greeted_before_its_sockets_are_closed() {
    let dir = Dir::new("dead");
    let mut link = dir.link(START);
    let played = Played::start(&dir, dir.server(), 1, true);
    assert_eq!(connect(&mut link, START), Some(false));
    assert!(!woken(&link, 20), "it lives");
    let mut server = played.die();
    assert!(is_lost(&mut link));
    // A greeting would be there to read, and wait for its answer until the link's patience has ended.
    for now in [0, 1, 200, 9_999].map(ms) {
        assert!(link.greet(now).is_none());
        assert!(link.next_turn() > Some(now), "no turn for nothing");
    }
    assert!(!woken(&link, 20), "no turn for nothing");
    assert!(server.poll().is_empty());
    assert_eq!(server.clients(), 1, "the connection that was");
    drop(server);
    assert!(woken(&link, 20_000), "its sockets are closed");
    assert!(
        link.greet(ms(300)).is_none(),
        "those that listen may be closed last"
    );
    assert_eq!(link.next_turn(), Some(ms(500)));
    assert!(!woken(&link, 0));
    let next = Played::start(&dir, dir.server(), 2, true);
    assert_eq!(connect(&mut link, ms(500)), Some(true));
    assert!(!woken(&link, 20), "the other one's death is over");
    drop(next.die());
    assert!(is_lost(&mut link));
}

#[test]
fn sockets_that_a_dead_process_never_closes_are_waited_for_no_longer_than_that() {
    let dir = Dir::new("stuck");
    let mut link = dir.link(START);
    let played = Played::start(&dir, dir.server(), 1, true);
    connect(&mut link, START);
    let server = played.die();
    assert!(is_lost(&mut link));
    // Whoever it is: somebody answers there again.
    let next = Played::start(&dir, server, 2, true);
    assert!(link.greet(START).is_none());
    assert!(link.greet(START + DYING_MAX).is_none());
    let end = START + DYING_MAX + CONNECT_AGAIN_AFTER;
    assert_eq!(link.next_turn(), Some(end));
    assert_eq!(connect(&mut link, end), Some(true));
    drop(next.die());
}

#[test]
fn nothing_is_asked_of_a_dead_process() {
    let dir = Dir::new("asked");
    let mut link = dir.link(START);
    let played = Played::start(&dir, dir.server(), 1, true);
    connect(&mut link, START);
    let mut server = played.die();
    assert!(woken(&link, 20_000));
    let refused = link.call(Request::Roles).unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Unreachable);
    assert!(server.poll().is_empty());
}

#[test]
fn without_a_lifeline_the_socket_tells() {
    let dir = Dir::new("without");
    let mut link = dir.link(START);
    let played = Played::start(&dir, dir.server(), 1, false);
    assert_eq!(connect(&mut link, START), Some(false));
    let server = played.die();
    assert!(!woken(&link, 50));
    drop(server);
    assert!(is_lost(&mut link));
    assert!(link.greet(START).is_none());
    assert_eq!(link.next_turn(), Some(ms(200)));
}

#[test]
fn a_process_that_is_connected_again_is_watched_on_by_the_same_thread() {
    let dir = Dir::new("again");
    let mut link = dir.link(START);
    let played = Played::start(&dir, dir.server(), 1, true);
    connect(&mut link, START);
    // Only the first watch can have begun: there is nothing to begin another one by.
    std::fs::remove_file(dir.0.join("dataplane.alive")).unwrap();
    link.lose(&IpcError::TimedOut);
    assert!(link.greet(ms(300)).is_none());
    assert_eq!(connect(&mut link, ms(500)), Some(false));
    let server = played.die();
    assert!(is_lost(&mut link));
    drop(server);
}
