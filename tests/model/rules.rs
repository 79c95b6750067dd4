//! Owns the steps of the model: what can happen next, each with its name, and what a state becomes.
//! Must never decide whose data is newer, that is `twinblk::replica::reconcile::reconcile`, nor how
//! two lineages stand to each other, that is `twinblk::format::lineage::Lineage`.

use crate::state::{BLOCKS, Phase, State};
use std::collections::BTreeMap;
use std::fmt;
use twinblk::format::frame::Protocol;

/// A bug put into the model's nodes, to see that a property notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plant {
    None,
    /// A write that a peer misses begins no generation.
    NoGeneration,
    /// A write that a peer misses is acknowledged before its generation is durable.
    EarlyAcknowledgement,
    /// What was on its way to a lost peer is not marked.
    ForgetUnstable,
    /// After a crash the hot extents are not marked.
    ForgetHot,
    /// A meeting is told of without the marks.
    CleanWithMarks,
    /// A mark goes when the block is sent.
    ClearWhenSent,
    /// The end of a resync is told before the base is moved.
    NoEnd,
    /// A node becomes primary without knowing whether it is current.
    StalePromote,
    /// A split brain is forgotten: the primary's copy, or the lower node's, wins.
    MergeSplitBrain,
    /// Under C a flush is answered when this node alone is stable.
    FlushHereOnly,
    /// Whoever grants an epoch counts as current in it, whatever its copy is worth: the peer may never
    /// take it.
    GrantedIsCurrent,
    /// Under B the former primary is the source although its host has booted and the peer's has not.
    FormerPrimaryFirst,
    /// Under B a peer whose process ended does not say so.
    RestartUntold,
    /// The target gives up its copy before that of the source is stable.
    StartBeforeSync,
    /// A flush begins a generation while the nodes negotiate (the model found this one).
    FlushWhileMeeting,
    /// An extent cools before the page with its mark is saved.
    NoLogPages,
}

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    // Faults.
    Cut,
    /// The receiver has made all stable, and its word for it is lost with the link.
    CutAfterStable,
    Crash(u8),
    /// What the blocks hold afterwards.
    Power(u8, [u8; BLOCKS]),
    // The operator.
    Stop(u8),
    Promote(u8),
    Force(u8),
    Demote(u8),
    Disconnect(u8),
    Invalidate(u8),
    InitFrom(u8),
    // The client.
    Write(u8, u8),
    Flush(u8),
    // The life of a write.
    Store(u8),
    Hear(u8),
    Generation(u8),
    Ack(u8),
    Cool(u8, u8),
    SavePages(u8),
    Deliver,
    Apply,
    HearWritten,
    Barrier,
    // Sessions.
    Meet(Option<u8>),
    Note(u8),
    Confirm(u8),
    Equal(u8),
    Learn(u8),
    HearBye(u8),
    Notice(u8),
    Grant(u8),
    TakeOffice(u8),
    // Resync.
    BeginSource(u8),
    AllMarked(u8),
    Prepare(u8),
    Ready(u8),
    Token(u8),
    Copy(u8),
    Ends(u8),
    Done(u8),
    AdoptMarks(u8),
    Adopt(u8),
    Adopted(u8),
}

/// What a node does without an operator and without a fault, the nearest to an end first.
const NODE_GOES_ON: &[fn(u8) -> Step] = &[
    Step::Store,
    Step::Hear,
    Step::Ack,
    Step::Note,
    Step::Confirm,
    Step::Equal,
    Step::BeginSource,
    Step::AllMarked,
    Step::Prepare,
    Step::Ready,
    Step::Token,
    Step::Copy,
    Step::Ends,
    Step::Done,
    Step::AdoptMarks,
    Step::Adopt,
    Step::Adopted,
    Step::SavePages,
];

/// All that goes on by itself, in an order that leads to an end.
pub(crate) fn goes_on() -> impl Iterator<Item = Step> {
    let first: [fn(u8) -> Step; 6] =
        [Step::HearBye, Step::Learn, Step::Notice, Step::Generation, Step::Grant, Step::TakeOffice];
    let both = |step: fn(u8) -> Step| [step(0), step(1)];
    let stream = [Step::Apply, Step::Deliver, Step::Barrier];
    let nodes = NODE_GOES_ON.iter().copied();
    let steps = first.into_iter().flat_map(both).chain(stream).chain(nodes.flat_map(both));
    steps.chain([Step::Meet(None)])
}

/// What the exploration has seen.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// How often each row of the table was met.
    pub(crate) rows: BTreeMap<&'static str, u64>,
    /// The property that does not hold.
    pub(crate) broken: Option<String>,
}

impl Watch {
    pub(crate) fn violate(&mut self, what: impl Into<String>) {
        self.broken.get_or_insert(what.into());
    }
}

/// How the nodes go on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) protocol: Protocol,
    pub(crate) plant: Plant,
    /// An operator may give data up.
    pub(crate) forced: bool,
}

impl Rules {
    pub(crate) fn has(&self, plant: Plant) -> bool {
        self.plant == plant
    }

    /// The state after a step; none if it cannot happen.
    pub(crate) fn take(&self, state: &State, step: Step, watch: &mut Watch) -> Option<State> {
        let mut next = *state;
        self.apply(&mut next, step, watch).then(|| {
            next.settle();
            next
        })
    }

    #[rustfmt::skip]
    fn apply(&self, s: &mut State, step: Step, watch: &mut Watch) -> bool {
        match step {
            Step::Cut => self.cut(s, false),
            Step::CutAfterStable => self.cut(s, true),
            Step::Crash(n) => self.crash(s, n),
            Step::Power(n, found) => self.power(s, n, found),
            Step::Stop(n) => self.stop(s, n),
            Step::Promote(n) => self.promote(s, n, false),
            Step::Force(n) => self.promote(s, n, true),
            Step::Demote(n) => self.demote(s, n),
            Step::Disconnect(n) => self.disconnect(s, n),
            Step::Invalidate(n) => self.invalidate(s, n),
            Step::InitFrom(n) => self.init_from(s, n),
            Step::Write(n, b) => self.write(s, n, b),
            Step::Flush(n) => self.flush(s, n),
            Step::Store(n) => Self::store(s, n),
            Step::Hear(n) => self.hear(s, n),
            Step::Generation(n) => self.generation(s, n),
            Step::Ack(n) => self.acknowledge(s, n),
            Step::Cool(n, b) => self.cool(s, n, b),
            Step::SavePages(n) => Self::save_pages(s, n),
            Step::Deliver => self.deliver(s),
            Step::Apply => Self::apply_received(s),
            Step::HearWritten => self.hear_written(s),
            Step::Barrier => self.barrier(s),
            Step::Meet(discard) => self.meet(s, discard, watch),
            Step::Note(n) => Self::note(s, n),
            Step::Confirm(n) => self.confirm(s, n, watch),
            Step::Equal(n) => self.equal(s, n),
            Step::Learn(n) => self.learn(s, n),
            Step::HearBye(n) => self.hear_bye(s, n),
            Step::Notice(n) => self.notice(s, n),
            Step::Grant(n) => self.grant(s, n),
            Step::TakeOffice(n) => self.take_office(s, n),
            Step::BeginSource(n) => self.begin_source(s, n),
            Step::AllMarked(n) => Self::all_marked(s, n),
            Step::Prepare(n) => Self::prepare(s, n, watch),
            Step::Ready(n) => Self::ready(s, n),
            Step::Token(n) => Self::token(s, n),
            Step::Copy(n) => self.copy(s, n),
            Step::Ends(n) => self.ends(s, n),
            Step::Done(n) => self.done(s, n),
            Step::AdoptMarks(n) => Self::adopt_marks(s, n),
            Step::Adopt(n) => self.adopt(s, n),
            Step::Adopted(n) => self.adopted(s, n, watch),
        }
    }

    /// Every step that might be possible in a state, without those that change nothing by coming
    /// later: what commutes with all that others do is tried alone.
    pub(crate) fn tries(&self, s: &State, to: &mut Vec<Step>) {
        to.clear();
        let of = |found: fn(&crate::state::Node) -> bool| {
            (0..2u8).find(|n| found(&s.nodes[usize::from(*n)]))
        };
        if let Some(n) = of(|node| node.phase != Phase::Down).filter(|_| s.broken) {
            // Whatever a node does between the loss and its notice, it could do before the loss.
            to.extend([Step::Notice(n), Step::Learn(n), Step::HearBye(n)]);
            return;
        }
        if of(|node| node.phase == Phase::Refused).is_some() {
            to.extend([Step::Learn(0), Step::Learn(1), Step::Cut]);
            self.faults(s, to, &[0, 1]);
            return;
        }
        if let Some(n) = of(|node| node.owes_generation) {
            to.extend([Step::Generation(n), Step::Store(n), Step::Ack(n)]);
            self.faults(s, to, &[n]);
            return;
        }
        to.push(Step::Cut);
        self.faults(s, to, &[0, 1]);
        if of(|node| node.promoting.is_some()).is_some() {
            for n in 0..2 {
                to.extend([Step::Grant(n), Step::TakeOffice(n), Step::Promote(n), Step::Apply]);
            }
            return;
        }
        to.extend([Step::CutAfterStable, Step::HearWritten, Step::Deliver, Step::Apply]);
        to.extend([Step::Barrier, Step::Meet(None)]);
        for n in 0..2 {
            self.orders(n, to);
        }
    }

    fn faults(&self, s: &State, to: &mut Vec<Step>, nodes: &[u8]) {
        if s.left.crashes == 0 {
            return;
        }
        for n in nodes.iter().copied() {
            to.push(Step::Crash(n));
            let [a, b] = s.nodes[usize::from(n)].disk.map(|cell| cell.may);
            for (a, b) in bits(a).flat_map(|a| bits(b).map(move |b| (a, b))) {
                to.push(Step::Power(n, [a, b]));
            }
        }
    }

    fn orders(&self, n: u8, to: &mut Vec<Step>) {
        to.extend(NODE_GOES_ON.iter().map(|step| step(n)));
        to.extend([Step::Stop(n), Step::Promote(n), Step::Demote(n)]);
        to.extend([Step::Disconnect(n), Step::Flush(n), Step::InitFrom(n)]);
        for block in 0..2 {
            to.extend([Step::Write(n, block), Step::Cool(n, block)]);
        }
        if self.forced {
            to.extend([Step::Force(n), Step::Invalidate(n), Step::Meet(Some(n))]);
        }
    }
}

/// The places of the bits of a mask.
fn bits(mask: u8) -> impl Iterator<Item = u8> {
    (0..8).filter(move |place| mask & (1 << place) != 0)
}

impl fmt::Display for Step {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = format!("{self:?}").replace("(0", "(alpha").replace("(1", "(bravo");
        to.write_str(&words)
    }
}
