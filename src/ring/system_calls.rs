//! Owns the calls into the kernel that the standard library has no safe form of, each behind a
//! safe signature. Must never retry, resume or interpret: callers do.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno as Number;

use super::Errno;
use crate::buffer::{Pool, Span};
use crate::units::Nanos;

/// Memory that an operation reads or fills: a span of a slot, or the shared zeroes.
///
/// Whoever submits an operation holds its slot until the completion (the contract of
/// [`Ring`](super::Ring)), and an engine delivers or drains every operation before it is dropped,
/// so the memory outlives each use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    address: *mut u8,
    length: u32,
}

// SAFETY: the address stays valid while the operation lives (see above), on whichever thread; one
// operation is carried out by one thread at a time.
unsafe impl Send for Memory {}

impl Memory {
    /// The bytes of a span.
    pub(super) fn of(pool: &Pool, span: Span) -> Self {
        Self { address: pool.address(span), length: span.length }
    }

    /// Zeroes to write from; never to read into.
    pub(super) fn zeroes(length: u32) -> Self {
        let zeroes = super::zeroing::zeroes();
        assert!(length as usize <= zeroes.len());
        Self { address: zeroes.as_ptr().cast_mut(), length }
    }

    /// Without the first `count` bytes.
    pub(super) fn skip(self, count: u32) -> Self {
        assert!(count <= self.length);
        // SAFETY: the result lies within, or one past the end of, the same allocation.
        let address = unsafe { self.address.add(count as usize) };
        Self { address, length: self.length - count }
    }

    pub(super) const fn address(self) -> *mut u8 {
        self.address
    }

    pub(super) const fn length(self) -> u32 {
        self.length
    }
}

/// The error number the last call of this thread left.
fn last() -> Errno {
    Errno(Number::last_raw())
}

fn counted(result: isize) -> Result<u32, Errno> {
    u32::try_from(result).map_err(|_| last())
}

fn signed(offset: u64) -> Result<i64, Errno> {
    i64::try_from(offset).map_err(|_| Errno(libc::EFBIG))
}

/// The error number in an `io::Error`, `EIO` if it has none.
pub(super) fn errno(error: &std::io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}

/// `CLOCK_BOOTTIME`.
pub(super) fn boottime() -> Nanos {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .expect("every kernel since 2.6.39 has CLOCK_BOOTTIME");
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec()).unwrap_or(0);
    Nanos(seconds * 1_000_000_000 + nanos)
}

/// Fills `into` with numbers that nobody can guess.
pub(super) fn random_bytes(into: &mut [u8]) {
    let mut filled = 0;
    while filled < into.len() {
        let rest = &mut into[filled..];
        // SAFETY: the pointer and the length are those of one mutable slice.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(count) => filled += count,
            Err(_) => assert!(last().0 == libc::EINTR, "getrandom failed: {}", last()),
        }
    }
}

/// Whether the other end of a stream socket has gone or will send no more: `poll`, without waiting.
pub(super) fn has_hung_up(socket: BorrowedFd<'_>) -> bool {
    // nix has no name for this event, and takes none that it does not know.
    let mut asked = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one entry, alive until the call returns.
    let found = unsafe { libc::poll(&raw mut asked, 1, 0) };
    found > 0 && asked.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
}

/// `pread`.
pub(super) fn read_at(file: BorrowedFd<'_>, into: Memory, offset: u64) -> Result<u32, Errno> {
    let offset = signed(offset)?;
    let (address, length) = (into.address.cast(), into.length as usize);
    // SAFETY: `Memory` is valid for `length` bytes, and only this operation uses it.
    counted(unsafe { libc::pread(file.as_raw_fd(), address, length, offset) })
}

/// `pwritev2` of one vector, with `RWF_DSYNC` if `durable`.
pub(super) fn write_at(
    file: BorrowedFd<'_>,
    from: Memory,
    offset: u64,
    durable: bool,
) -> Result<u32, Errno> {
    let offset = signed(offset)?;
    let vector = libc::iovec { iov_base: from.address.cast(), iov_len: from.length as usize };
    let flags = if durable { libc::RWF_DSYNC } else { 0 };
    // SAFETY: `Memory` is valid for `length` bytes; the vector lives until the call returns.
    counted(unsafe { libc::pwritev2(file.as_raw_fd(), &raw const vector, 1, offset, flags) })
}

/// `recv`.
pub(super) fn receive(socket: BorrowedFd<'_>, into: Memory) -> Result<u32, Errno> {
    let (address, length) = (into.address.cast(), into.length as usize);
    // SAFETY: `Memory` is valid for `length` bytes, and only this operation uses it.
    counted(unsafe { libc::recv(socket.as_raw_fd(), address, length, 0) })
}

/// `sendmsg`, without a signal if the other side has closed.
pub(super) fn send(socket: BorrowedFd<'_>, message: &libc::msghdr) -> Result<u32, Errno> {
    // SAFETY: the header was made by `Outgoing::message`: its vectors point into the gather it
    // owns and into slots held until the completion.
    counted(unsafe { libc::sendmsg(socket.as_raw_fd(), message, libc::MSG_NOSIGNAL) })
}

/// A header that names nothing.
pub(super) fn empty_message() -> libc::msghdr {
    // SAFETY: all-zero bytes are a valid msghdr: null pointers and zero lengths.
    unsafe { std::mem::zeroed() }
}

/// What direct I/O on a file demands, as the kernel says since 6.1 (`STATX_DIOALIGN`): the larger
/// of memory and offset alignment in bytes, 0 if direct I/O is not possible. `None` if the kernel
/// or file system does not say.
pub(crate) fn direct_alignment(file: BorrowedFd<'_>) -> Option<u32> {
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is a valid empty string, allowed by AT_EMPTY_PATH; `found` has the size of
    // the structure the kernel fills.
    let found = unsafe {
        let result = libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            found.as_mut_ptr(),
        );
        if result != 0 {
            return None;
        }
        found.assume_init()
    };
    if found.stx_mask & libc::STATX_DIOALIGN == 0 {
        return None;
    }
    if found.stx_dio_offset_align == 0 {
        return Some(0);
    }
    Some(found.stx_dio_offset_align.max(found.stx_dio_mem_align))
}

mod ioctls {
    nix::ioctl_read!(blkgetsize64, 0x12, 114, u64);
    nix::ioctl_read_bad!(blksszget, 0x1268, libc::c_int);
}

/// Size of a block device in bytes.
///
/// # Errors
/// What the kernel answered, `ENOTTY` for what is not a block device.
pub(crate) fn device_bytes(device: &impl AsFd) -> Result<u64, Errno> {
    let mut bytes = 0_u64;
    // SAFETY: BLKGETSIZE64 writes one u64, and `bytes` is one.
    unsafe { ioctls::blkgetsize64(device.as_fd().as_raw_fd(), &raw mut bytes) }
        .map_err(|number| Errno(number as i32))?;
    Ok(bytes)
}

/// Size of a sector of a block device in bytes (logical: what direct I/O must be aligned to).
///
/// # Errors
/// What the kernel answered, `ENOTTY` for what is not a block device.
pub(crate) fn device_sector_bytes(device: &impl AsFd) -> Result<u32, Errno> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: BLKSSZGET writes one int, and `bytes` is one.
    unsafe { ioctls::blksszget(device.as_fd().as_raw_fd(), &raw mut bytes) }
        .map_err(|number| Errno(number as i32))?;
    u32::try_from(bytes).map_err(|_| Errno(libc::EIO))
}
