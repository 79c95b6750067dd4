//! Owns what a client can do wrong, and how a session ends, as values to match on and to print.
//! It must never hold a string that a caller has to take apart: every detail is a field.

use thiserror::Error;

use crate::constants::{
    MAX_DRAIN_BYTES, MAX_OPTION_DRAIN_BYTES, MAX_OPTIONS, MAX_STRING_BYTES, OptionCode,
};

/// Why a negotiation ended without an export.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// The ordinary end: the client sent `NBD_OPT_ABORT`. The answer to it is in the output.
    #[error("the client ended the negotiation")]
    Aborted,
    /// Client flags with bits nobody offered; all 32 bits as sent.
    #[error("client flags {0:#010x} hold bits this server did not offer")]
    UnknownClientFlags(u32),
    /// An option that does not begin with `IHAVEOPT`: the stream is out of step, or not NBD at all.
    #[error("{0:#018x} where an option should begin")]
    BadOptionMagic(u64),
    /// An option only fixed newstyle has, from a client that did not choose fixed newstyle.
    #[error("{0} needs fixed newstyle, which the client did not choose")]
    NotFixedNewstyle(OptionCode),
    /// An option longer than is worth reading past.
    #[error("{option} announces {length} bytes, more than {MAX_OPTION_DRAIN_BYTES}")]
    OptionTooLong {
        /// The option that was announced.
        option: OptionCode,
        /// Its announced length in bytes.
        length: u32,
    },
    /// The client keeps asking.
    #[error("more than {MAX_OPTIONS} options in one negotiation")]
    TooManyOptions,
    /// `NBD_OPT_EXPORT_NAME`, which cannot be answered with an error, with a name that cannot be
    /// one.
    #[error("NBD_OPT_EXPORT_NAME: {0}")]
    BadName(#[from] NameError),
    /// `NBD_OPT_EXPORT_NAME` for an export that is not there.
    #[error("NBD_OPT_EXPORT_NAME: no export \"{0}\"")]
    UnknownExport(String),
    /// `NBD_OPT_EXPORT_NAME` for an export that is not served now.
    #[error("NBD_OPT_EXPORT_NAME: \"{name}\" is refused: {message}")]
    Refused {
        /// The export's own name.
        name: String,
        /// Why, as it would have been told under `NBD_OPT_GO`.
        message: String,
    },
    /// Bytes were fed to a negotiation that had ended.
    #[error("the negotiation is over")]
    Finished,
}

/// Why a string of bytes is not an export name. Section "Protocol conventions".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameError {
    /// Its length in bytes.
    #[error("a name of {0} bytes is longer than {MAX_STRING_BYTES}")]
    TooLong(usize),
    /// The place of the first NUL.
    #[error("the name holds a NUL at byte {0}")]
    Nul(usize),
    /// The place of the first byte that is not UTF-8.
    #[error("the name is not UTF-8 at byte {0}")]
    NotUtf8(usize),
}

/// Why an export as the caller described it cannot be offered: a mistake of the server's, never of
/// the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidExport {
    /// The name could never be asked for.
    #[error("{0}")]
    Name(NameError),
    /// The description could not be sent.
    #[error("description: {0}")]
    Description(NameError),
    /// The size in bytes.
    #[error("a size of {0} bytes is beyond 2^63 - 1")]
    TooLarge(u64),
    /// The smallest block in bytes.
    #[error("a minimum block of {0} bytes is not a power of two up to 65536")]
    MinBlock(u32),
    /// The preferred block in bytes.
    #[error("a preferred block of {0} bytes is not a power of two of at least 512 and the minimum")]
    PreferredBlock(u32),
    /// The longest payload in bytes.
    #[error("a longest payload of {0} bytes is not between the preferred block and 64 MiB")]
    MaxPayload(u32),
}

/// Why a connection must be closed during transmission: the stream cannot be followed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TransmissionError {
    /// The four bytes found where a request should begin.
    #[error("{0:#010x} where a request should begin")]
    BadMagic(u32),
    /// A WRITE too long to be worth reading past; its length in bytes.
    #[error("a write of {0} bytes, more than the {MAX_DRAIN_BYTES} that are read past")]
    PayloadTooLong(u32),
}
