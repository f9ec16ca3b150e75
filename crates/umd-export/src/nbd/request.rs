//! Which requests reach the engine: one table of rules, applied before anything is allocated.
//!
//! | request | flags allowed | beyond the end | not aligned | read-only | nothing (length 0) |
//! | --- | --- | --- | --- | --- | --- |
//! | READ | FUA, DF | EINVAL | EINVAL | - | done |
//! | WRITE | FUA | ENOSPC | EINVAL | EPERM | done |
//! | TRIM | FUA | EINVAL | EINVAL | EPERM | done |
//! | WRITE_ZEROES | FUA, NO_HOLE | ENOSPC | EINVAL | EPERM | done |
//! | BLOCK_STATUS | FUA, REQ_ONE | EINVAL | EINVAL | - | EINVAL |
//! | FLUSH | FUA | EINVAL unless offset and length are 0 | | - | |
//!
//! Other flags and commands, and READ and WRITE above 32 MiB: EINVAL. FUA on a command that
//! writes nothing is accepted and means nothing, as the protocol demands.

use umd_core::array::{RequestError, RequestOp};
use umd_core::value::{SECTOR_BYTES, Slice};

use super::export::{ExportInfo, REQUEST_BYTES_MAX};
use super::proto::{RequestHeader, cmd, errno};

/// What the client was told, as far as it decides about requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub size_bytes: u64,
    pub block_bytes: u32,
    pub read_only: bool,
    pub structured: bool,
    pub allocation: bool,
}

impl Terms {
    pub fn new(export: &ExportInfo, structured: bool, allocation: bool) -> Terms {
        Terms {
            size_bytes: export.size_bytes(),
            block_bytes: export.logical_block_bytes,
            read_only: export.read_only,
            structured,
            allocation,
        }
    }
}

/// A request the engine shall see. Lengths are in bytes, whole blocks, not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read {
        offset: u64,
        len: u32,
    },
    Write {
        offset: u64,
        len: u32,
        fua: bool,
    },
    WriteZeroes {
        offset: u64,
        len: u32,
        fua: bool,
        may_unmap: bool,
    },
    Trim {
        offset: u64,
        len: u32,
        fua: bool,
    },
    Flush,
    Status {
        offset: u64,
        len: u32,
        one: bool,
    },
}

/// An answer the door gives itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub errno: u32,
    pub text: &'static str,
}

/// What a write of a client hears that may not write: see `reservation`.
pub(super) const CUT_OFF: Refusal = Refusal {
    errno: errno::PERM,
    text: "the export is reserved, and this client's key is not registered or was preempted",
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Admit(Kind),
    /// There is nothing to do, which is done.
    Nothing,
    Refuse(Refusal),
    Disconnect,
}

const fn refusal(errno: u32, text: &'static str) -> Verdict {
    Verdict::Refuse(Refusal { errno, text })
}

/// Applies the table above.
pub(super) fn judge(header: &RequestHeader, terms: &Terms) -> Verdict {
    let RequestHeader {
        flags,
        command,
        offset,
        len,
        ..
    } = *header;
    let fua = flags & cmd::FLAG_FUA != 0;
    let allowed = match command {
        cmd::DISC => return Verdict::Disconnect,
        cmd::READ if terms.structured => cmd::FLAG_DF,
        cmd::READ | cmd::WRITE | cmd::TRIM | cmd::FLUSH => 0,
        cmd::WRITE_ZEROES => cmd::FLAG_NO_HOLE,
        cmd::BLOCK_STATUS if terms.allocation => cmd::FLAG_REQ_ONE,
        cmd::BLOCK_STATUS => {
            return refusal(errno::INVAL, "no metadata context was selected");
        }
        _ => return refusal(errno::INVAL, "unknown command"),
    };
    if flags & !(allowed | cmd::FLAG_FUA) != 0 {
        return refusal(errno::INVAL, "a flag that this command does not have");
    }
    if command == cmd::FLUSH {
        return match (offset, len) {
            (0, 0) => Verdict::Admit(Kind::Flush),
            _ => refusal(errno::INVAL, "a flush has no offset and no length"),
        };
    }
    if let Some(refused) = judge_range(header, terms) {
        return refused;
    }
    Verdict::Admit(match command {
        cmd::READ => Kind::Read { offset, len },
        cmd::WRITE => Kind::Write { offset, len, fua },
        cmd::TRIM => Kind::Trim { offset, len, fua },
        cmd::WRITE_ZEROES => {
            let may_unmap = flags & cmd::FLAG_NO_HOLE == 0;
            Kind::WriteZeroes {
                offset,
                len,
                fua,
                may_unmap,
            }
        }
        _ => Kind::Status {
            offset,
            len,
            one: flags & cmd::FLAG_REQ_ONE != 0,
        },
    })
}

fn judge_range(header: &RequestHeader, terms: &Terms) -> Option<Verdict> {
    let RequestHeader {
        command,
        offset,
        len,
        ..
    } = *header;
    let places_data = matches!(command, cmd::WRITE | cmd::WRITE_ZEROES);
    if (places_data || command == cmd::TRIM) && terms.read_only {
        return Some(refusal(errno::PERM, "the export is read-only"));
    }
    if matches!(command, cmd::READ | cmd::WRITE) && len > REQUEST_BYTES_MAX {
        return Some(refusal(errno::INVAL, "longer than the maximum block size"));
    }
    let block = u64::from(terms.block_bytes);
    if !offset.is_multiple_of(block) || !u64::from(len).is_multiple_of(block) {
        return Some(refusal(
            errno::INVAL,
            "not aligned to the minimum block size",
        ));
    }
    let end = offset.checked_add(u64::from(len));
    if end.is_none_or(|end| end > terms.size_bytes) {
        let errno = if places_data {
            errno::NOSPC
        } else {
            errno::INVAL
        };
        return Some(refusal(errno, "beyond the end of the export"));
    }
    match (len, command) {
        (0, cmd::BLOCK_STATUS) => Some(refusal(errno::INVAL, "the status of nothing")),
        (0, _) => Some(Verdict::Nothing),
        _ => None,
    }
}

impl Kind {
    /// Whether it changes what others read.
    pub fn writes(&self) -> bool {
        match self {
            Kind::Write { .. } | Kind::WriteZeroes { .. } | Kind::Trim { .. } => true,
            Kind::Read { .. } | Kind::Flush | Kind::Status { .. } => false,
        }
    }

    /// Memory the request ties up until it is answered.
    pub fn payload_bytes(&self) -> u64 {
        match *self {
            Kind::Read { len, .. } | Kind::Write { len, .. } => u64::from(len),
            _ => 0,
        }
    }

    /// The request in the engine's words. `data` is the payload of a write, and of no other.
    pub fn into_op(self, data: Option<Slice>) -> RequestOp {
        let sectors = |bytes: u64| bytes / SECTOR_BYTES;
        match (self, data) {
            (Kind::Read { offset, len }, None) => RequestOp::Read {
                offset_sectors: sectors(offset),
                len_sectors: len / SECTOR_BYTES as u32,
            },
            (Kind::Write { offset, fua, .. }, Some(data)) => RequestOp::Write {
                offset_sectors: sectors(offset),
                data,
                fua,
            },
            (
                Kind::WriteZeroes {
                    offset,
                    len,
                    fua,
                    may_unmap,
                },
                None,
            ) => RequestOp::WriteZeroes {
                offset_sectors: sectors(offset),
                len_sectors: sectors(len.into()),
                fua,
                may_unmap,
            },
            (Kind::Trim { offset, len, fua }, None) => RequestOp::Trim {
                offset_sectors: sectors(offset),
                len_sectors: sectors(len.into()),
                fua,
            },
            (Kind::Flush, None) => RequestOp::Flush,
            (Kind::Status { offset, len, .. }, None) => RequestOp::Allocation {
                offset_sectors: sectors(offset),
                len_sectors: sectors(len.into()),
            },
            (kind, data) => unreachable!("{kind:?} with payload {data:?}"),
        }
    }

    /// The error value for a request the engine failed.
    pub fn errno(&self, error: &RequestError) -> u32 {
        match error {
            RequestError::Io(_) => errno::IO,
            RequestError::ReadOnly => errno::PERM,
            RequestError::Stopping => errno::SHUTDOWN,
            RequestError::OutOfRange => match self {
                Kind::Write { .. } | Kind::WriteZeroes { .. } => errno::NOSPC,
                _ => errno::INVAL,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms {
        size_bytes: 1 << 20,
        block_bytes: 4096,
        read_only: false,
        structured: true,
        allocation: true,
    };

    fn header(command: u16, flags: u16, offset: u64, len: u32) -> RequestHeader {
        RequestHeader {
            flags,
            command,
            cookie: 7,
            offset,
            len,
        }
    }

    fn errno_of(header: RequestHeader, terms: &Terms) -> u32 {
        match judge(&header, terms) {
            Verdict::Refuse(refusal) => refusal.errno,
            other => panic!("{header:?}: {other:?}"),
        }
    }

    #[test]
    fn the_end_of_the_export() {
        let past = 1 << 20;
        for (command, expected) in [
            (cmd::READ, errno::INVAL),
            (cmd::WRITE, errno::NOSPC),
            (cmd::TRIM, errno::INVAL),
            (cmd::WRITE_ZEROES, errno::NOSPC),
            (cmd::BLOCK_STATUS, errno::INVAL),
        ] {
            assert_eq!(errno_of(header(command, 0, past, 4096), &TERMS), expected);
            assert_eq!(
                errno_of(header(command, 0, past - 4096, 8192), &TERMS),
                expected
            );
            let wraps = header(command, 0, u64::MAX - 4095, 4096);
            assert_eq!(errno_of(wraps, &TERMS), expected);
            let last = judge(&header(command, 0, past - 4096, 4096), &TERMS);
            assert!(matches!(last, Verdict::Admit(_)), "{last:?}");
        }
    }

    #[test]
    fn alignment_and_length() {
        for command in [
            cmd::READ,
            cmd::WRITE,
            cmd::TRIM,
            cmd::WRITE_ZEROES,
            cmd::BLOCK_STATUS,
        ] {
            assert_eq!(
                errno_of(header(command, 0, 512, 4096), &TERMS),
                errno::INVAL
            );
            assert_eq!(errno_of(header(command, 0, 0, 512), &TERMS), errno::INVAL);
        }
        let huge = Terms {
            size_bytes: 1 << 40,
            ..TERMS
        };
        let over = REQUEST_BYTES_MAX + 4096;
        assert_eq!(errno_of(header(cmd::READ, 0, 0, over), &huge), errno::INVAL);
        assert_eq!(
            errno_of(header(cmd::WRITE, 0, 0, over), &huge),
            errno::INVAL
        );
        for command in [cmd::TRIM, cmd::WRITE_ZEROES, cmd::BLOCK_STATUS] {
            let all = judge(&header(command, 0, 0, u32::MAX - 4095), &huge);
            assert!(matches!(all, Verdict::Admit(_)), "{all:?}");
        }
    }

    #[test]
    fn nothing_is_done_at_once() {
        for command in [cmd::READ, cmd::WRITE, cmd::TRIM, cmd::WRITE_ZEROES] {
            assert_eq!(
                judge(&header(command, 0, 4096, 0), &TERMS),
                Verdict::Nothing
            );
            let past = judge(&header(command, 0, 2 << 20, 0), &TERMS);
            assert!(matches!(past, Verdict::Refuse(_)), "{past:?}");
        }
        assert_eq!(
            errno_of(header(cmd::BLOCK_STATUS, 0, 0, 0), &TERMS),
            errno::INVAL
        );
    }

    #[test]
    fn read_only_comes_first() {
        let terms = Terms {
            read_only: true,
            ..TERMS
        };
        for command in [cmd::WRITE, cmd::TRIM, cmd::WRITE_ZEROES] {
            assert_eq!(errno_of(header(command, 0, 1, 0), &terms), errno::PERM);
        }
        let read = judge(&header(cmd::READ, 0, 0, 4096), &terms);
        assert_eq!(
            read,
            Verdict::Admit(Kind::Read {
                offset: 0,
                len: 4096
            })
        );
        assert_eq!(
            judge(&header(cmd::FLUSH, 0, 0, 0), &terms),
            Verdict::Admit(Kind::Flush)
        );
    }

    #[test]
    fn flags_belong_to_commands() {
        let plain = Terms {
            structured: false,
            allocation: false,
            ..TERMS
        };
        assert_eq!(
            errno_of(header(cmd::READ, cmd::FLAG_DF, 0, 4096), &plain),
            errno::INVAL
        );
        assert_eq!(
            errno_of(header(cmd::BLOCK_STATUS, 0, 0, 4096), &plain),
            errno::INVAL
        );
        for (command, own) in [
            (cmd::READ, cmd::FLAG_DF),
            (cmd::WRITE, 0),
            (cmd::TRIM, 0),
            (cmd::WRITE_ZEROES, cmd::FLAG_NO_HOLE),
            (cmd::BLOCK_STATUS, cmd::FLAG_REQ_ONE),
        ] {
            for bit in 0..16 {
                let flag = 1 << bit;
                let verdict = judge(&header(command, flag, 0, 4096), &TERMS);
                let admitted = matches!(verdict, Verdict::Admit(_));
                let expected = flag == own || flag == cmd::FLAG_FUA;
                assert_eq!(admitted, expected, "command {command} flag {flag:#x}");
            }
        }
        assert_eq!(errno_of(header(cmd::FLUSH, 0, 0, 1), &TERMS), errno::INVAL);
        assert_eq!(errno_of(header(5, 0, 0, 4096), &TERMS), errno::INVAL);
        assert_eq!(errno_of(header(999, 0, 0, 0), &TERMS), errno::INVAL);
    }

    #[test]
    fn bytes_become_sectors() {
        let zeroes = header(
            cmd::WRITE_ZEROES,
            cmd::FLAG_NO_HOLE | cmd::FLAG_FUA,
            8192,
            4096,
        );
        let Verdict::Admit(kind) = judge(&zeroes, &TERMS) else {
            panic!("refused");
        };
        assert!(matches!(
            kind.into_op(None),
            RequestOp::WriteZeroes {
                offset_sectors: 16,
                len_sectors: 8,
                fua: true,
                may_unmap: false,
            }
        ));
    }

    #[test]
    fn errors_of_the_engine() {
        let write = Kind::Write {
            offset: 0,
            len: 512,
            fua: false,
        };
        let trim = Kind::Trim {
            offset: 0,
            len: 512,
            fua: false,
        };
        assert_eq!(write.errno(&RequestError::OutOfRange), errno::NOSPC);
        assert_eq!(trim.errno(&RequestError::OutOfRange), errno::INVAL);
        assert_eq!(trim.errno(&RequestError::Io(String::new())), errno::IO);
        assert_eq!(trim.errno(&RequestError::ReadOnly), errno::PERM);
        assert_eq!(trim.errno(&RequestError::Stopping), errno::SHUTDOWN);
    }
}
