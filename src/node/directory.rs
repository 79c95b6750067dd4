//! Owns what NBD clients find: which resources there are, which are served here, and where else to
//! ask. Shared between shards, which say so, and negotiations, which look it up.
//! Must never be asked by a shard about data.

use super::local::Mailbox;
use super::site::ResourceIndex;
use crate::export::ExportOptions;
use crate::units::BLOCK_BYTES;
use std::collections::BTreeMap;
use std::sync::{OnceLock, PoisonError, RwLock};
use twinblk_nbd::{ExportInfo, Exports};

/// One resource, as clients see it.
struct Entry {
    index: ResourceIndex,
    description: String,
    /// Why it is not served here, and whom to ask.
    elsewhere: String,
    /// Bytes, while it is served here.
    served: Option<u64>,
    mailbox: OnceLock<Mailbox>,
}

/// All resources of this node.
#[derive(Default)]
pub(super) struct Directory {
    entries: RwLock<BTreeMap<String, Entry>>,
}

impl Directory {
    /// Adds a resource that is not served yet.
    pub(super) fn add(&self, name: &str, index: ResourceIndex, texts: [String; 2]) {
        let [description, elsewhere] = texts;
        let entry = Entry { index, description, elsewhere, served: None, mailbox: OnceLock::new() };
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.insert(name.to_owned(), entry);
    }

    /// Says which shard a resource is on, once that one runs.
    pub(super) fn settle(&self, name: &str, mailbox: &Mailbox) {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(name) {
            let _ = entry.mailbox.set(mailbox.clone());
        }
    }

    /// A resource is served here with so many bytes, or not any more.
    pub(super) fn set(&self, name: &str, device_bytes: Option<u64>) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(name) {
            entry.served = device_bytes;
        }
    }

    /// The shard of a resource.
    pub(super) fn shard_of(&self, name: &str) -> Option<Mailbox> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.get(name)?.mailbox.get().cloned()
    }

    /// The shard of a resource, and its place there.
    pub(super) fn locate(&self, name: &str) -> Option<(Mailbox, ResourceIndex)> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.get(name)?;
        Some((entry.mailbox.get()?.clone(), entry.index))
    }

    fn info(name: &str, entry: &Entry) -> ExportInfo {
        let options = ExportOptions {
            name: name.to_owned(),
            description: entry.description.clone(),
            device_bytes: entry.served.unwrap_or(BLOCK_BYTES),
        };
        let refusal = entry.served.is_none().then(|| entry.elsewhere.clone());
        options.info(refusal)
    }
}

impl Exports for Directory {
    fn find(&self, name: &str) -> Option<ExportInfo> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        if name.is_empty() && entries.len() == 1 {
            return entries.iter().next().map(|(name, entry)| Self::info(name, entry));
        }
        entries.get_key_value(name).map(|(name, entry)| Self::info(name, entry))
    }

    fn list(&self) -> Vec<ExportInfo> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.iter().map(|(name, entry)| Self::info(name, entry)).collect()
    }
}

/// One resource of the directory: what a socket of its own leads to.
pub(super) struct Only<'a> {
    pub(super) directory: &'a Directory,
    pub(super) name: &'a str,
}

impl Exports for Only<'_> {
    fn find(&self, name: &str) -> Option<ExportInfo> {
        let wanted = name.is_empty() || name == self.name;
        wanted.then(|| self.directory.find(self.name)).flatten()
    }

    fn list(&self) -> Vec<ExportInfo> {
        self.directory.find(self.name).into_iter().collect()
    }
}
