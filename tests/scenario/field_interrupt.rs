//! Owns the field's matrices of interrupted resyncs: how it is interrupted, what runs, who writes
//! meanwhile, and what the blocks collide with.

use crate::field::*;
use crate::world::*;
use twinblk::buffer::Purpose;
use twinblk::replica::event::*;

/// Blocks that the target lacks when a resync begins; all lie in the two extents that are hot where a
/// primary is the target.
const MISSED: u64 = 2_000;
const DEVICE: u64 = 8 * 1024;
const INTERRUPTIONS: [&str; 7] = [
    "the link goes",
    "the target leaves",
    "the source leaves",
    "stopped",
    "killed",
    "no power",
    "the other is killed",
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Writer {
    Nobody,
    Source,
    Target,
}

/// Two nodes, one of which lacks [`MISSED`] blocks: data, data that it has, and zeroes.
struct Run {
    w: World,
    source: usize,
    target: usize,
    writer: Writer,
    ids: Vec<RequestId>,
}

impl Run {
    fn new(checksum: bool, writer: Writer) -> Self {
        let mut w = World::running(Setup { checksum, device_blocks: DEVICE, ..Setup::default() });
        (0..10).for_each(|place| w.wrote(ALPHA, place * 200, 200, 1));
        flushed(&mut w, ALPHA);
        w.settle();
        let (source, target) =
            if writer == Writer::Target { (BRAVO, ALPHA) } else { (ALPHA, BRAVO) };
        if writer == Writer::Target {
            w.must(ALPHA, Command::DiskDetach);
        } else {
            w.must(BRAVO, Command::Disconnect);
        }
        (0..6).for_each(|place| w.wrote(ALPHA, place * 200, 200, 2));
        (6..8).for_each(|place| w.wrote(ALPHA, place * 200, 200, 1));
        let zero = w.zero(ALPHA, 1_600 * 4096, 400 * 4096);
        w.until("zeroed", |w| w.done(ALPHA, zero));
        flushed(&mut w, ALPHA);
        w.settle();
        match writer {
            Writer::Nobody => w.must(ALPHA, Command::Demote),
            Writer::Source | Writer::Target => {}
        }
        Self { w, source, target, writer, ids: Vec::new() }
    }

    /// The resync runs, and is at a fifth or so.
    fn begin(&mut self, seed: u64) {
        self.w.setup.chaos = seed;
        let back = if self.writer == Writer::Target { Command::DiskAttach } else { CONNECT };
        self.w.must(self.target, back);
        let source = self.source;
        let sent = move |w: &World| {
            let count = |kind| w.sent.get(&(source, kind)).copied().unwrap_or(0);
            count("ResyncData") + count("ResyncHash") + count("ResyncZero")
        };
        self.w.until("it runs", |w| sent(w) > 0);
        self.write(12);
        self.w.until("a fifth", |w| sent(w) > 6);
    }

    fn write(&mut self, count: u64) {
        if self.writer == Writer::Nobody {
            return;
        }
        for stamp in 0..count {
            let start = self.w.dice.below(MISSED - 3);
            let id = self.w.write(ALPHA, start, 3, 1_000 + stamp + 100 * self.ids.len() as u64);
            self.ids.push(id);
            self.w.steps(2);
        }
    }

    /// Nothing of a session that is over is left on a node that lives.
    fn is_quiet(&mut self) {
        self.w.run_for(100);
        for node in BOTH.into_iter().filter(|node| self.w.alive(*node)) {
            let pool = &self.w.nodes[node].pool;
            let used = [Purpose::Background, Purpose::Peer].map(|purpose| pool.used_bytes(purpose));
            assert_eq!(used, [0, 0], "{node} keeps what was on its way");
            assert_eq!(peer(&self.w, node).unstable_writes, 0);
            assert_eq!(peer(&self.w, node).resync_blocks_per_second, 0);
            if self.writer == Writer::Nobody {
                let debug = format!("{:?}", self.w.replica(node));
                assert!(!debug.contains("granted: [Claim"), "{node} keeps a lock");
            }
        }
    }

    /// False: such an interruption is refused or costs the only copy.
    fn interrupt(&mut self, how: &str) -> bool {
        let (source, target) = (self.source, self.target);
        // With a primary as target the other one is who comes and goes.
        let goes = if self.writer == Writer::Target { source } else { target };
        let w = &mut self.w;
        match how {
            "the target leaves" | "the source leaves" => {
                let leaves = if how == "the target leaves" { target } else { source };
                if self.writer == Writer::Target {
                    assert_eq!(w.refused(leaves, Command::Disconnect), "last-copy");
                    return false;
                }
                w.must(leaves, Command::Disconnect);
                self.is_quiet();
                self.write(5);
                self.w.must(leaves, CONNECT);
            }
            "the link goes" => {
                w.cut();
                self.is_quiet();
                self.write(5);
                self.w.restore();
            }
            // What the only whole copy had not made stable would be gone.
            "no power" if self.writer == Writer::Target => return false,
            // A primary that dies takes its clients along: the stories of crashes tell of that.
            "the other is killed" if self.writer != Writer::Nobody => return false,
            _ => {
                let node = if how == "the other is killed" { 1 - goes } else { goes };
                match how {
                    "stopped" => stop(w, node),
                    "no power" => w.power_cut(node),
                    _ => w.crash(node),
                }
                self.is_quiet();
                self.write(5);
                self.w.restart(node);
            }
        }
        true
    }

    fn ends(&mut self, what: &str) {
        self.write(5);
        self.w.settle();
        assert!(self.ids.iter().all(|id| self.w.done(ALPHA, *id)), "{what}: a write is lost");
        self.w.equal();
    }
}

/// resync-interrupt-variants: a resync, by data or by hashes, with zeroes in it, is interrupted at a
/// fifth in seven ways, while nobody, the source's or the target's clients write. G7, G8, G9: it goes
/// on where it was, nothing of the old session is left on either node, both end equal.
#[test]
fn resync_interrupt_variants() {
    let mut cut_short = [0, 0];
    for writer in [Writer::Nobody, Writer::Source, Writer::Target] {
        for checksum in [false, true] {
            for how in INTERRUPTIONS {
                for seed in 0..2 {
                    let what = format!("{writer:?} {checksum} {how} {seed}");
                    let mut run = Run::new(checksum, writer);
                    run.begin(seed);
                    let left = peer(&run.w, run.source).out_of_sync_blocks;
                    assert!((1..=2 * 1024).contains(&left), "{what}: {left} are left");
                    let before = resyncs(&run.w);
                    let interrupted = run.interrupt(how);
                    run.ends(&what);
                    if interrupted {
                        // One that leaves in its own time may let it end first.
                        let again = resyncs(&run.w) - before;
                        assert!(again <= 1, "{what}: it went on once");
                        cut_short[usize::from(again == 1)] += 1;
                        let most = 2 * 1024 + 3 * run.ids.len() as u64;
                        assert!(copied(&run.w, run.source) <= most, "{what}");
                    }
                    run.w.holds(run.target, MISSED - 1, 1, 0);
                }
            }
        }
    }
    assert!(cut_short[1] > 10 * cut_short[0], "{cut_short:?}");
}

/// The same without a writer, and slowly: what was copied before the interruption, and was stable
/// there, is not copied again. G9.
#[test]
fn resync_interrupt_variants_keep_progress() {
    for how in ["the link goes", "the target leaves", "stopped", "killed"] {
        let mut run = Run::new(false, Writer::Nobody);
        run.w.must(run.target, CONNECT);
        // Half of it is read, the rest waits for the disk; a barrier makes that half stable.
        let source = run.source;
        run.w.until("half", |w| w.sent.get(&(source, "ResyncData")).is_some_and(|sent| *sent >= 8));
        run.w.nodes[source].stalled.insert("fetch");
        run.w.run_for(5_000);
        let left = peer(&run.w, source).out_of_sync_blocks;
        assert!((1..MISSED - 400).contains(&left), "{how}: {left} are left");
        run.interrupt(how);
        run.w.nodes[source].stalled.clear();
        run.ends(how);
        assert_eq!(copied(&run.w, source), left, "{how}");
    }
}

/// resync-interrupt-variants, its verify: blocks differ, a verify is interrupted in the same ways with
/// and without a writer. G12: it ends, leaves nothing behind, marks nothing that does not differ, and a
/// new one finds what is left.
#[test]
fn resync_interrupt_variants_verify() {
    for writer in [Writer::Nobody, Writer::Source] {
        for how in INTERRUPTIONS {
            let mut run = Run::new(false, writer);
            run.w.must(BRAVO, CONNECT);
            run.w.settle();
            let planted: Vec<u64> = (0..300).map(|place| 5_000 + 7 * place).collect();
            planted.iter().for_each(|block| plant(&mut run.w, BRAVO, *block, 9));
            run.w.must(ALPHA, Command::Verify { repair: false });
            run.w.until("it runs", |w| peer(w, ALPHA).verify_done_blocks > 6_000);
            run.write(12);
            if !run.interrupt(how) {
                continue;
            }
            run.write(5);
            run.w.settle();
            assert!(run.w.established(), "{writer:?} {how}");
            let seen = peer(&run.w, ALPHA).verify_differing_blocks;
            assert!(seen <= 300, "{writer:?} {how}: {seen}");
            run.w.must(ALPHA, Command::Verify { repair: false });
            run.w.settle();
            let again = peer(&run.w, ALPHA);
            assert_eq!(again.verify_done_blocks, DEVICE);
            assert!(again.verify_differing_blocks <= 300, "{writer:?} {how}");
            run.w.blip();
            run.ends(how);
            // Without a primary the former one decides; whichever it is, they agree on all of it.
            run.w.must(ALPHA, Command::Verify { repair: false });
            run.w.settle();
            assert_eq!(peer(&run.w, ALPHA).verify_differing_blocks, 0);
        }
    }
}

/// resync-interrupt-conflict: the blocks of a resync meet writes that are stuck on the source's or on
/// the target's disk, and then the session ends in one of three ways. G6, G7, G20: the locks of both
/// are freed, the counters return to nothing, each write is answered, both end equal.
#[test]
fn resync_interrupt_conflict() {
    for conflict in BOTH {
        for how in ["the link goes", "the target leaves", "stopped"] {
            for checksum in [false, true] {
                for zeroes in [false, true] {
                    let what = format!("{conflict} {how} {checksum} {zeroes}");
                    let mut run = Run::new(checksum, Writer::Source);
                    // Nothing is copied before the writes are stuck.
                    run.w.hold_kind(BRAVO, "MarksDone", true);
                    run.w.must(BRAVO, CONNECT);
                    run.w.run_for(500);
                    run.w.nodes[conflict].stalled.extend(["store", "zero"]);
                    for place in 0..30 {
                        let id = if zeroes && place % 2 == 0 {
                            run.w.zero(ALPHA, (place * 64 + 5) * 4096, 4 * 4096)
                        } else {
                            run.w.write(ALPHA, place * 64 + 5, 4, 7_000 + place)
                        };
                        run.ids.push(id);
                    }
                    run.w.run_for(100);
                    assert!(!run.ids.iter().any(|id| run.w.done(ALPHA, *id)), "{what}: stuck");
                    run.w.hold_kind(BRAVO, "MarksDone", false);
                    run.w.run_for(1_500);
                    // The source holds the range, as long as the write is stuck anywhere.
                    let debug = format!("{:?}", run.w.replica(ALPHA));
                    assert!(debug.contains("waiting: [Claim"), "{what}: nothing collides");
                    conflict_ends(&mut run, conflict, how);
                    run.is_quiet_in_the_end(&what);
                    run.w.holds(BRAVO, 64 + 5, 4, 7_001);
                }
            }
        }
    }
}

fn conflict_ends(run: &mut Run, conflict: usize, how: &str) {
    let w = &mut run.w;
    let order = match how {
        "the target leaves" => Some(w.command(BRAVO, Command::Disconnect)),
        "stopped" => Some(w.command(BRAVO, Command::Stop)),
        _ => None,
    };
    if how == "the link goes" {
        w.cut();
    }
    w.run_for(200);
    w.nodes[conflict].stalled.clear();
    if let Some(id) = order {
        w.until("it is done", |w| w.answer(BRAVO, id).is_some_and(Result::is_ok));
    }
    w.run_for(200);
    match how {
        "the target leaves" => w.must(BRAVO, CONNECT),
        "stopped" => {
            w.crash(BRAVO);
            w.restart(BRAVO);
        }
        _ => w.restore(),
    }
}

impl Run {
    fn is_quiet_in_the_end(&mut self, what: &str) {
        self.w.settle();
        assert!(self.ids.iter().all(|id| self.w.done(ALPHA, *id)), "{what}: a write is lost");
        self.is_quiet();
        self.w.equal();
    }
}
