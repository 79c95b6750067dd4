//! Owns what each state means, in one plain sentence, and what to do where it is bad.
//! Must never leave a state of the daemon without words.

/// What a state means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// As the daemon spells it.
    pub(super) state: &'static str,
    /// What it means.
    pub(super) meaning: &'static str,
    /// What to do; empty where nothing is wrong. `RES` stands for the resource.
    pub(super) remedy: &'static str,
}

const fn good(state: &'static str, meaning: &'static str) -> Word {
    Word { state, meaning, remedy: "" }
}

const fn bad(state: &'static str, meaning: &'static str, remedy: &'static str) -> Word {
    Word { state, meaning, remedy }
}

/// A state from a newer daemon.
const UNKNOWN: Word = bad(
    "?",
    "a state that this version of the command does not know",
    "use the command of the daemon's own version",
);

const ROLES: [Word; 2] =
    [good("Primary", "serves clients"), good("Secondary", "keeps a copy and shows it to nobody")];

const DISKS: [Word; 6] = [
    bad(
        "Diskless",
        "no local copy: the disk failed or was detached, and the peer's copy serves",
        "mend or change the disk, then `twinblk disk attach RES` for the same one or \
         `twinblk disk replace RES` for a new one",
    ),
    bad(
        "Failed",
        "the disk returned an error and is being let go",
        "look at the kernel's log (`dmesg`), change the disk, then `twinblk disk replace RES`",
    ),
    bad(
        "Inconsistent",
        "a mixture of old and new blocks, of no use until a resync has ended",
        "keep the peer connected and wait: `twinblk wait RES --for insync --timeout 12h`",
    ),
    bad(
        "Outdated",
        "a state that once was, known to be older than the peer's",
        "connect to the peer and it is brought up to date: `twinblk connect RES`",
    ),
    bad(
        "Consistent",
        "a state that once was; whether it is the newest is not known without the peer",
        "bring the peer back, or make sure that it is off and give your word: \
         `twinblk promote --force RES`",
    ),
    good("UpToDate", "the newest contents"),
];

/// The same of a peer's: what helps has to be done there.
const PEER_DISKS: [Word; 6] = [
    bad(
        "Diskless",
        "no copy there: its disk failed or was detached",
        "mend or change its disk, then on PEER `twinblk disk attach RES` for the same one or \
         `twinblk disk replace RES` for a new one",
    ),
    bad(
        "Failed",
        "its disk returned an error and is being let go",
        "look at the kernel's log on PEER (`dmesg`), change its disk, then there `twinblk disk replace RES`",
    ),
    bad(
        "Inconsistent",
        "a mixture of old and new blocks, of no use until a resync has ended",
        "keep the nodes connected and wait: `twinblk wait RES --for insync --timeout 12h`",
    ),
    bad(
        "Outdated",
        "a state that once was, known to be older than the newest",
        "connect the nodes and it is brought up to date: `twinblk connect RES`, here or on PEER",
    ),
    bad(
        "Consistent",
        "a state that once was; whether it is the newest PEER cannot know by itself",
        "connect the nodes: `twinblk connect RES`, here or on PEER",
    ),
    good("UpToDate", "the newest contents"),
];

const CONNECTIONS: [Word; 3] = [
    bad(
        "StandAlone",
        "not trying to reach the peer, by a command or after a refusal",
        "read the reason, then `twinblk connect RES`",
    ),
    bad(
        "Connecting",
        "the peer is not reached; the node keeps trying",
        "look at the peer's daemon and at the network between",
    ),
    good("Connected", "the nodes see each other"),
];

const REPLICATIONS: [Word; 11] = [
    good("Off", "nothing flows: the peer is away, or one of the copies is not there"),
    bad(
        "Negotiating",
        "the nodes are finding out whose data is newer, and client I/O waits for that",
        "nothing, it ends by itself; if it lasts, read the daemon's log on both nodes",
    ),
    good("Established", "every write reaches both"),
    good("SyncSource", "the peer is being brought up to date from here"),
    good("SyncTarget", "this node is being brought up to date by the peer"),
    bad(
        "PausedSyncSource",
        "the peer is behind and the resync rests",
        "`twinblk resume-sync RES`, on the node where it was paused",
    ),
    bad(
        "PausedSyncTarget",
        "this node is behind and the resync rests",
        "`twinblk resume-sync RES`, on the node where it was paused",
    ),
    good("VerifySource", "both copies are being compared, driven from here"),
    good("VerifyTarget", "both copies are being compared, driven by the peer"),
    bad(
        "Ahead",
        "the link does not keep up: writes are only marked, and copied later",
        "nothing at once; if it lasts, the link is too slow for the load",
    ),
    bad(
        "Behind",
        "the link does not keep up: this node misses the newest writes",
        "nothing at once; if it lasts, the link is too slow for the load",
    ),
];

fn find(words: &[Word], state: &str) -> Word {
    words.iter().find(|word| word.state == state).copied().unwrap_or(UNKNOWN)
}

/// What a role means.
pub(super) fn role(state: &str) -> Word {
    find(&ROLES, state)
}

/// What a state of a disk means.
pub(super) fn disk(state: &str) -> Word {
    find(&DISKS, state)
}

/// What a state of a peer's disk means; `PEER` stands for its node.
pub(super) fn peer_disk(state: &str) -> Word {
    find(&PEER_DISKS, state)
}

/// What a state of a connection means.
pub(super) fn connection(state: &str) -> Word {
    find(&CONNECTIONS, state)
}

/// What a state of replication means.
pub(super) fn replication(state: &str) -> Word {
    find(&REPLICATIONS, state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::names;
    use crate::format::frame::{DiskState, Role};
    use crate::replica::event::{Connection, Replication};

    #[test]
    fn every_state_has_words() {
        let roles = [Role::Primary, Role::Secondary];
        assert!(roles.iter().all(|state| role(names::role(*state)) != UNKNOWN));
        use DiskState as D;
        let disks =
            [D::Diskless, D::Failed, D::Inconsistent, D::Outdated, D::Consistent, D::UpToDate];
        assert!(disks.iter().all(|state| disk(names::disk(*state)) != UNKNOWN));
        assert!(disks.iter().all(|state| peer_disk(names::disk(*state)) != UNKNOWN));
        let all = [Connection::StandAlone, Connection::Connecting, Connection::Connected];
        assert!(all.iter().all(|state| connection(names::connection(*state)) != UNKNOWN));
        use Replication as R;
        let all = [
            R::Off,
            R::Negotiating,
            R::Established,
            R::SyncSource,
            R::SyncTarget,
            R::PausedSyncSource,
            R::PausedSyncTarget,
            R::VerifySource,
            R::VerifyTarget,
            R::Ahead,
            R::Behind,
        ];
        assert!(all.iter().all(|state| replication(names::replication(*state)) != UNKNOWN));
        assert_eq!(all.len(), REPLICATIONS.len());
        assert_eq!(disk("Melted"), UNKNOWN);
    }

    #[test]
    fn words_are_plain_sentences() {
        let words =
            ROLES.iter().chain(&DISKS).chain(&PEER_DISKS).chain(&CONNECTIONS).chain(&REPLICATIONS);
        for word in words {
            assert!(word.meaning.len() > 12, "{word:?}");
            assert!(!word.meaning.ends_with('.') && !word.remedy.ends_with('.'), "{word:?}");
            assert!(!word.meaning.contains("  ") && !word.remedy.contains("  "), "{word:?}");
        }
    }
}
