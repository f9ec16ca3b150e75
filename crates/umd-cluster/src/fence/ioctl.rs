//! The kernel's calls behind reservations and watchdogs, from its public headers
//! (`linux/pr.h`, `linux/nvme_ioctl.h`, `linux/watchdog.h`, `asm-generic/ioctl.h`).
//!
//! ```text
//!   IOC_PR_REGISTER       0x401870c8   old key u64, new key u64, flags u32, 0 u32
//!   IOC_PR_RESERVE        0x401070c9   key u64, type u32, flags u32
//!   IOC_PR_PREEMPT_ABORT  0x401870cc   old key u64, new key u64, type u32, flags u32
//!   NVME_IOCTL_ID         0x00004e40   nothing; the result is the number of the namespace
//!   NVME_IOCTL_IO_CMD     0xc0484e43   a command, and where its data are (72 bytes)
//!   WDIOC_SETTIMEOUT      0xc0045706   seconds i32, in and out
//! ```
//!
//! All the `unsafe` of this crate is here. It is sound because each argument is a plain value of
//! the size that its call's number says, and the kernel reads and writes no more than that, and
//! the data that a command says it has, which stay where they are until the call returns.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, Updater, opcode};

/// The flag that takes the place of whatever key was registered before.
pub(super) const IGNORE_KEY: u32 = 1;

/// A registration (`struct pr_registration`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Registration {
    pub(super) old_key: u64,
    pub(super) new_key: u64,
    pub(super) flags: u32,
    pub(super) pad: u32,
}

/// A reservation (`struct pr_reservation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Reservation {
    pub(super) key: u64,
    pub(super) kind: u32,
    pub(super) flags: u32,
}

/// Whose registration goes: `new_key`; `old_key` is who asks (`struct pr_preempt`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Preemption {
    pub(super) old_key: u64,
    pub(super) new_key: u64,
    pub(super) kind: u32,
    pub(super) flags: u32,
}

/// A command of NVMe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct NvmeCommand {
    pub(super) opcode: u8,
    pub(super) cdw10: u32,
    pub(super) cdw11: u32,
}

/// The same as the kernel wants it (`struct nvme_passthru_cmd`).
#[derive(Debug, Default)]
#[repr(C)]
struct Passthrough {
    opcode: u8,
    flags: u8,
    pad: u16,
    namespace: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    data: u64,
    metadata_bytes: u32,
    data_bytes: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12_to_15: [u32; 4],
    timeout_ms: u32,
    result: u32,
}

const REGISTER: Opcode = opcode::write::<Registration>(b'p', 200);
const RESERVE: Opcode = opcode::write::<Reservation>(b'p', 201);
const PREEMPT_ABORT: Opcode = opcode::write::<Preemption>(b'p', 204);
const NVME_NAMESPACE: Opcode = opcode::none(b'N', 0x40);
const NVME_SUBMIT: Opcode = opcode::read_write::<Passthrough>(b'N', 0x43);
const SET_TIMEOUT: Opcode = opcode::read_write::<i32>(b'W', 6);

/// A call that reads its argument, and whose result is more than whether it failed: the status that
/// the device gave.
struct Call<T> {
    opcode: Opcode,
    argument: T,
}

// SAFETY: the opcode says how much the kernel reads, which is the size of the argument (checked
// in the tests below); it writes nothing, so nothing here changes behind the back of a reference.
unsafe impl<T> Ioctl for Call<T> {
    type Output = IoctlOutput;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.argument).cast()
    }

    unsafe fn output_from_ptr(
        output: IoctlOutput,
        _: *mut c_void,
    ) -> rustix::io::Result<IoctlOutput> {
        Ok(output)
    }
}

fn call<T>(device: impl AsFd, opcode: Opcode, argument: T) -> io::Result<i32> {
    let call = Call { opcode, argument };
    // SAFETY: see `Call`: these are calls of the kernel's headers with the arguments they have
    // there. Another kind of file than a block device answers ENOTTY, and takes nothing.
    let status = unsafe { rustix::ioctl::ioctl(device, call) }?;
    Ok(status)
}

/// Registers a key; the device's status, zero where it has.
pub(super) fn register(device: impl AsFd, argument: Registration) -> io::Result<i32> {
    call(device, REGISTER, argument)
}

/// Reserves; the device's status.
pub(super) fn reserve(device: impl AsFd, argument: Reservation) -> io::Result<i32> {
    call(device, RESERVE, argument)
}

/// Ends a registration and what it has under way; the device's status.
pub(super) fn preempt_abort(device: impl AsFd, argument: Preemption) -> io::Result<i32> {
    call(device, PREEMPT_ABORT, argument)
}

/// Passes a command with its data through to the namespace that a device is; its status. `data` is
/// what goes there, or where it comes to.
pub(super) fn nvme_submit(
    device: impl AsFd,
    command: NvmeCommand,
    data: &mut [u8],
) -> io::Result<i32> {
    let namespace = call(&device, NVME_NAMESPACE, ())?;
    let mut command = Passthrough {
        opcode: command.opcode,
        namespace: namespace.cast_unsigned(),
        data: data.as_mut_ptr().expose_provenance() as u64,
        data_bytes: u32::try_from(data.len()).expect("a page or less"),
        cdw10: command.cdw10,
        cdw11: command.cdw11,
        ..Passthrough::default()
    };
    let call = Answered(&mut command);
    // SAFETY: the call reads and writes one `Passthrough`, and so many bytes of `data` as that
    // says; both are borrowed here for as long as it takes.
    let status = unsafe { rustix::ioctl::ioctl(device, call) }?;
    Ok(status)
}

/// A call that also writes to its argument.
struct Answered<'a>(&'a mut Passthrough);

// SAFETY: as for `Call`; the kernel writes the result of the command into it, which is borrowed as
// one that changes.
unsafe impl Ioctl for Answered<'_> {
    type Output = IoctlOutput;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        NVME_SUBMIT
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut *self.0).cast()
    }

    unsafe fn output_from_ptr(
        output: IoctlOutput,
        _: *mut c_void,
    ) -> rustix::io::Result<IoctlOutput> {
        Ok(output)
    }
}

/// Sets a watchdog's time in seconds; what it is then.
pub(super) fn watchdog_set_timeout(device: impl AsFd, seconds: i32) -> io::Result<i32> {
    let mut time = seconds;
    // SAFETY: the call reads and writes one `int`, which `time` is.
    let call = unsafe { Updater::<SET_TIMEOUT, i32>::new(&mut time) };
    // SAFETY: as above.
    unsafe { rustix::ioctl::ioctl(device, call) }?;
    Ok(time)
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn numbers_and_arguments_are_the_kernels() {
        assert_eq!(size_of::<Registration>(), 24);
        assert_eq!(size_of::<Reservation>(), 16);
        assert_eq!(size_of::<Preemption>(), 24);
        assert_eq!(offset_of!(Registration, new_key), 8);
        assert_eq!(offset_of!(Registration, flags), 16);
        assert_eq!(offset_of!(Reservation, kind), 8);
        assert_eq!(offset_of!(Reservation, flags), 12);
        assert_eq!(offset_of!(Preemption, kind), 16);
        assert_eq!(offset_of!(Preemption, flags), 20);
        assert_eq!(size_of::<Passthrough>(), 72);
        assert_eq!(offset_of!(Passthrough, namespace), 4);
        assert_eq!(offset_of!(Passthrough, data), 24);
        assert_eq!(offset_of!(Passthrough, data_bytes), 36);
        assert_eq!(offset_of!(Passthrough, cdw10), 40);
        assert_eq!(offset_of!(Passthrough, result), 68);
        if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
            assert_eq!(REGISTER, 0x4018_70c8);
            assert_eq!(RESERVE, 0x4010_70c9);
            assert_eq!(PREEMPT_ABORT, 0x4018_70cc);
            assert_eq!(NVME_NAMESPACE, 0x4e40);
            assert_eq!(NVME_SUBMIT, 0xc048_4e43);
            assert_eq!(SET_TIMEOUT, 0xc004_5706);
        }
    }
}
