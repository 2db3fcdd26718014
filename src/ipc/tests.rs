use std::path::PathBuf;
use std::time::Duration;

use ctl::protocol::{Refusal, RefusalKind};
use ctl::report::{ConntrackFilter, FlowState, GroupState, Page, RoleRow, RoleState, Rows};
use dataplane::config::{Forwarding, ForwardingPart, InterfaceId, Neighbor};
use proptest::prelude::*;

use super::*;

/// A directory of its own for each test, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("twinpath-ipc-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("node/dataplane.sock")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Serves `requests` requests with `answer`, in the calling thread's stead.
fn serve(
    mut server: Server,
    requests: usize,
    mut answer: impl FnMut(&mut Server, Incoming) + Send + 'static,
) -> std::thread::JoinHandle<Server> {
    std::thread::spawn(move || {
        let mut done = 0;
        while done < requests {
            for incoming in server.poll() {
                done += 1;
                answer(&mut server, incoming);
            }
            std::thread::yield_now();
        }
        server
    })
}

fn role_event() -> Event {
    Event::RoleChanged(RoleRow {
        vrf: "main".into(),
        ha_group: Some("group1".into()),
        role: RoleState::Master,
        term: 257,
        ready: true,
        cause: "operator".into(),
        in_doubt: false,
    })
}

#[test]
fn a_call_gets_its_own_answer_and_keeps_the_events_that_came_before_it() {
    let dir = Dir::new("call");
    let server = Server::bind(&dir.socket()).unwrap();
    let thread = serve(server, 3, |server, incoming| match incoming.request {
        Request::Hello { node } => {
            assert_eq!(node, "node1");
            server.reply(incoming.ticket, Ok(Reply::Hello { boot: 7 }));
        }
        Request::Roles => {
            server.broadcast(role_event());
            server.reply(incoming.ticket, Ok(Reply::Roles(vec![])));
        }
        other => {
            server.reply(
                incoming.ticket,
                Err(Refusal::not_found("VRF", &format!("{other:?}"))),
            );
        }
    });
    let mut client = Client::connect(&dir.socket(), "node1", Duration::from_secs(10)).unwrap();
    assert_eq!(client.boot(), 7);
    assert_eq!(client.call(Request::Roles).unwrap(), Reply::Roles(vec![]));
    let refused = client.call(Request::Pools { vrf: "x".into() });
    assert!(matches!(refused, Err(IpcError::Refused(r)) if r.kind == RefusalKind::NotFound));
    let mut events = Vec::new();
    client.poll(|e| events.push(e)).unwrap();
    assert_eq!(events, [role_event()]);
    drop(thread.join().unwrap());
    assert!(matches!(client.poll(|_| ()), Err(IpcError::Closed)));
    assert!(!dir.socket().exists(), "the socket file goes with its server");
}

#[test]
fn a_message_of_several_megabytes_arrives_whole() {
    let dir = Dir::new("large");
    let forwarding = Forwarding {
        neighbors: (0..300_000_u32)
            .map(|i| Neighbor {
                interface: InterfaceId(1),
                address: std::net::Ipv4Addr::from(i).into(),
                mac: [2, 0, 0, 0, 0, 1],
            })
            .collect(),
        ..Forwarding::default()
    };
    let part = ForwardingPart::from(forwarding);
    let sent = part.clone();
    let server = Server::bind(&dir.socket()).unwrap();
    let thread = serve(server, 2, move |server, incoming| match incoming.request {
        Request::Hello { .. } => server.reply(incoming.ticket, Ok(Reply::Hello { boot: 1 })),
        Request::SetForwarding(got) => {
            assert_eq!(*got, sent);
            server.reply(incoming.ticket, Ok(Reply::Done));
        }
        _ => unreachable!(),
    });
    let mut client = Client::connect(&dir.socket(), "n", Duration::from_secs(30)).unwrap();
    assert_eq!(
        client.call(Request::SetForwarding(Box::new(part))).unwrap(),
        Reply::Done
    );
    thread.join().unwrap();
}

#[test]
fn a_foreign_version_is_told_so_and_closed() {
    use std::io::{Read, Write};
    let dir = Dir::new("version");
    let mut server = Server::bind(&dir.socket()).unwrap();
    let mut stream = std::os::unix::net::UnixStream::connect(dir.socket()).unwrap();
    stream.write_all(&[0, 0, 0, 3, 0, 99, 0]).unwrap();
    assert!(server.poll().is_empty());
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains("speaks version 99"), "{text}");
    assert_eq!(server.clients(), 0);
}

#[test]
fn a_running_owner_keeps_its_socket_and_a_dead_one_loses_it() {
    let dir = Dir::new("claim");
    let server = Server::bind(&dir.socket()).unwrap();
    assert!(matches!(Server::bind(&dir.socket()), Err(IpcError::InUse(_))));
    drop(server);
    // A file without a listener, as `kill -9` leaves it.
    drop(std::os::unix::net::UnixListener::bind(dir.socket()).unwrap());
    assert!(dir.socket().exists());
    let server = Server::bind(&dir.socket()).unwrap();
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(dir.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    drop(server);
}

#[test]
fn a_client_that_never_reads_misses_events_and_costs_bounded_memory() {
    let dir = Dir::new("deaf");
    let mut server = Server::bind(&dir.socket()).unwrap();
    let _deaf = std::os::unix::net::UnixStream::connect(dir.socket()).unwrap();
    server.poll();
    for _ in 0..200_000 {
        server.broadcast(role_event());
    }
    assert!(server.events_left_out() > 0);
    assert_eq!(server.clients(), 1);
}

fn some_request() -> impl Strategy<Value = Request> {
    let filter =
        (any::<Option<u16>>(), any::<Option<u8>>(), any::<bool>()).prop_map(|(sport, protocol, s)| {
            ConntrackFilter {
                sport,
                protocol,
                state: s.then_some(FlowState::Closing),
                src: s.then(|| "100.64.0.0/10".parse().unwrap()),
                ..ConntrackFilter::default()
            }
        });
    prop_oneof![
        Just(Request::Roles),
        ".{0,20}".prop_map(|node| Request::Hello { node }),
        (".{0,20}", any::<bool>()).prop_map(|(name, explicit)| Request::SetGroup {
            name,
            state: GroupState::Backup,
            explicit
        }),
        (".{0,20}", filter, any::<(u32, Option<u64>)>()).prop_map(|(vrf, filter, (limit, cursor))| {
            Request::Conntracks {
                vrf,
                filter,
                page: Page { limit, cursor },
            }
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn requests_survive_the_wire_however_the_stream_is_cut(
        requests in proptest::collection::vec((any::<u32>(), some_request()), 1..6),
        cut in 1_usize..40,
    ) {
        let sent: Vec<ToData> =
            requests.into_iter().map(|(number, request)| ToData { number, request }).collect();
        let bytes: Vec<u8> = sent.iter().flat_map(|m| encode(m).unwrap()).collect();
        let mut reader = FrameReader::new(FRAME_BYTES_MAX);
        let mut got = Vec::new();
        for chunk in bytes.chunks(cut) {
            reader.extend(chunk);
            while let Some(message) = reader.message::<ToData>().unwrap() {
                got.push(message);
            }
        }
        prop_assert_eq!(got, sent);
    }

    #[test]
    fn arbitrary_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut framed = u32::try_from(bytes.len() + 2).unwrap().to_be_bytes().to_vec();
        framed.extend_from_slice(&VERSION.to_be_bytes());
        framed.extend_from_slice(&bytes);
        for input in [&bytes, &framed] {
            let mut reader = FrameReader::new(FRAME_BYTES_MAX);
            reader.extend(input);
            let _judged = reader.message::<ToData>();
            let mut reader = FrameReader::new(FRAME_BYTES_MAX);
            reader.extend(input);
            let _judged = reader.message::<ToControl>();
        }
    }
}

#[test]
fn a_frame_is_length_version_postcard() {
    let frame = encode(&ToData {
        number: 300,
        request: Request::Roles,
    })
    .unwrap();
    // 300 as a varint is ac 02; Roles is the sixth variant.
    assert_eq!(frame, [0, 0, 0, 5, 0, 3, 0xac, 0x02, 5]);
    let rows = Reply::Conntracks(Rows {
        rows: vec![],
        next: Some(9),
    });
    let frame = encode(&ToControl::Reply {
        number: 1,
        result: Ok(rows),
    })
    .unwrap();
    assert_eq!(frame, [0, 0, 0, 9, 0, 3, 0, 1, 0, 11, 0, 1, 9]);
}

#[test]
fn too_large_a_frame_is_refused_before_it_is_read() {
    let mut reader = FrameReader::new(FRAME_BYTES_MAX);
    reader.extend(&[0xff, 0xff, 0xff, 0xff, 0, 1]);
    assert!(matches!(reader.message::<ToData>(), Err(IpcError::TooLarge(_))));
}
