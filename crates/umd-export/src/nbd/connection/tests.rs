//! The transmission phase, against bytes written by hand.

use std::collections::VecDeque;

use proptest::prelude::*;
use umd_core::array::RequestOp;

use super::super::export::{ExportInfo, REQUEST_BYTES_MAX};
use super::super::proto::{CHUNK_MAGIC, Fields, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, errno};
use super::*;

/// Gives its pieces one read at a time, then blocks, or ends if told so.
#[derive(Default)]
struct Script {
    pieces: VecDeque<Vec<u8>>,
    ends: bool,
}

impl Script {
    fn of(pieces: &[&[u8]]) -> Script {
        let pieces = pieces.iter().filter(|piece| !piece.is_empty());
        Script {
            pieces: pieces.map(|piece| piece.to_vec()).collect(),
            ends: false,
        }
    }
}

impl Read for Script {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let Some(piece) = self.pieces.front_mut() else {
            return if self.ends {
                Ok(0)
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            };
        };
        let count = bytes.len().min(piece.len());
        bytes[..count].copy_from_slice(&piece[..count]);
        *piece = piece.split_off(count);
        if piece.is_empty() {
            self.pieces.pop_front();
        }
        Ok(count)
    }

    fn read_vectored(&mut self, list: &mut [io::IoSliceMut<'_>]) -> io::Result<usize> {
        let wanted: usize = list.iter().map(|entry| entry.len()).sum();
        let here = self.pieces.front().map_or(1, Vec::len);
        let mut bytes = vec![0; wanted.min(here)];
        let count = self.read(&mut bytes)?;
        let mut rest = &bytes[..count];
        for entry in list {
            let (front, back) = rest.split_at(rest.len().min(entry.len()));
            entry[..front.len()].copy_from_slice(front);
            rest = back;
        }
        Ok(count)
    }
}

const EXPORT_BYTES: u64 = 256 << 20;

fn connection_with(structured: bool, read_only: bool, input: Vec<u8>) -> Connection {
    let export = ExportInfo {
        name: "r5".into(),
        description: String::new(),
        size_sectors: EXPORT_BYTES / 512,
        logical_block_bytes: 512,
        preferred_bytes: 4096,
        read_only,
    };
    let transmission = Transmission {
        export,
        structured,
        allocation_context: structured.then_some(7),
        input,
        output: Vec::new(),
        pass: None,
        key: None,
    };
    Connection::new(transmission, 3, Pool::new())
}

fn connection(structured: bool) -> Connection {
    connection_with(structured, false, Vec::new())
}

fn request(command: u16, flags: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    RequestHeader {
        flags,
        command,
        cookie,
        offset,
        len,
    }
    .encode()
    .to_vec()
}

fn write(cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    let mut bytes = request(cmd::WRITE, 0, cookie, offset, data.len() as u32);
    bytes.extend_from_slice(data);
    bytes
}

/// Everything that is to be sent.
fn sent(connection: &mut Connection) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut requests = Vec::new();
    connection.write_to(&mut bytes, &mut requests).unwrap();
    assert!(requests.is_empty(), "nothing was held back");
    bytes
}

fn simple(error: u32, cookie: u64) -> Vec<u8> {
    simple_reply(error, cookie).to_vec()
}

/// Reads all of `bytes` and expects no more to come.
fn read(connection: &mut Connection, bytes: &[u8]) -> Vec<Request> {
    let mut requests = Vec::new();
    let mut script = Script::of(&[bytes]);
    let state = connection.read_from(&mut script, &mut requests).unwrap();
    assert_eq!(state, ReadState::Waiting);
    requests
}

#[test]
fn a_batch_is_taken_at_once() {
    let mut door = connection(false);
    let mut bytes = write(1, 4096, &[9; 4096]);
    bytes.extend(request(cmd::READ, 0, 2, 8192, 1024));
    bytes.extend(request(cmd::FLUSH, 0, 3, 0, 0));
    bytes.extend(request(cmd::TRIM, cmd::FLAG_FUA, 4, 0, 4096));
    let requests = read(&mut door, &bytes);
    assert_eq!(door.in_flight(), 4);
    assert!(matches!(
        &requests[0].op,
        RequestOp::Write { offset_sectors: 8, data, fua: false } if data.as_slice() == [9; 4096]
    ));
    assert!(matches!(
        requests[1].op,
        RequestOp::Read {
            offset_sectors: 16,
            len_sectors: 2
        }
    ));
    assert!(matches!(requests[2].op, RequestOp::Flush));
    let trim = &requests[3].op;
    assert!(matches!(
        trim,
        RequestOp::Trim {
            offset_sectors: 0,
            len_sectors: 8,
            fua: true
        }
    ));

    let data = Pool::new().copy_of(&[5; 1024]);
    let parts = vec![data.sub(0..512), data.sub(512..1024)];
    door.complete(requests[1].id, Ok(Reply::Data(parts.into())));
    door.complete(requests[0].id, Ok(Reply::Done));
    door.complete(requests[3].id, Err(RequestError::Stopping));
    door.complete(
        requests[2].id,
        Err(RequestError::Io("two members are gone".into())),
    );
    assert_eq!(
        sent(&mut door),
        [
            simple(0, 2),
            vec![5; 1024],
            simple(0, 1),
            simple(errno::SHUTDOWN, 4),
            simple(errno::IO, 3)
        ]
        .concat()
    );
    assert_eq!(door.in_flight(), 0);
}

#[test]
fn structured_replies() {
    let mut door = connection(true);
    let mut bytes = request(cmd::READ, cmd::FLAG_DF, 1, 512, 512);
    bytes.extend(request(cmd::BLOCK_STATUS, 0, 2, 0, 8192));
    bytes.extend(request(cmd::READ, 0, 3, 0, 0));
    bytes.extend(request(cmd::READ, 0, 4, 1, 1));
    bytes.extend(request(cmd::WRITE, 0, 5, 0, 0));
    let requests = read(&mut door, &bytes);
    assert_eq!(requests.len(), 2);
    door.complete(
        requests[0].id,
        Ok(Reply::Data([Pool::new().copy_of(&[8; 512])].into())),
    );
    let extents = vec![
        Extent {
            len_sectors: 8,
            data: true,
        },
        Extent {
            len_sectors: 1 << 40,
            data: false,
        },
    ];
    door.complete(requests[1].id, Ok(Reply::Extents(extents)));
    let text = b"not aligned to the minimum block size";
    let expected = [
        b"\x66\x8e\x33\xef\0\x01\0\0\0\0\0\0\0\0\0\x03\0\0\0\0".to_vec(),
        b"\x66\x8e\x33\xef\0\x01\x80\x01\0\0\0\0\0\0\0\x04\0\0\0\x2b".to_vec(),
        b"\0\0\0\x16\0\x25".to_vec(),
        text.to_vec(),
        simple(0, 5),
        b"\x66\x8e\x33\xef\0\x01\0\x01\0\0\0\0\0\0\0\x01\0\0\x02\x08".to_vec(),
        b"\0\0\0\0\0\0\x02\0".to_vec(),
        vec![8; 512],
        b"\x66\x8e\x33\xef\0\x01\0\x05\0\0\0\0\0\0\0\x02\0\0\0\x14\0\0\0\x07".to_vec(),
        b"\0\0\x10\0\0\0\0\0\0\0\x10\0\0\0\0\x03".to_vec(),
    ];
    assert_eq!(sent(&mut door), expected.concat());
}

#[test]
fn a_refused_write_is_swallowed_whole() {
    let mut door = connection_with(false, true, Vec::new());
    let mut bytes = write(1, 0, &vec![1; 300 << 10]);
    bytes.extend(request(cmd::READ, 0, 2, 0, 512));
    let mut requests = Vec::new();
    let mut script = Script::of(&[&bytes[..28]]);
    door.read_from(&mut script, &mut requests).unwrap();
    assert!(sent(&mut door).is_empty(), "not before the payload is gone");
    assert!(door.wants_read());
    let requests = read(&mut door, &bytes[28..]);
    assert_eq!(sent(&mut door), simple(errno::PERM, 1));
    assert!(matches!(
        requests[..],
        [Request {
            op: RequestOp::Read { .. },
            ..
        }]
    ));
}

#[test]
fn a_write_above_the_maximum_does_not_end_the_connection() {
    let mut door = connection(false);
    let len = REQUEST_BYTES_MAX as usize + 512;
    let mut bytes = write(1, 0, &vec![1; len]);
    bytes.extend(write(2, EXPORT_BYTES, &[2; 512]));
    bytes.extend(write(3, 0, &[3; 512]));
    let mut script = Script::of(&[&bytes]);
    let mut requests = Vec::new();
    while door.read_from(&mut script, &mut requests).unwrap() == ReadState::More {}
    assert_eq!(
        sent(&mut door),
        [simple(errno::INVAL, 1), simple(errno::NOSPC, 2)].concat()
    );
    assert!(matches!(
        &requests[..],
        [Request { op: RequestOp::Write { data, .. }, .. }] if data.as_slice() == [3; 512]
    ));
}

#[test]
fn what_came_with_the_handshake_is_not_lost() {
    let mut bytes = write(1, 0, &[1; 512]);
    bytes.extend(request(cmd::FLUSH, 0, 2, 0, 0));
    let (early, late) = bytes.split_at(bytes.len() - 5);
    let mut door = connection_with(false, false, early.to_vec());
    let mut requests = Vec::new();
    door.take_requests(&mut requests).unwrap();
    assert!(matches!(
        requests[..],
        [Request {
            op: RequestOp::Write { .. },
            ..
        }]
    ));
    let requests = read(&mut door, late);
    assert!(matches!(
        requests[..],
        [Request {
            op: RequestOp::Flush,
            ..
        }]
    ));
}

#[test]
fn no_more_than_the_limit_is_in_flight() {
    let mut door = connection(false);
    let bytes: Vec<u8> = (0..300)
        .flat_map(|cookie| request(cmd::READ, 0, cookie, 0, 512))
        .collect();
    let mut script = Script::of(&[&bytes]);
    let mut requests = Vec::new();
    assert_eq!(
        door.read_from(&mut script, &mut requests).unwrap(),
        ReadState::Paused
    );
    assert_eq!(
        (requests.len(), door.in_flight()),
        (REQUESTS_MAX, REQUESTS_MAX)
    );
    assert!(!door.wants_read());
    let id = requests.remove(0).id;
    door.complete(id, Err(RequestError::Stopping));
    door.take_requests(&mut requests).unwrap();
    assert_eq!(door.in_flight(), REQUESTS_MAX);
    let mut answered = 1;
    while !requests.is_empty() {
        for request in requests.split_off(0) {
            door.complete(request.id, Err(RequestError::Stopping));
            answered += 1;
        }
        door.take_requests(&mut requests).unwrap();
    }
    assert_eq!(answered, 300);
    assert!(door.wants_read());
    assert_eq!(sent(&mut door).len(), 300 * 16);
}

#[test]
fn no_more_than_the_limit_of_payload_is_held() {
    let mut door = connection(false);
    let bytes: Vec<u8> = (0..5)
        .flat_map(|cookie| request(cmd::READ, 0, cookie, 0, 32 << 20))
        .collect();
    let mut script = Script::of(&[&bytes]);
    let mut requests = Vec::new();
    assert_eq!(
        door.read_from(&mut script, &mut requests).unwrap(),
        ReadState::Paused
    );
    assert_eq!(requests.len(), 2);
    // An answered read that the client does not take still counts.
    let data = Pool::new().take_zeroed(32 << 20).freeze();
    door.complete(requests[0].id, Ok(Reply::Data([data].into())));
    door.take_requests(&mut requests).unwrap();
    assert_eq!(requests.len(), 2);
    let mut output = Vec::new();
    door.write_to(&mut output, &mut requests).unwrap();
    assert_eq!((output.len(), requests.len()), (16 + (32 << 20), 3));
}

#[test]
fn replies_nobody_takes_stop_the_reading() {
    let mut door = connection(false);
    let bytes: Vec<u8> = request(99, 0, 1, 0, 0).repeat(100_000);
    let mut script = Script::of(&[&bytes]);
    let mut requests = Vec::new();
    let state = loop {
        match door.read_from(&mut script, &mut requests).unwrap() {
            ReadState::More => {}
            state => break state,
        }
    };
    assert_eq!(state, ReadState::Paused);
    let sent = sent(&mut door).len();
    assert!(
        (INLINE_BYTES_MAX..INLINE_BYTES_MAX + 16).contains(&sent),
        "{sent}"
    );
    assert!(door.wants_read());
}

#[test]
fn a_disconnect_waits_for_answers() {
    let mut door = connection(false);
    let mut bytes = request(cmd::FLUSH, 0, 1, 0, 0);
    bytes.extend(request(cmd::DISC, 0, 0, 0, 0));
    bytes.extend(request(cmd::FLUSH, 0, 2, 0, 0));
    let mut requests = Vec::new();
    let state = door
        .read_from(&mut Script::of(&[&bytes]), &mut requests)
        .unwrap();
    assert_eq!(state, ReadState::Ended);
    assert_eq!(requests.len(), 1, "nothing after the goodbye");
    assert!(!door.wants_read() && !door.is_finished());
    door.complete(requests[0].id, Ok(Reply::Done));
    assert!(!door.is_finished());
    assert_eq!(sent(&mut door), simple(0, 1));
    assert!(door.is_finished());
}

#[test]
fn an_end_of_stream_inside_a_write_drops_it() {
    let mut door = connection(false);
    let bytes = write(1, 0, &[1; 4096]);
    let mut script = Script::of(&[&bytes[..2000]]);
    script.ends = true;
    let mut requests = Vec::new();
    assert_eq!(
        door.read_from(&mut script, &mut requests).unwrap(),
        ReadState::Waiting
    );
    assert_eq!(
        door.read_from(&mut script, &mut requests).unwrap(),
        ReadState::Ended
    );
    assert!(requests.is_empty() && door.is_finished());
}

#[test]
fn a_broken_connection_takes_answers_and_drops_them() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut door = connection(false);
    let bytes = [
        request(cmd::FLUSH, 0, 1, 0, 0),
        request(cmd::READ, 0, 2, 0, 4096),
    ]
    .concat();
    let requests = read(&mut door, &bytes);
    door.complete(requests[0].id, Ok(Reply::Done));
    assert!(matches!(
        door.write_to(&mut Broken, &mut Vec::new()),
        Err(ConnectionError::Io(_))
    ));
    assert!(door.is_finished() && !door.wants_write() && !door.wants_read());
    let late = Pool::new().copy_of(&[0; 4096]);
    door.complete(requests[1].id, Ok(Reply::Data([late].into())));
    assert!(!door.wants_write());
}

#[test]
fn nonsense_ends_the_connection() {
    let mut door = connection(true);
    let mut requests = Vec::new();
    let result = door.read_from(&mut Script::of(&[&[0x25; 28]]), &mut requests);
    assert!(matches!(result, Err(ConnectionError::Protocol)));
    assert!(door.is_finished() && requests.is_empty());
}

#[test]
#[should_panic(expected = "answered in full")]
fn a_short_read_is_the_engines_fault() {
    let mut door = connection(false);
    let requests = read(&mut door, &request(cmd::READ, 0, 1, 0, 1024));
    door.complete(
        requests[0].id,
        Ok(Reply::Data([Pool::new().copy_of(&[0; 512])].into())),
    );
}

#[test]
#[should_panic(expected = "no answer to")]
fn a_wrong_answer_is_the_engines_fault() {
    let mut door = connection(false);
    let requests = read(&mut door, &request(cmd::READ, 0, 1, 0, 1024));
    door.complete(requests[0].id, Ok(Reply::Done));
}

/// One valid request, or one that is refused; the cookie is put in later.
fn any_request() -> impl Strategy<Value = Vec<u8>> {
    let sectors = prop_oneof![0u64..20, Just(EXPORT_BYTES / 512 - 4)];
    let len = prop_oneof![Just(0u32), (1u32..9).prop_map(|n| n * 512), Just(777)];
    let other =
        (0u16..9, any::<u8>(), sectors.clone(), len).prop_map(|(command, flags, offset, len)| {
            match command {
                cmd::WRITE => write(0, offset * 512, &vec![flags; len as usize]),
                cmd::DISC => request(cmd::FLUSH, 0, 0, 0, 0),
                _ => request(command, u16::from(flags & 9), 0, offset * 512, len),
            }
        });
    let large = (sectors, 1usize..150)
        .prop_map(|(offset, sectors)| write(0, offset * 512, &vec![sectors as u8; sectors * 512]));
    prop_oneof![3 => other, 1 => large]
}

/// Requests with their payloads, and replies with their cookies.
type Seen = (Vec<(String, Vec<u8>)>, Vec<(u64, Vec<u8>)>);

/// Feeds the pieces, answers everything at once, and shows what the engine and the client saw:
/// requests in order, replies by cookie (refusals may overtake answers).
fn seen(structured: bool, pieces: &[&[u8]]) -> Seen {
    let mut door = connection(structured);
    let mut script = Script::of(pieces);
    let mut log = Vec::new();
    let mut output = Vec::new();
    let mut requests = Vec::new();
    loop {
        let state = door.read_from(&mut script, &mut requests).unwrap();
        let idle = requests.is_empty();
        for Request { id, op } in requests.drain(..) {
            let result = match &op {
                RequestOp::Read { len_sectors, .. } => {
                    let len = *len_sectors as usize * 512;
                    let data = vec![len_sectors.to_le_bytes()[0]; len];
                    Ok(Reply::Data([Pool::new().copy_of(&data)].into()))
                }
                RequestOp::Allocation { len_sectors, .. } => Ok(Reply::Extents(vec![Extent {
                    len_sectors: *len_sectors,
                    data: true,
                }])),
                RequestOp::Flush => Err(RequestError::Stopping),
                _ => Ok(Reply::Done),
            };
            let payload = match &op {
                RequestOp::Write { data, .. } => data.as_slice().to_vec(),
                _ => Vec::new(),
            };
            log.push((format!("{op:?}"), payload));
            door.complete(id, result);
        }
        door.write_to(&mut output, &mut requests).unwrap();
        let idle = idle && requests.is_empty();
        if idle && state == ReadState::Waiting && script.pieces.is_empty() {
            break;
        }
    }
    (log, replies(&output))
}

/// Cuts a stream of replies into messages, sorted by cookie. A simple reply with data (a read
/// without structured replies) is told by the data's length in its first byte.
fn replies(output: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut fields = Fields(output);
    let mut replies = Vec::new();
    while !fields.is_empty() {
        let start = fields.0;
        let magic = fields.u32().unwrap();
        let word = fields.u32().unwrap();
        let cookie = fields.u64().unwrap();
        match magic {
            CHUNK_MAGIC => {
                let len = fields.u32().unwrap();
                fields.bytes(len as usize).unwrap();
            }
            SIMPLE_REPLY_MAGIC => {
                let head = fields.0.first().filter(|byte| **byte < 0x25);
                if let (0, Some(sectors)) = (word, head) {
                    fields.bytes(usize::from(*sectors) * 512).unwrap();
                }
            }
            other => panic!("{other:#x} is no reply"),
        }
        replies.push((cookie, start[..start.len() - fields.0.len()].to_vec()));
    }
    replies.sort();
    replies
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any_request(), 1..25).prop_map(|mut requests| {
        for (cookie, request) in requests.iter_mut().enumerate() {
            request[8..16].copy_from_slice(&(cookie as u64).to_be_bytes());
        }
        requests.concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_split_gives_the_same_requests(
        bytes in stream(),
        structured in any::<bool>(),
        cuts in prop::collection::vec(0.0f64..1.0, 0..40),
    ) {
        let mut cuts: Vec<_> = cuts.iter().map(|c| (c * bytes.len() as f64) as usize).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<_> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        let whole = seen(structured, &[&bytes]);
        prop_assert_eq!(&seen(structured, &pieces), &whole);
        // Byte by byte, unless that would take all day.
        let single: Vec<_> = bytes.chunks(bytes.len().div_ceil(20_000)).collect();
        prop_assert_eq!(&seen(structured, &single), &whole);
    }

    #[test]
    fn damaged_bytes_do_no_harm(
        mut bytes in stream(),
        structured in any::<bool>(),
        damage in prop::collection::vec((0.0f64..1.0, any::<u8>()), 1..20),
        random in any::<bool>(),
    ) {
        for (place, value) in damage {
            let place = (place * bytes.len() as f64) as usize;
            bytes[place] = value;
        }
        if random {
            bytes.drain(..4);
        }
        let mut door = connection(structured);
        let mut script = Script::of(&[&bytes]);
        let mut requests = Vec::new();
        let mut closed = false;
        while !closed && !script.pieces.is_empty() {
            let result = door.read_from(&mut script, &mut requests);
            closed = matches!(result, Err(_) | Ok(ReadState::Ended));
            for request in requests.drain(..) {
                door.complete(request.id, Err(RequestError::Stopping));
            }
            closed |= door.write_to(&mut Vec::new(), &mut requests).is_err();
        }
        if random && bytes[..4] != REQUEST_MAGIC.to_be_bytes() && bytes.len() >= 28 {
            prop_assert!(closed && door.is_finished());
        }
    }
}
