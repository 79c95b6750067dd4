//! Owns what a server says about an export, where exports are looked up, and the terms both sides
//! are bound to once negotiation is over. It must never hold an export's state: a lookup is asked
//! afresh for each option.

use crate::constants::{MAX_EXPORT_BYTES, MAX_REQUEST_BYTES, TransmissionFlags};
use crate::error::InvalidExport;
use crate::option::parse_name;

/// One export as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// What clients ask for; UTF-8 without NUL, at most 4096 bytes. Empty is the default export's
    /// name.
    pub name: String,
    /// A text for people, shown by `LIST` and on request by `INFO`; may be empty.
    pub description: String,
    /// At most 2^63 - 1.
    pub size_bytes: u64,
    /// What the export can do. [`ExportInfo::offered`] says what of it reaches the client.
    pub flags: TransmissionFlags,
    /// Smallest unit of offset and length, a power of two up to 65536. With 1, any byte range is
    /// valid.
    pub min_block_bytes: u32,
    /// Unit from which on a request needs no read-modify-write; a power of two, at least 512.
    pub preferred_block_bytes: u32,
    /// Longest READ and WRITE; at most [`MAX_REQUEST_BYTES`].
    pub max_payload_bytes: u32,
    /// If set, the export exists and is not served now. `GO` and `INFO` answer `NBD_REP_ERR_POLICY`
    /// with this text, meant for the person at the client ("not primary; ask node alpha at
    /// 10.0.0.1:10809"); `EXPORT_NAME` closes.
    pub refusal: Option<String>,
}

impl ExportInfo {
    /// A plain export that reads and writes: any byte range, blocks of 4096 preferred, requests up
    /// to 64 MiB, no flags.
    #[must_use]
    pub fn new(name: impl Into<String>, size_bytes: u64) -> Self {
        Self {
            name: name.into(),
            description: String::new(),
            size_bytes,
            flags: TransmissionFlags::NONE,
            min_block_bytes: 1,
            preferred_block_bytes: 4096,
            max_payload_bytes: MAX_REQUEST_BYTES,
            refusal: None,
        }
    }

    /// Whether this can be put on the wire by the rules of section "Size constraints". The
    /// handshake refuses an export that fails this, so a server should ask when it reads its
    /// configuration.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), InvalidExport> {
        parse_name(self.name.as_bytes()).map_err(InvalidExport::Name)?;
        parse_name(self.description.as_bytes()).map_err(InvalidExport::Description)?;
        let (min, preferred, max) =
            (self.min_block_bytes, self.preferred_block_bytes, self.max_payload_bytes);
        if self.size_bytes > MAX_EXPORT_BYTES {
            return Err(InvalidExport::TooLarge(self.size_bytes));
        }
        if !min.is_power_of_two() || min > 1 << 16 {
            return Err(InvalidExport::MinBlock(min));
        }
        if !preferred.is_power_of_two() || preferred < min.max(512) {
            return Err(InvalidExport::PreferredBlock(preferred));
        }
        if max < preferred || max > MAX_REQUEST_BYTES {
            return Err(InvalidExport::MaxPayload(max));
        }
        Ok(())
    }

    /// The flags the client is told. `HAS_FLAGS` is added; `SEND_DF` needs structured replies; a
    /// read-only export offers no command that writes; `SEND_FAST_ZERO` needs `SEND_WRITE_ZEROES`.
    /// Section "Transmission flags".
    #[must_use]
    pub fn offered(&self, structured_replies: bool) -> TransmissionFlags {
        const ZEROES: TransmissionFlags = TransmissionFlags::SEND_WRITE_ZEROES;
        let mut flags = self.flags | TransmissionFlags::HAS_FLAGS;
        if !structured_replies {
            flags = flags.without(TransmissionFlags::SEND_DF);
        }
        if flags.contains(TransmissionFlags::READ_ONLY) {
            flags = flags.without(TransmissionFlags::SEND_TRIM | ZEROES);
        }
        if !flags.contains(ZEROES) {
            flags = flags.without(TransmissionFlags::SEND_FAST_ZERO);
        }
        flags
    }
}

/// Where the handshake looks exports up. Answers are taken at their word for one option only, so
/// they may change with time.
pub trait Exports {
    /// The export a client means by `name`, or `None`. An empty name asks for the default export;
    /// the answer carries the export's own name.
    fn find(&self, name: &str) -> Option<ExportInfo>;

    /// Everything `NBD_OPT_LIST` may show to this client.
    fn list(&self) -> Vec<ExportInfo>;
}

/// Finds by name; an empty name also finds the only export there is.
impl Exports for [ExportInfo] {
    fn find(&self, name: &str) -> Option<ExportInfo> {
        let exact = self.iter().find(|export| export.name == name);
        let only = match self {
            [only] if name.is_empty() => Some(only),
            _ => None,
        };
        exact.or(only).cloned()
    }

    fn list(&self) -> Vec<ExportInfo> {
        self.to_vec()
    }
}

impl<const N: usize> Exports for [ExportInfo; N] {
    fn find(&self, name: &str) -> Option<ExportInfo> {
        self.as_slice().find(name)
    }

    fn list(&self) -> Vec<ExportInfo> {
        self.to_vec()
    }
}

impl Exports for Vec<ExportInfo> {
    fn find(&self, name: &str) -> Option<ExportInfo> {
        self.as_slice().find(name)
    }

    fn list(&self) -> Self {
        self.clone()
    }
}

/// What binds both sides during transmission; all that [`check`](crate::check) needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// End of the export in bytes.
    pub size_bytes: u64,
    /// As told to the client.
    pub flags: TransmissionFlags,
    /// Smallest unit of offset and length, a power of two.
    pub min_block_bytes: u32,
    /// Longest READ and WRITE.
    pub max_payload_bytes: u32,
    /// Whether replies to READ are structured.
    pub structured_replies: bool,
}

/// The end of a successful negotiation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The export as the lookup gave it for the last option; `export.name` is its own name.
    pub export: ExportInfo,
    /// Whether the client asked for structured replies, which all of this session's READs then get.
    pub structured_replies: bool,
    /// Whether the client asked to leave the 124 zero bytes out; nothing of the transmission
    /// depends on it.
    pub no_zeroes: bool,
}

impl Negotiated {
    /// What was agreed, for [`Transmission::new`](crate::Transmission::new).
    #[must_use]
    pub fn terms(&self) -> Terms {
        Terms {
            size_bytes: self.export.size_bytes,
            flags: self.export.offered(self.structured_replies),
            min_block_bytes: self.export.min_block_bytes,
            max_payload_bytes: self.export.max_payload_bytes,
            structured_replies: self.structured_replies,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_name_means_the_only_export_but_never_one_of_two() {
        let mut exports = vec![ExportInfo::new("a", 1)];
        assert_eq!(exports.find("").map(|export| export.name), Some("a".into()));
        exports.push(ExportInfo::new("b", 1));
        assert_eq!(exports.find(""), None);
        exports.push(ExportInfo::new("", 1));
        assert_eq!(exports.find("").map(|export| export.name), Some(String::new()));
    }

    #[test]
    fn each_rule_of_the_size_constraints_is_checked() {
        let broken = |change: fn(&mut ExportInfo)| {
            let mut export = ExportInfo::new("a", 1 << 20);
            assert_eq!(export.validate(), Ok(()));
            change(&mut export);
            export.validate().expect_err("a broken rule")
        };
        assert_eq!(broken(|e| e.size_bytes = 1 << 63), InvalidExport::TooLarge(1 << 63));
        assert_eq!(broken(|e| e.min_block_bytes = 0), InvalidExport::MinBlock(0));
        assert_eq!(broken(|e| e.min_block_bytes = 1 << 17), InvalidExport::MinBlock(1 << 17));
        assert_eq!(broken(|e| e.preferred_block_bytes = 256), InvalidExport::PreferredBlock(256));
        assert_eq!(broken(|e| e.max_payload_bytes = 512), InvalidExport::MaxPayload(512));
        assert_eq!(
            broken(|e| e.max_payload_bytes += 1),
            InvalidExport::MaxPayload(MAX_REQUEST_BYTES + 1)
        );
        assert!(matches!(broken(|e| e.name = "a\0".into()), InvalidExport::Name(_)));
        assert!(matches!(
            broken(|e| e.description = "x".repeat(4097)),
            InvalidExport::Description(_)
        ));
    }

    #[test]
    fn flags_that_make_no_sense_are_not_offered() {
        use TransmissionFlags as F;
        let all = F(0x0dff).without(F::READ_ONLY);
        let mut export = ExportInfo { flags: all, ..ExportInfo::new("a", 1) };
        assert_eq!(export.offered(true), all);
        assert_eq!(export.offered(false), all.without(F::SEND_DF));
        export.flags = all | F::READ_ONLY;
        assert_eq!(
            export.offered(true),
            export.flags.without(F::SEND_TRIM | F::SEND_WRITE_ZEROES | F::SEND_FAST_ZERO)
        );
        export.flags = F::SEND_FAST_ZERO;
        assert_eq!(export.offered(true), F::HAS_FLAGS);
    }
}
