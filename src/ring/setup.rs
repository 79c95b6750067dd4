//! Owns how an io_uring is obtained: with everything that makes it fast, then with less and less
//! of it, as kernel and limits allow. Must never submit anything.

use std::io;

use io_uring::IoUring;

use super::Errno;
use super::system_calls::errno;

/// Threads the kernel may start for operations that block: enough that one hung disk does not
/// hold up the syncs of others; its own default is unbounded.
const BLOCKING_THREADS: u32 = 16;

/// Queue sizes to try, submissions and completions, when memory that may be locked is short.
const SIZES: [(u32, u32); 4] = [(256, 4096), (128, 1024), (32, 256), (8, 64)];

/// Setup flags, in the order in which they are given up: newest first, so that an older kernel
/// loses no more than it must.
const FLAGS: [(&str, Apply); 5] = [
    ("NO_SQARRAY", |builder| {
        builder.setup_no_sqarray();
    }),
    ("DEFER_TASKRUN", |builder| {
        builder.setup_defer_taskrun();
    }),
    ("SINGLE_ISSUER", |builder| {
        builder.setup_single_issuer();
    }),
    ("SUBMIT_ALL", |builder| {
        builder.setup_submit_all();
    }),
    ("CLAMP", |builder| {
        builder.setup_clamp();
    }),
];

type Apply = fn(&mut io_uring::Builder);

/// What is asked of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    submissions: u32,
    completions: u32,
    /// So many of the flags are given up, from the first on.
    given_up: usize,
}

impl Wish {
    /// Entries of the completion queue asked for.
    pub(super) const fn completions(&self) -> u32 {
        self.completions
    }

    /// The flags still asked for, by name.
    pub(super) fn flags(&self) -> String {
        let names: Vec<_> = FLAGS[self.given_up..].iter().map(|(name, _)| *name).collect();
        names.join("|")
    }
}

/// Why there is no io_uring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("this kernel has no io_uring (before Linux 5.1, or built without it)")]
    Absent,
    #[error(
        "io_uring is forbidden here; allow it with sysctl kernel.io_uring_disabled=0, or in the \
         seccomp profile of the container"
    )]
    Forbidden,
    #[error(
        "io_uring gets no memory, not even for the smallest queues; raise RLIMIT_MEMLOCK \
         (`ulimit -l`, or LimitMEMLOCK= in a systemd unit)"
    )]
    Memory,
    #[error("this kernel's io_uring is too old: it cannot wait with a timeout (Linux 5.11 can)")]
    TooOld,
    #[error("io_uring cannot be set up: {0}")]
    Other(Errno),
}

/// How a ring is made; tests put failures here.
pub(super) type Build<'a> = &'a mut dyn FnMut(&Wish) -> io::Result<IoUring>;

/// Asks the kernel.
pub(super) fn build(wish: &Wish) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.dontfork().setup_cqsize(wish.completions);
    for (_, apply) in &FLAGS[wish.given_up..] {
        apply(&mut builder);
    }
    builder.build(wish.submissions)
}

/// Gets the best ring there is.
pub(super) fn set_up(build: Build<'_>) -> Result<(IoUring, Wish), Refused> {
    let (mut size, mut given_up) = (0, 0);
    loop {
        let Some(&(submissions, completions)) = SIZES.get(size) else {
            return Err(Refused::Memory);
        };
        let wish = Wish { submissions, completions, given_up };
        let refusal = match build(&wish) {
            // Every operation used here is older than this feature, and so is that no completion is lost.
            Ok(ring) if ring.params().is_feature_ext_arg() => return Ok((tuned(ring), wish)),
            Ok(_) => return Err(Refused::TooOld),
            Err(error) => errno(&error),
        };
        match refusal.0 {
            libc::ENOMEM => size += 1,
            libc::EINVAL if given_up < FLAGS.len() => given_up += 1,
            libc::ENOSYS => return Err(Refused::Absent),
            libc::EPERM | libc::EACCES => return Err(Refused::Forbidden),
            _ => return Err(Refused::Other(refusal)),
        }
    }
}

/// Bounds the kernel's threads; a kernel that cannot keeps its default.
fn tuned(ring: IoUring) -> IoUring {
    let mut most = [BLOCKING_THREADS; 2];
    let _ = ring.submitter().register_iowq_max_workers(&mut most);
    ring
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusing(number: i32) -> io::Result<IoUring> {
        Err(io::Error::from_raw_os_error(number))
    }

    #[test]
    fn flags_are_given_up_one_by_one() {
        let mut asked = Vec::new();
        let made = set_up(&mut |wish| {
            asked.push(wish.flags());
            if wish.given_up < 2 {
                return refusing(libc::EINVAL);
            }
            build(wish)
        });
        assert!(made.is_ok());
        assert_eq!(
            asked,
            [
                "NO_SQARRAY|DEFER_TASKRUN|SINGLE_ISSUER|SUBMIT_ALL|CLAMP",
                "DEFER_TASKRUN|SINGLE_ISSUER|SUBMIT_ALL|CLAMP",
                "SINGLE_ISSUER|SUBMIT_ALL|CLAMP",
            ]
        );
    }

    #[test]
    fn queues_shrink_when_memory_is_short() {
        let mut sizes = Vec::new();
        let made = set_up(&mut |wish| {
            sizes.push(wish.submissions);
            if wish.submissions > 8 {
                return refusing(libc::ENOMEM);
            }
            build(wish)
        });
        assert!(made.is_ok());
        assert_eq!(sizes, [256, 128, 32, 8]);
    }

    #[test]
    fn every_refusal_ends_and_has_a_reason() {
        for (number, reason) in [
            (libc::ENOSYS, Refused::Absent),
            (libc::EPERM, Refused::Forbidden),
            (libc::ENOMEM, Refused::Memory),
            (libc::EINVAL, Refused::Other(Errno(libc::EINVAL))),
            (libc::EMFILE, Refused::Other(Errno(libc::EMFILE))),
        ] {
            let made = set_up(&mut |_| refusing(number));
            assert_eq!(made.err(), Some(reason));
        }
    }
}
