//! Owns every number of the protocol, as tables of name = number, and every bound this crate keeps,
//! with its reason. It must never decide anything: which flag goes with which command is
//! `request`'s business.
//!
//! Section names are those of `doc/proto.md` in the NBD project. A number that is not in a table
//! survives as it is and prints as a number.

use std::fmt;

/// First 8 bytes a server sends: ASCII `NBDMAGIC`. Section "Newstyle negotiation".
pub const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second 8 bytes a server sends, and the first 8 of every option a client sends: ASCII `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Opens every reply to an option but `NBD_OPT_EXPORT_NAME`. Section "Fixed newstyle negotiation".
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Opens every request. Section "Request message".
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Opens a simple reply. Section "Simple reply message".
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Opens a structured reply chunk. Section "Structured reply chunk message".
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Longest READ and WRITE served, in bytes. 64 MiB is what nbdkit allows too; the specification
/// asks for 32 MiB at least, and the longest single request of the reference suite is 49.9 MB.
pub const MAX_REQUEST_BYTES: u32 = 64 << 20;
/// Longest WRITE payload, in bytes, that is read and thrown away so that its refusal can be
/// answered; beyond it the connection is closed. Twice the longest request lets a client that
/// merely guessed the limit wrong live on.
pub const MAX_DRAIN_BYTES: u32 = 2 * MAX_REQUEST_BYTES;
/// Longest string in bytes: names, descriptions, messages. Section "Protocol conventions".
pub const MAX_STRING_BYTES: u32 = 4096;
/// Longest option payload that is kept, in bytes: four times the longest name leaves room for every
/// information request there is, and is the most memory a negotiation takes for input.
pub const MAX_OPTION_BYTES: u32 = 16 << 10;
/// Longest option payload that is read and thrown away so that the option can be answered; beyond
/// it the connection is closed, so that a client cannot keep a server busy with one option of 4
/// GiB.
pub const MAX_OPTION_DRAIN_BYTES: u32 = 64 << 10;
/// Most options in one negotiation. Real clients send fewer than ten; a limit makes the work per
/// connection finite.
pub const MAX_OPTIONS: u32 = 128;
/// Largest export size in bytes: clients keep offsets in signed 64-bit numbers.
pub const MAX_EXPORT_BYTES: u64 = i64::MAX as u64;

/// A newtype over a number with a table of names. `Debug` and `Display` print `NAME (number)`.
macro_rules! numbers {
    ($(#[$outer:meta])* $name:ident: $repr:ty, $prefix:literal; $($(#[$doc:meta])* $item:ident = $value:expr;)+) => {
        $(#[$outer])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(pub $repr);

        impl $name {
            $($(#[$doc])* pub const $item: Self = Self($value);)+

            /// The specification's spelling, or `None` for a number this crate has no name for.
            #[must_use]
            pub const fn spelling(self) -> Option<&'static str> {
                $(if self.0 == $value { return Some(concat!($prefix, stringify!($item))); })+
                None
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} ({:#x})", self.spelling().unwrap_or(concat!("unknown ", $prefix)), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

/// A set of bits with a table of names. `Debug` and `Display` print `NAME|NAME|0x8000`, and `0` for
/// none.
macro_rules! flags {
    ($(#[$outer:meta])* $name:ident: $repr:ty; $($(#[$doc:meta])* $item:ident = $bit:literal;)+) => {
        $(#[$outer])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name(pub $repr);

        impl $name {
            /// No bit set.
            pub const NONE: Self = Self(0);
            $($(#[$doc])* pub const $item: Self = Self(1 << $bit);)+

            /// Whether every bit of `wanted` is set.
            #[must_use]
            pub const fn contains(self, wanted: Self) -> bool {
                self.0 & wanted.0 == wanted.0
            }

            /// All bits of either; usable in constants, where `|` is not.
            #[must_use]
            pub const fn with(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// The bits of this set that are not in `other`.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// Whether no bit is set, known or unknown.
            #[must_use]
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }
        }

        impl std::ops::BitOr for $name {
            type Output = Self;
            fn bitor(self, other: Self) -> Self {
                self.with(other)
            }
        }

        impl std::ops::BitOrAssign for $name {
            fn bitor_assign(&mut self, other: Self) {
                *self = self.with(other);
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if self.is_empty() {
                    return f.write_str("0");
                }
                let (mut rest, mut bar) = (*self, "");
                $(if self.contains(Self::$item) {
                    write!(f, "{bar}{}", stringify!($item))?;
                    (rest, bar) = (rest.without(Self::$item), "|");
                })+
                if rest.is_empty() { Ok(()) } else { write!(f, "{bar}{:#x}", rest.0) }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

flags! {
    /// 16 bits the server opens with. Section "Handshake flags".
    HandshakeFlags: u16;
    /// Options other than `NBD_OPT_EXPORT_NAME` are understood and answered.
    FIXED_NEWSTYLE = 0;
    /// The server can leave out the 124 zero bytes after `NBD_OPT_EXPORT_NAME`.
    NO_ZEROES = 1;
}

flags! {
    /// 32 bits the client answers with. Section "Client flags": any other bit ends the session.
    ClientFlags: u32;
    /// The client sends and understands options other than `NBD_OPT_EXPORT_NAME`.
    FIXED_NEWSTYLE = 0;
    /// The client wants the 124 zero bytes left out.
    NO_ZEROES = 1;
}

flags! {
    /// 16 bits that say what an export can do. Section "Transmission flags".
    TransmissionFlags: u16;
    /// Always set on the wire; added for you.
    HAS_FLAGS = 0;
    /// Writing commands fail with `NBD_EPERM`.
    READ_ONLY = 1;
    /// `NBD_CMD_FLUSH` is served.
    SEND_FLUSH = 2;
    /// `NBD_CMD_FLAG_FUA` is honoured.
    SEND_FUA = 3;
    /// Seeking is slow.
    ROTATIONAL = 4;
    /// `NBD_CMD_TRIM` is served.
    SEND_TRIM = 5;
    /// `NBD_CMD_WRITE_ZEROES` and `NBD_CMD_FLAG_NO_HOLE` are served.
    SEND_WRITE_ZEROES = 6;
    /// `NBD_CMD_FLAG_DF` is honoured; sent only once structured replies are agreed.
    SEND_DF = 7;
    /// A flush on one connection covers writes replied to on any other.
    CAN_MULTI_CONN = 8;
    /// `NBD_CMD_CACHE` is served.
    SEND_CACHE = 10;
    /// `NBD_CMD_FLAG_FAST_ZERO` is honoured.
    SEND_FAST_ZERO = 11;
}

flags! {
    /// 16 bits of every request. Section "Command flags".
    CommandFlags: u16;
    /// Reply only once what this command wrote is on stable storage.
    FUA = 0;
    /// Zero without deallocating; `NBD_CMD_WRITE_ZEROES` only.
    NO_HOLE = 1;
    /// At most one content chunk in the reply; `NBD_CMD_READ` only.
    DF = 2;
    /// One extent per context; `NBD_CMD_BLOCK_STATUS` only.
    REQ_ONE = 3;
    /// Fail with `NBD_ENOTSUP` rather than zero as slowly as a write; `NBD_CMD_WRITE_ZEROES` only.
    FAST_ZERO = 4;
}

flags! {
    /// 16 bits of every structured reply chunk. Section "Structured reply flags".
    ChunkFlags: u16;
    /// The last chunk of its reply.
    DONE = 0;
}

numbers! {
    /// What a client asks for while negotiating. Section "Option types".
    OptionCode: u32, "NBD_OPT_";
    /// Choose an export and begin transmission; cannot report an error.
    EXPORT_NAME = 1;
    /// End the session.
    ABORT = 2;
    /// Name all exports.
    LIST = 3;
    /// Withdrawn from the specification.
    PEEK_EXPORT = 4;
    /// Upgrade to TLS.
    STARTTLS = 5;
    /// Describe an export.
    INFO = 6;
    /// Describe an export and begin transmission.
    GO = 7;
    /// Use structured replies.
    STRUCTURED_REPLY = 8;
    /// Name the metadata contexts of an export.
    LIST_META_CONTEXT = 9;
    /// Choose the metadata contexts of an export.
    SET_META_CONTEXT = 10;
    /// Use the experimental 64-bit headers.
    EXTENDED_HEADERS = 11;
}

numbers! {
    /// What a server answers while negotiating. Section "Option reply types"; bit 31 marks an
    /// error.
    OptionReply: u32, "NBD_REP_";
    /// Done, and it worked.
    ACK = 1;
    /// One export of a list.
    SERVER = 2;
    /// One piece of information about an export.
    INFO = 3;
    /// One metadata context.
    META_CONTEXT = 4;
    /// The option is not known here.
    ERR_UNSUP = (1 << 31) + 1;
    /// The option is known and well formed, and not allowed.
    ERR_POLICY = (1 << 31) + 2;
    /// The option is malformed or out of place.
    ERR_INVALID = (1 << 31) + 3;
    /// Not available on this platform.
    ERR_PLATFORM = (1 << 31) + 4;
    /// TLS first.
    ERR_TLS_REQD = (1 << 31) + 5;
    /// No such export.
    ERR_UNKNOWN = (1 << 31) + 6;
    /// The server is going away.
    ERR_SHUTDOWN = (1 << 31) + 7;
    /// Ask for `NBD_INFO_BLOCK_SIZE` first.
    ERR_BLOCK_SIZE_REQD = (1 << 31) + 8;
    /// The option or its answer is too long.
    ERR_TOO_BIG = (1 << 31) + 9;
    /// Extended headers first.
    ERR_EXT_HEADER_REQD = (1 << 31) + 10;
}

impl OptionReply {
    /// Whether bit 31 is set, as in every error the specification has or will have.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 >> 31 == 1
    }
}

numbers! {
    /// Pieces of information about an export. Section "Option reply types", under `NBD_REP_INFO`.
    InfoType: u16, "NBD_INFO_";
    /// Size and transmission flags.
    EXPORT = 0;
    /// The name the server itself uses.
    NAME = 1;
    /// A text for people.
    DESCRIPTION = 2;
    /// Smallest and preferred block, longest payload.
    BLOCK_SIZE = 3;
}

numbers! {
    /// What a request asks for. Section "Request types".
    Command: u16, "NBD_CMD_";
    /// `length` bytes at `offset`, please.
    READ = 0;
    /// `length` bytes follow, for `offset`.
    WRITE = 1;
    /// Finish what is pending and hang up; never answered.
    DISC = 2;
    /// All writes replied to so far, on stable storage.
    FLUSH = 3;
    /// The range is no longer needed.
    TRIM = 4;
    /// The range will be needed soon.
    CACHE = 5;
    /// The range shall read as zeroes.
    WRITE_ZEROES = 6;
    /// What is known about the range.
    BLOCK_STATUS = 7;
}

numbers! {
    /// Kinds of structured reply chunk. Section "Structured reply types"; bit 15 marks an error.
    ChunkType: u16, "NBD_REPLY_TYPE_";
    /// Nothing but the end of the reply.
    NONE = 0;
    /// Content of a range.
    OFFSET_DATA = 1;
    /// A range of zeroes.
    OFFSET_HOLE = 2;
    /// Extents of a metadata context.
    BLOCK_STATUS = 5;
    /// The request failed.
    ERROR = (1 << 15) + 1;
    /// The request failed at one place.
    ERROR_OFFSET = (1 << 15) + 2;
}

impl ChunkType {
    /// Whether bit 15 is set, as in every error the specification has or will have.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 >> 15 == 1
    }
}

numbers! {
    /// Why a request failed. Section "Error values": these numbers on every platform, whatever its
    /// own are.
    Errno: u32, "NBD_E";
    /// A write on a read-only export.
    PERM = 1;
    /// The storage failed.
    IO = 5;
    /// No memory; never sent if at all possible.
    NOMEM = 12;
    /// A request that makes no sense; clients read any unknown number as this one.
    INVAL = 22;
    /// A write past the end, or a full backing store.
    NOSPC = 28;
    /// A read too long to answer in one piece.
    OVERFLOW = 75;
    /// A fast zero that would not be fast.
    NOTSUP = 95;
    /// The server is going away; the client must disconnect.
    SHUTDOWN = 108;
}

impl Errno {
    /// The number to send for an errno of Linux: `EDQUOT` and `EFBIG` become `NBD_ENOSPC` as the
    /// specification asks, `EROFS` and `EACCES` become `NBD_EPERM`, and whatever has no counterpart
    /// `NBD_EIO`.
    ///
    /// `EINVAL`, `EOVERFLOW` and `EOPNOTSUPP` become `NBD_EIO` as well: from storage they speak of
    /// the server's own call, while a client would take them for an answer about its request.
    #[must_use]
    pub const fn from_linux(errno: i32) -> Self {
        match errno {
            1 | 13 | 30 => Self::PERM,
            12 => Self::NOMEM,
            27 | 28 | 122 => Self::NOSPC,
            108 => Self::SHUTDOWN,
            _ => Self::IO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_their_name_and_unknown_ones_survive() {
        assert_eq!(Errno::NOSPC.to_string(), "NBD_ENOSPC (0x1c)");
        assert_eq!(format!("{:?}", OptionCode(99)), "unknown NBD_OPT_ (0x63)");
        assert_eq!(OptionReply::ERR_POLICY.0, 0x8000_0002);
        assert!(OptionReply::ERR_POLICY.is_error() && !OptionReply::INFO.is_error());
        assert!(ChunkType::ERROR_OFFSET.is_error() && !ChunkType::OFFSET_HOLE.is_error());
    }

    #[test]
    fn flags_print_their_names_and_keep_strangers() {
        assert_eq!(CommandFlags::NONE.to_string(), "0");
        assert_eq!((CommandFlags::FUA | CommandFlags(0x8000)).to_string(), "FUA|0x8000");
        assert_eq!(CommandFlags(0x8000).to_string(), "0x8000");
    }

    #[test]
    fn the_numbers_of_linux_become_those_of_the_specification() {
        let pairs = [
            (28, Errno::NOSPC),
            (122, Errno::NOSPC),
            (27, Errno::NOSPC),
            (30, Errno::PERM),
            (22, Errno::IO),
            (-1, Errno::IO),
        ];
        for (linux, nbd) in pairs {
            assert_eq!(Errno::from_linux(linux), nbd, "{linux}");
        }
    }
}
