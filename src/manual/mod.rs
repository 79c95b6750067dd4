//! The manual: chapters in Markdown, shown by rustdoc and by `twinblk manual`. It holds prose and must never
//! hold code.

/// Every chapter in reading order: its name and its text.
pub const CHAPTERS: &[(&str, &str)] = &[
    ("one-write", include_str!("one_write.md")),
    ("resync", include_str!("resync.md")),
    ("failover", include_str!("failover.md")),
    ("configuration", include_str!("configuration.md")),
    ("operating", include_str!("operating.md")),
    ("disk-format", include_str!("disk_format.md")),
    ("wire-format", include_str!("wire_format.md")),
    ("performance", include_str!("performance.md")),
    ("promises", include_str!("promises.md")),
    ("testing", include_str!("testing.md")),
];

#[doc = include_str!("one_write.md")]
pub mod one_write {}

#[doc = include_str!("resync.md")]
pub mod resync {}

#[doc = include_str!("failover.md")]
pub mod failover {}

#[doc = include_str!("configuration.md")]
pub mod configuration {}

#[doc = include_str!("operating.md")]
pub mod operating {}

#[doc = include_str!("disk_format.md")]
pub mod disk_format {}

#[doc = include_str!("wire_format.md")]
pub mod wire_format {}

#[doc = include_str!("performance.md")]
pub mod performance {}

#[doc = include_str!("promises.md")]
pub mod promises {}

#[doc = include_str!("testing.md")]
pub mod testing {}
