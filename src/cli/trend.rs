//! Owns how a resync or verify goes: percent, rate, time left, or that it loses ground.
//! Must never promise a time that the numbers do not bear out.

use std::time::Duration;

use crate::config::quantity::{show_bytes, show_time};
use crate::control::body::PeerBody;
use crate::units::Nanos;

const BAR_CELLS: usize = 20;

/// What was seen of a peer before, to tell where things go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Earlier {
    /// What was out of sync then.
    pub(super) out_of_sync_bytes: u64,
    /// How long ago.
    pub(super) age: Duration,
}

/// One line on the verify with a peer, of a device of so many bytes; none if none runs.
pub(super) fn verify(peer: &PeerBody, device_bytes: u64) -> Option<String> {
    if !peer.replication.starts_with("Verify") {
        return None;
    }
    let differing = show_bytes(peer.verify_differing_bytes);
    Some(format!("{} compared, {differing} differ", bar(peer.verify_done_bytes, device_bytes)))
}

/// How much is done, as a bar and in percent.
fn bar(done: u64, total: u64) -> String {
    let total = total.max(1);
    let permille = u128::from(done.min(total)) * 1000 / u128::from(total);
    let filled = usize::try_from(permille).unwrap_or_default() * BAR_CELLS / 1000;
    let bar = format!("{}{}", "#".repeat(filled), ".".repeat(BAR_CELLS - filled));
    format!("[{bar}] {}.{} %", permille / 10, permille % 10)
}

/// One line on the resync with a peer; none if none runs.
pub(super) fn progress(peer: &PeerBody, earlier: Option<Earlier>) -> Option<String> {
    let paused = match peer.replication.as_str() {
        "SyncSource" | "SyncTarget" => false,
        "PausedSyncSource" | "PausedSyncTarget" => true,
        _ => return None,
    };
    let left = show_bytes(peer.out_of_sync_bytes);
    let pace = if paused { "paused".to_owned() } else { pace(peer, earlier) };
    let bar = bar(peer.resync_done_bytes, peer.resync_total_bytes);
    Some(format!("{bar}, {left} out of sync, {pace}"))
}

fn pace(peer: &PeerBody, earlier: Option<Earlier>) -> String {
    let rate = peer.resync_bytes_per_second;
    let shown = format!("{}/s", show_bytes(rate));
    let grown = earlier.and_then(|it| grown_per_second(peer.out_of_sync_bytes, it));
    match (grown, rate) {
        (Some(grown), _) => format!(
            "{shown}, losing ground: clients add {}/s more than is copied",
            show_bytes(grown)
        ),
        (None, 0) => "standing still".to_owned(),
        (None, rate) => {
            let seconds = peer.out_of_sync_bytes.div_ceil(rate);
            let left = show_time(Nanos::from_millis(seconds.saturating_mul(1000)));
            format!("{shown}, about {left} left")
        }
    }
}

/// By how much the backlog grows each second; none if it does not.
fn grown_per_second(now: u64, earlier: Earlier) -> Option<u64> {
    let grown = u128::from(now.checked_sub(earlier.out_of_sync_bytes)?);
    let millis = earlier.age.as_millis().max(1);
    u64::try_from(grown * 1000 / millis).ok().filter(|grown| *grown > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::view::tests::peer;

    fn syncing(out_of_sync: u64) -> PeerBody {
        PeerBody {
            replication: "SyncSource".to_owned(),
            out_of_sync_bytes: out_of_sync,
            resync_total_bytes: 1000 << 20,
            resync_done_bytes: 425 << 20,
            resync_bytes_per_second: 5 << 20,
            ..peer()
        }
    }

    #[test]
    fn a_resync_shows_how_far_how_fast_and_how_long() {
        assert_eq!(progress(&peer(), None), None);
        assert_eq!(
            progress(&syncing(575 << 20), None).as_deref(),
            Some("[########............] 42.5 %, 575 MiB out of sync, 5 MiB/s, about 115 s left")
        );
        let stuck = PeerBody { resync_bytes_per_second: 0, ..syncing(575 << 20) };
        assert!(progress(&stuck, None).is_some_and(|line| line.ends_with("standing still")));
        let paused = PeerBody { replication: "PausedSyncTarget".to_owned(), ..syncing(1) };
        assert!(progress(&paused, None).is_some_and(|line| line.ends_with("paused")));
    }

    #[test]
    fn a_verify_shows_how_far_it_is() {
        assert_eq!(verify(&peer(), 1 << 30), None);
        let comparing = PeerBody {
            replication: "VerifySource".to_owned(),
            verify_done_bytes: 256 << 20,
            verify_differing_bytes: 4096,
            ..peer()
        };
        assert_eq!(
            verify(&comparing, 1 << 30).as_deref(),
            Some("[#####...............] 25.0 % compared, 4 KiB differ")
        );
        assert!(verify(&comparing, 0).is_some());
    }

    #[test]
    fn a_growing_backlog_has_no_end_in_sight() {
        let earlier = Earlier { out_of_sync_bytes: 555 << 20, age: Duration::from_secs(2) };
        let line = progress(&syncing(575 << 20), Some(earlier)).expect("a resync");
        assert!(line.contains("losing ground: clients add 10 MiB/s more"), "{line}");
        assert!(!line.contains("left"), "{line}");
        let earlier = Earlier { out_of_sync_bytes: 600 << 20, ..earlier };
        let line = progress(&syncing(575 << 20), Some(earlier)).expect("a resync");
        assert!(line.contains("about 115 s left"), "{line}");
    }

    #[test]
    fn no_number_breaks_the_line() {
        let peer = PeerBody {
            out_of_sync_bytes: u64::MAX,
            resync_total_bytes: u64::MAX,
            resync_done_bytes: u64::MAX,
            resync_bytes_per_second: 1,
            ..syncing(0)
        };
        let line = progress(&peer, None).expect("a resync");
        assert!(line.starts_with("[####################] 100.0 %"), "{line}");
        let earlier = Earlier { out_of_sync_bytes: 0, age: Duration::ZERO };
        assert!(progress(&peer, Some(earlier)).is_some());
    }
}
