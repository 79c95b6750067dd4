//! Owns the one configuration file, `/etc/twinblk/twinblk.toml`, identical on all nodes: from text
//! to checked values, with every mistake of the file shown in one run.
//! Must never be read again by the parts: each is handed the small struct of options it needs.
//!
//! What can be written, and why the defaults are as they are: `manual::configuration`.

mod cross;
mod global;
mod name;
mod node;
mod problem;
pub mod quantity;
mod resource;
mod secret;
mod section;
mod value;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use toml::de::DeTable;

pub use global::{Engine, LinkTimes, Tuning};
pub use name::{Name, NameError};
pub use node::Node;
pub use problem::{Problem, Report, Severity};
pub use resource::{
    Metadata, OnCongestion, OnIoError, OnPeerLoss, Replica, Resource, ResyncOptions,
};
pub use secret::{Secret, SecretError};

use crate::units::NodeId;
use problem::{Complaint, Problems};
use section::Section;

/// Where the file is unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/twinblk/twinblk.toml";

/// Where sockets are unless the file says otherwise.
pub const DEFAULT_RUN_DIRECTORY: &str = "/run/twinblk";

/// Where the secret is unless the file says otherwise.
pub const DEFAULT_SECRET_FILE: &str = "/etc/twinblk/secret";

/// Largest file read: a thousand resources need a fifth of it, and a mistaken path to a device
/// must not fill memory.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// All that the file says, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// File with the secret both nodes share; see [`Config::secret`].
    pub secret_file: PathBuf,
    /// Sizes and threads of the data plane.
    pub tuning: Tuning,
    /// Times of the replication link.
    pub link: LinkTimes,
    /// The nodes, by name.
    pub nodes: Vec<Node>,
    /// The resources, by name.
    pub resources: Vec<Resource>,
    /// What is allowed but should be looked at.
    pub warnings: Report,
}

/// Why there is no [`Config`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigErrors {
    /// The file could not be read.
    #[error(
        "cannot read the configuration {}: {source}\n\
         Write the file (`twinblk manual configuration` has an example), or name another with --config.",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file has mistakes; all of them are listed.
    #[error("{0}")]
    Mistakes(Box<Report>),
}

/// Why it is not known which node this machine is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; nodes in {}: {nodes}.\nSay which one this machine is with --node NAME.", path.display())]
pub struct UnknownNode {
    reason: String,
    nodes: String,
    path: PathBuf,
}

/// Reads and checks the file.
///
/// # Errors
/// If it cannot be read, or with every mistake found in it.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let unreadable = |source| ConfigErrors::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let why = format!("it is larger than {}", quantity::show_bytes(FILE_BYTES_MAX));
        return Err(unreadable(io::Error::new(io::ErrorKind::FileTooLarge, why)));
    }
    let text = String::from_utf8(bytes)
        .map_err(|why| unreadable(io::Error::new(io::ErrorKind::InvalidData, why.utf8_error())))?;
    parse(path, &text)
}

/// Checks the text of a file; `path` is only for messages.
///
/// # Errors
/// With every mistake found.
pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigErrors> {
    let mut problems = Problems::default();
    let (table, unparsable) = DeTable::parse_recoverable(text);
    let config = read(path, table.get_ref(), &mut problems);
    let mut syntax = Problems::default();
    for error in unparsable {
        let remedy = "see https://toml.io for how to write it";
        syntax.error(error.span().unwrap_or(0..0), Complaint::new(error.message(), remedy));
    }
    let mut listed = syntax.into_sorted();
    if !listed.is_empty() {
        problems.forget_consequences(text, &listed);
    }
    listed.extend(problems.into_sorted());
    listed.sort_by_key(|problem| problem.span.start);
    let report = Report::new(path, text, listed);
    match config {
        Some(config) if report.errors() == 0 => Ok(Config { warnings: report, ..config }),
        _ => Err(ConfigErrors::Mistakes(Box::new(report))),
    }
}

/// None only if something was said in `problems`.
fn read(path: &Path, table: &DeTable<'_>, problems: &mut Problems) -> Option<Config> {
    let mut file = Section::root(table);
    let secret_file = file.setting("secret_file", problems, value::path);
    let run_directory = file.setting("run_directory", problems, value::path);
    let run_directory = run_directory.unwrap_or_else(|| DEFAULT_RUN_DIRECTORY.into());
    let tuning = global::tuning(&mut file, problems);
    let link = global::link_times(&mut file, problems);
    let nodes = node::read_all(&mut file, &run_directory, problems);
    let resources = resource::read_all(&mut file, problems);
    let _places = file.finish(problems);
    cross::Drafts { tuning: &tuning, nodes: &nodes, resources: &resources }.check(problems);
    let nodes: Vec<Node> = nodes.into_iter().map(node::Draft::finish).collect::<Option<_>>()?;
    let resources = resources.into_iter().map(|draft| draft.finish(&nodes));
    Some(Config {
        path: path.to_owned(),
        secret_file: secret_file.unwrap_or_else(|| DEFAULT_SECRET_FILE.into()),
        tuning,
        link,
        resources: resources.collect::<Option<_>>()?,
        nodes,
        warnings: Report::new(path, "", Vec::new()),
    })
}

impl Config {
    /// The node this machine is: `wanted`, or else the one named like the host (in full, or up to
    /// the first dot).
    ///
    /// # Errors
    /// If there is no such node.
    pub fn local(&self, wanted: Option<&str>) -> Result<&Node, UnknownNode> {
        let hostname =
            nix::sys::utsname::uname().map(|host| host.nodename().to_string_lossy().into_owned());
        let hostname = hostname.unwrap_or_default();
        self.local_on(wanted, &hostname)
    }

    fn local_on(&self, wanted: Option<&str>, hostname: &str) -> Result<&Node, UnknownNode> {
        let short = hostname.split('.').next().unwrap_or_default();
        let (found, reason) = match wanted {
            Some(name) => (self.node_named(name), format!("there is no node {name:?}")),
            None => (
                self.node_named(hostname).or_else(|| self.node_named(short)),
                format!("no node is named like this host, {hostname:?}"),
            ),
        };
        found.ok_or_else(|| {
            let nodes: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
            UnknownNode { reason, nodes: nodes.join(", "), path: self.path.clone() }
        })
    }

    /// A node by number.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// A node by name.
    #[must_use]
    pub fn node_named(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name.as_str() == name)
    }

    /// A resource by name.
    #[must_use]
    pub fn resource(&self, name: &str) -> Option<&Resource> {
        self.resources.iter().find(|resource| resource.name.as_str() == name)
    }

    /// The resources that have a replica on a node, by name.
    pub fn resources_on(&self, node: NodeId) -> impl Iterator<Item = &Resource> {
        self.resources.iter().filter(move |resource| resource.mine(node).is_some())
    }

    /// Reads the secret both nodes share.
    ///
    /// # Errors
    /// If it cannot be read, is empty, or is readable by others than its owner.
    pub fn secret(&self) -> Result<Secret, SecretError> {
        Secret::read(&self.secret_file)
    }
}

#[cfg(test)]
mod tests;
