//! Owns the reasons why a session ends, in words for the log. Must never end one.

use std::fmt;

use twinblk_nbd::TransmissionError;

use crate::ring::Errno;

/// Why a session ended, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    BrokeOff,
    Socket(Errno),
    Stream(TransmissionError),
    NotServed,
    Stalled,
    GaveWay,
    HungUp,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BrokeOff => f.write_str("the client closed it in the middle of a request"),
            Self::Socket(errno) => write!(f, "the connection failed: {errno}"),
            Self::Stream(error) => write!(f, "the client does not speak NBD: {error}"),
            Self::NotServed => f.write_str("the resource is not served here any more"),
            Self::Stalled => f.write_str(
                "the client kept memory that others waited for, and neither read nor sent",
            ),
            Self::HungUp => f.write_str("the client hung up while its requests were waiting"),
            Self::GaveWay => f.write_str("it was leaving, and its place was needed"),
        }
    }
}
