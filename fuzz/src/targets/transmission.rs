//! NBD requests: any bytes in any pieces, answered in any order; every request is answered once,
//! and what is let through lies in the export.

use std::io::{self, Read};

use crate::Input;
use umd_core::array::{Extent, Reply, Request, RequestError, RequestOp};
use umd_core::value::Pool;
use umd_export::nbd::{Connection, ExportInfo, REQUESTS_MAX, ReadState, Transmission};

const SECTORS: u64 = 1 << 16;

/// Bytes that arrive a piece at a time, then the end.
struct Wire<'a> {
    bytes: &'a [u8],
    step: usize,
}

impl Read for Wire<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = into.len().min(self.step).min(self.bytes.len());
        into[..count].copy_from_slice(&self.bytes[..count]);
        self.bytes = &self.bytes[count..];
        Ok(count)
    }
}

fn answer(pool: &Pool, request: &Request, ok: bool) -> Result<Reply, RequestError> {
    if !ok {
        return Err(RequestError::Io("no luck".to_owned()));
    }
    if let Some((offset, len)) = request.op.extent() {
        assert!(
            len > 0 && offset + len <= SECTORS,
            "a request outside the export"
        );
    }
    Ok(match &request.op {
        RequestOp::Read { len_sectors, .. } => {
            Reply::Data([pool.take(*len_sectors as usize * 512).freeze()].into())
        }
        RequestOp::Write { .. } | RequestOp::WriteZeroes { .. } | RequestOp::Trim { .. } => {
            Reply::Done
        }
        RequestOp::Flush => Reply::Done,
        RequestOp::Allocation { len_sectors, .. } => {
            let half = len_sectors.div_ceil(2);
            Reply::Extents(vec![
                Extent {
                    len_sectors: half,
                    data: true,
                },
                Extent {
                    len_sectors: *len_sectors,
                    data: false,
                },
            ])
        }
    })
}

/// Runs it.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let (choice, step) = (input.byte(), usize::from(input.byte()) + 1);
    let structured = choice & 1 != 0;
    let transmission = Transmission {
        export: ExportInfo {
            name: "r5".to_owned(),
            description: String::new(),
            size_sectors: SECTORS,
            logical_block_bytes: if choice & 2 == 0 { 512 } else { 4096 },
            preferred_bytes: 4096,
            read_only: choice & 4 != 0,
        },
        structured,
        allocation_context: structured.then_some(1),
        input: input.bytes(usize::from(choice >> 4)).to_vec(),
        output: Vec::new(),
        pass: None,
        key: None,
    };
    let pool = Pool::new();
    let mut door = Connection::new(transmission, 7, pool.clone());
    let mut wire = Wire {
        bytes: input.0,
        step,
    };
    let (mut waiting, mut output) = (Vec::new(), Vec::new());
    let mut turn = usize::from(choice);
    for _ in 0..data.len() * 4 + 64 {
        if door.is_finished() {
            break;
        }
        if door.read_from(&mut wire, &mut waiting).is_err() {
            return;
        }
        assert!(waiting.len() <= REQUESTS_MAX && door.in_flight() == waiting.len());
        turn = turn.wrapping_mul(31).wrapping_add(7);
        let many = if choice & 8 == 0 { waiting.len() } else { 1 };
        for _ in 0..many.min(waiting.len()) {
            let request = waiting.swap_remove(turn % waiting.len());
            door.complete(request.id, answer(&pool, &request, turn % 5 != 0));
        }
        output.clear();
        if door.write_to(&mut output, &mut waiting).is_err() {
            return;
        }
        if door
            .read_from(&mut wire, &mut waiting)
            .is_ok_and(|state| state == ReadState::Ended)
        {
            door.stop();
        }
    }
    assert!(
        door.is_finished(),
        "the wire has ended and everything was answered"
    );
}
