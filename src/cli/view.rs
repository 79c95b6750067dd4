//! Owns how resources look to people: one aligned table, below it what its words mean, and what
//! needs somebody.
//! Must never judge: what is degraded, and why, is in what the daemon says.

use comfy_table::{Table, presets};

use super::terminal::Terminal;
use super::trend::{self, Earlier};
use super::words::{self, Word};
use crate::config::quantity::show_bytes;
use crate::control::body::{PeerBody, ResourceBody, StatusBody};

const NO_PEER: &str = "-";

/// A table without lines, as wide as its contents: `cut` and `awk` can read it too.
pub(super) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// The state of resources: the table, resyncs, and what is wrong. `earlier` tells what was seen
/// of a resource's peer before.
pub(super) fn status(
    status: &StatusBody,
    terminal: Terminal,
    earlier: impl Fn(&ResourceBody, &PeerBody) -> Option<Earlier>,
) -> String {
    if status.resources.is_empty() {
        return format!("node {} has no resources", status.node);
    }
    let rows = status.resources.iter().flat_map(rows).collect();
    let head = [
        "RESOURCE",
        "ROLE",
        "DISK",
        "PEER",
        "CONNECTION",
        "REPLICATION",
        "PEER-ROLE",
        "PEER-DISK",
        "OUT-OF-SYNC",
    ];
    let mut text = table(&head, rows);
    for resource in &status.resources {
        for peer in &resource.peers {
            let resync = trend::progress(peer, earlier(resource, peer))
                .map(|progress| format!("{} {progress}", direction(peer)));
            let verify = trend::verify(peer, resource.device_bytes)
                .map(|progress| format!("with {} {progress}", peer.node));
            for line in resync.into_iter().chain(verify) {
                text.push_str(&format!("\n{}: {line}", resource.name));
            }
        }
    }
    for resource in &status.resources {
        let name = terminal.emphasise(&resource.name);
        text.push_str(&format!("\n\n{name}: {}", in_words(resource)));
        for note in notes(resource) {
            text.push_str(&format!("\n  {note}"));
        }
    }
    text
}

/// What the states mean that need nobody: the others have sentences of their own.
fn in_words(resource: &ResourceBody) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut add = |subject: &str, Word { state, meaning, remedy }: Word| {
        if remedy.is_empty() {
            words.push(format!("{subject}{state} ({meaning})"));
        }
    };
    add("", words::role(&resource.role));
    add("disk ", words::disk(&resource.disk));
    for peer in &resource.peers {
        add(&format!("{} ", peer.node), words::connection(&peer.connection));
        let replication = words::replication(&peer.replication);
        let copies = [Some(resource.disk.as_str()), peer.disk.as_deref()];
        let lent = copies.iter().any(|disk| ["Diskless", "Failed"].map(Some).contains(disk));
        match lent && replication.state == "Established" {
            true => add(
                "",
                Word { meaning: "every write reaches the one copy there is", ..replication },
            ),
            false => add("", replication),
        }
    }
    words.join(", ")
}

fn direction(peer: &PeerBody) -> String {
    match peer.replication.ends_with("Target") {
        true => format!("from {}", peer.node),
        false => format!("to {}", peer.node),
    }
}

/// One row per peer, or one for a resource without any.
fn rows(resource: &ResourceBody) -> Vec<Vec<String>> {
    let own = || vec![resource.name.clone(), resource.role.clone(), resource.disk.clone()];
    let dash = || NO_PEER.to_owned();
    if resource.peers.is_empty() {
        return vec![[own(), vec![dash(); 6]].concat()];
    }
    let of_peer = |peer: &PeerBody| {
        vec![
            peer.node.clone(),
            peer.connection.clone(),
            peer.replication.clone(),
            peer.role.clone().unwrap_or_else(dash),
            peer.disk.clone().unwrap_or_else(dash),
            show_bytes(peer.out_of_sync_bytes),
        ]
    };
    resource.peers.iter().map(|peer| [own(), of_peer(peer)].concat()).collect()
}

/// What needs somebody, one sentence each: the state, what it means, what to do.
pub(super) fn notes(resource: &ResourceBody) -> Vec<String> {
    let name = &resource.name;
    let mut notes = Vec::new();
    if resource.just_created {
        notes.push(format!(
            "just created: nobody has said yet where its first contents are. On the node that \
             has them: `twinblk init {name} --from NODE`; if both disks hold only zeroes: \
             `twinblk init {name} --both-empty`"
        ));
    }
    if !resource.suspended.is_empty() {
        notes.push(format!("client I/O waits: {}", resource.suspended));
    }
    let syncing = resource.peers.iter().any(|peer| peer.replication == "SyncTarget");
    // A disk that is being mended, or never had contents, needs no further words.
    if !resource.disk_reason.is_empty() {
        notes.push(format!("disk {}: {}", resource.disk, resource.disk_reason));
    } else if !(syncing || resource.just_created) {
        notes.extend(sentence("disk", words::disk(&resource.disk), name));
    }
    notes.extend(sentence("role", words::role(&resource.role), name));
    for peer in &resource.peers {
        notes.extend(peer_notes(peer, resource));
    }
    if resource.degraded && !resource.may_promote && !resource.just_created {
        notes.push(format!("cannot be promoted now: {}", resource.promote_refusal));
    }
    notes
}

fn peer_notes(peer: &PeerBody, of: &ResourceBody) -> Vec<String> {
    let resource = of.name.as_str();
    let subject = |what: &str| format!("{what} to {}", peer.node);
    let connection = words::connection(&peer.connection);
    let mut notes = Vec::new();
    if !peer.connection_reason.is_empty() {
        // The daemon's own words name the very command: better than the general ones.
        notes.push(format!(
            "{} {}: {}",
            subject("connection"),
            connection.state,
            peer.connection_reason
        ));
    } else {
        notes.extend(sentence(&subject("connection"), connection, resource));
    }
    let replication = words::replication(&peer.replication);
    notes.extend(sentence(&subject("replication"), replication, resource));
    let syncing = peer.replication == "SyncSource" || peer.replication == "PausedSyncSource";
    if let Some(disk) = peer.disk.as_deref().filter(|_| !syncing && !of.just_created) {
        let note = sentence(&format!("disk of {}", peer.node), words::peer_disk(disk), resource);
        notes.extend(note.map(|note| note.replace("PEER", &peer.node)));
    }
    // What differed is marked until it has been copied.
    if peer.verify_differing_bytes > 0 && peer.out_of_sync_bytes > 0 {
        let differing = show_bytes(peer.verify_differing_bytes);
        let next = match of.role == "Primary" {
            _ if peer.role.as_deref() == Some("Primary") => {
                format!("if its copy is right, run there `twinblk verify {resource} --repair`")
            }
            true => format!("overwrite them there with `twinblk verify {resource} --repair`"),
            false => format!(
                "a primary overwrites its peer's: on the node whose copy is right `twinblk promote \
                 {resource}`, then there `twinblk verify {resource} --repair`"
            ),
        };
        notes.push(format!("verify found {differing} that differ on {}: {next}", peer.node));
    }
    notes
}

/// The words on a bad state; none on a good one.
fn sentence(subject: &str, word: Word, resource: &str) -> Option<String> {
    let Word { state, meaning, remedy } = word;
    let remedy = remedy.replace("RES", resource);
    (!remedy.is_empty()).then(|| format!("{subject} {state}: {meaning}. Do: {remedy}"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::control::body::SCHEMA_VERSION;

    pub(in crate::cli) fn peer() -> PeerBody {
        PeerBody {
            node: "beta".to_owned(),
            connection: "Connected".to_owned(),
            connection_reason: String::new(),
            replication: "Established".to_owned(),
            role: Some("Secondary".to_owned()),
            disk: Some("UpToDate".to_owned()),
            out_of_sync_bytes: 0,
            resync_total_bytes: 0,
            resync_done_bytes: 0,
            resync_bytes_per_second: 0,
            last_resync_bytes: 0,
            verify_done_bytes: 0,
            verify_differing_bytes: 0,
            unstable_writes: 0,
        }
    }

    pub(in crate::cli) fn resource() -> ResourceBody {
        ResourceBody {
            name: "r0".to_owned(),
            role: "Primary".to_owned(),
            disk: "UpToDate".to_owned(),
            disk_reason: String::new(),
            just_created: false,
            epoch: 3,
            generation: None,
            device_bytes: 1 << 30,
            suspended: String::new(),
            may_promote: true,
            promote_refusal: String::new(),
            requests_in_flight: 0,
            activity_log_writes: 0,
            degraded: false,
            protocol: "C".to_owned(),
            disk_path: "/dev/vg0/r0".to_owned(),
            metadata_path: "internal".to_owned(),
            nbd_socket: "/run/twinblk/r0.nbd".to_owned(),
            peers: vec![peer()],
        }
    }

    fn shown(resources: Vec<ResourceBody>) -> String {
        let (schema_version, node) = (SCHEMA_VERSION, "alpha".to_owned());
        let body = StatusBody { schema_version, node, resources };
        let terminal = Terminal {
            can_ask: false,
            can_redraw: false,
            can_show_progress: false,
            colour: false,
            error_colour: false,
        };
        status(&body, terminal, |_, _| None)
    }

    #[test]
    fn a_healthy_resource_is_one_row_and_its_words() {
        let expected = "\
RESOURCE  ROLE     DISK      PEER  CONNECTION  REPLICATION  PEER-ROLE  PEER-DISK  OUT-OF-SYNC
r0        Primary  UpToDate  beta  Connected   Established  Secondary  UpToDate   0 B

r0: Primary (serves clients), disk UpToDate (the newest contents), beta Connected (the nodes see \
each other), Established (every write reaches both)";
        assert_eq!(shown(vec![resource()]), expected);
        assert_eq!(shown(vec![]), "node alpha has no resources");
    }

    #[test]
    fn a_bad_state_says_what_it_means_and_what_to_do() {
        let away = PeerBody {
            connection: "Connecting".to_owned(),
            replication: "Off".to_owned(),
            role: None,
            disk: None,
            out_of_sync_bytes: 5 << 20,
            ..peer()
        };
        let lonely = ResourceBody { degraded: true, peers: vec![away], ..resource() };
        let expected = "\
RESOURCE  ROLE     DISK      PEER  CONNECTION  REPLICATION  PEER-ROLE  PEER-DISK  OUT-OF-SYNC
r0        Primary  UpToDate  beta  Connecting  Off          -          -          5 MiB

r0: Primary (serves clients), disk UpToDate (the newest contents), Off (nothing flows: the peer is \
away, or one of the copies is not there)
  connection to beta Connecting: the peer is not reached; the node keeps trying. Do: look at the \
peer's daemon and at the network between";
        assert_eq!(shown(vec![lonely]), expected);
    }

    #[test]
    fn the_daemons_own_reason_beats_the_general_words() {
        let split = PeerBody {
            connection: "StandAlone".to_owned(),
            connection_reason: "split brain. Run X".to_owned(),
            replication: "Off".to_owned(),
            role: None,
            disk: None,
            ..peer()
        };
        let resource = ResourceBody {
            degraded: true,
            suspended: "no UpToDate disk. Run Y".to_owned(),
            may_promote: false,
            promote_refusal: "older than the peer. Run Z".to_owned(),
            disk: "Outdated".to_owned(),
            peers: vec![split],
            ..resource()
        };
        let expected = [
            "client I/O waits: no UpToDate disk. Run Y",
            "disk Outdated: a state that once was, known to be older than the peer's. Do: connect \
             to the peer and it is brought up to date: `twinblk connect r0`",
            "connection to beta StandAlone: split brain. Run X",
            "cannot be promoted now: older than the peer. Run Z",
        ];
        assert_eq!(notes(&resource), expected);
    }

    #[test]
    fn a_new_resource_needs_one_word_only() {
        let peer = PeerBody { disk: Some("Inconsistent".to_owned()), ..peer() };
        let resource = ResourceBody {
            just_created: true,
            degraded: true,
            may_promote: false,
            disk: "Inconsistent".to_owned(),
            peers: vec![peer],
            ..resource()
        };
        let notes = notes(&resource);
        assert!(notes.len() == 1 && notes[0].starts_with("just created"), "{notes:?}");
    }

    #[test]
    fn a_missing_disk_says_why_it_is_missing() {
        let resource = ResourceBody {
            degraded: true,
            disk: "Diskless".to_owned(),
            disk_reason: "it returned an error. Run X".to_owned(),
            ..resource()
        };
        assert_eq!(notes(&resource), ["disk Diskless: it returned an error. Run X"]);
    }

    #[test]
    fn what_helps_a_peer_is_done_there() {
        let peers = vec![PeerBody { disk: Some("Diskless".to_owned()), ..peer() }];
        let resource = ResourceBody { degraded: true, peers, ..resource() };
        let notes = notes(&resource).join("; ");
        assert!(notes.contains("then on beta `twinblk disk attach r0`"), "{notes}");
        assert!(in_words(&resource).contains("every write reaches the one copy there is"));
    }

    #[test]
    fn only_a_primary_repairs() {
        let differs = PeerBody { verify_differing_bytes: 4096, out_of_sync_bytes: 4096, ..peer() };
        let primary = ResourceBody { peers: vec![differs], ..resource() };
        assert!(notes(&primary).join("; ").contains("overwrite them there with"));
        let secondary = ResourceBody { role: "Secondary".to_owned(), ..primary };
        assert!(notes(&secondary).join("; ").contains("`twinblk promote r0`, then there"));
    }

    #[test]
    fn a_resync_needs_nobody() {
        let source = PeerBody {
            replication: "SyncTarget".to_owned(),
            resync_total_bytes: 100,
            resync_done_bytes: 50,
            ..peer()
        };
        let target =
            ResourceBody { disk: "Inconsistent".to_owned(), peers: vec![source], ..resource() };
        assert_eq!(notes(&target), [""; 0]);
        assert!(shown(vec![target]).contains("\nr0: from beta [##########..........] 50.0 %"));
    }
}
