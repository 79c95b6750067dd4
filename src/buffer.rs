//! Owns payload memory: aligned slots, pooled by size, bounded by budget, counted by holders.
//! Must never know what a payload means. With `ring`, the only place with `unsafe`.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::VecDeque;
use std::ptr::NonNull;

use crate::limits::{ANSWER_BYTES_MAX, URGENT_BYTES_MAX};

/// Alignment of every slot: what O_DIRECT needs on any device in use (4 KiB sectors included).
pub const SLOT_ALIGN_BYTES: usize = 4096;

/// Slot sizes. Requests take the smallest that fits.
const CLASS_BYTES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// Free slots of each class that keep their memory; more is given back to the system.
const CLASS_KEPT: [usize; 5] = [512, 128, 64, 32, 8];

/// For whom memory is taken. Each has its own budget, so that none can starve another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Requests of NBD clients.
    Client,
    /// What peers send.
    Peer,
    /// Resync and verify.
    Background,
    /// Reads of the local disk that a client waits for, here or on the peer: edges of unaligned
    /// writes, and reads for a peer without a disk.
    Urgent,
    /// What a peer answers to such reads: let go of as soon as it is whole.
    Answer,
    /// Metadata and receive buffers.
    Fixed,
}

const PURPOSES: usize = 6;

impl Purpose {
    /// The account of one of those who share the budget of this purpose.
    #[must_use]
    pub const fn of(self, owner: u16) -> Account {
        Account { purpose: self, owner }
    }
}

/// On whose account memory is taken: a resource, or a link or disk of one. Who holds nothing of a
/// budget always gets what one request needs, so that an owner whose requests never end starves
/// nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    purpose: Purpose,
    owner: u16,
}

impl Account {
    /// That of the same owner for another purpose.
    #[must_use]
    pub const fn on(self, purpose: Purpose) -> Self {
        Self { purpose, ..self }
    }
}

impl From<Purpose> for Account {
    fn from(purpose: Purpose) -> Self {
        purpose.of(0)
    }
}

/// What the pool knows of an account.
#[derive(Clone, Debug, Default)]
struct Owned {
    used_bytes: usize,
    line: VecDeque<u64>,
}

/// The right to one slot. Moves with responsibility: whoever has it must give it back with
/// [`Pool::release`] or pass it on.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a payload must be released"]
pub struct Payload(PayloadRef);

impl Payload {
    /// A name for the slot, to point into it while someone keeps the payload.
    #[must_use]
    pub const fn share(&self) -> PayloadRef {
        self.0
    }
}

/// Names a slot without owning it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PayloadRef {
    index: u32,
    generation: u32,
}

/// A place in the line of those who wait for memory on one account.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "whoever stands in line holds up those behind"]
pub struct Ticket(u64);

/// Some bytes of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The slot.
    pub slot: PayloadRef,
    /// First byte.
    pub offset: u32,
    /// How many.
    pub length: u32,
}

struct Slot {
    memory: NonNull<u8>,
    class: u8,
    account: Account,
    generation: u32,
    holders: u32,
}

/// Bytes each purpose may use at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// NBD clients.
    pub client_bytes: usize,
    /// Peers.
    pub peer_bytes: usize,
    /// Resync and verify.
    pub background_bytes: usize,
}

/// The slots of one shard.
pub struct Pool {
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    free: [Vec<NonNull<u8>>; CLASS_BYTES.len()],
    used_bytes: [usize; PURPOSES],
    budget_bytes: [usize; PURPOSES],
    owned: [Vec<Owned>; PURPOSES],
    next_ticket: u64,
}

impl Pool {
    /// An empty pool; memory is taken when first needed.
    #[must_use]
    pub fn new(budgets: Budgets) -> Self {
        Self {
            slots: Vec::new(),
            vacant: Vec::new(),
            free: [const { Vec::new() }; CLASS_BYTES.len()],
            used_bytes: [0; PURPOSES],
            budget_bytes: [
                budgets.client_bytes,
                budgets.peer_bytes,
                budgets.background_bytes,
                URGENT_BYTES_MAX,
                ANSWER_BYTES_MAX,
                usize::MAX,
            ],
            owned: [const { Vec::new() }; PURPOSES],
            next_ticket: 0,
        }
    }

    /// A slot of at least `bytes` (at most 1 MiB), or none if the budget of the purpose is used up.
    /// An account that uses nothing always gets one slot: neither a small budget nor another owner
    /// can do more than delay. So each owner may once be above the budget, by that much.
    ///
    /// # Panics
    /// If `bytes` is over 1 MiB.
    pub fn take(&mut self, account: impl Into<Account>, bytes: usize) -> Option<Payload> {
        let (account, class) = (account.into(), class_of(bytes));
        self.fits(account, CLASS_BYTES[class]).then(|| self.allot(account, class))
    }

    /// Slots of at least these sizes, in this order, all or none. An account that uses nothing gets
    /// them whatever they sum to: a request larger than the budget is its owner's only one.
    pub fn take_all(
        &mut self,
        account: impl Into<Account>,
        sizes: impl Iterator<Item = usize> + Clone,
    ) -> Option<Vec<Payload>> {
        let account = account.into();
        let fits = self.has_room_for(account, sizes.clone());
        fits.then(|| sizes.map(|bytes| self.allot(account, class_of(bytes))).collect())
    }

    /// Whether [`take_all`](Self::take_all) would succeed.
    #[must_use]
    pub fn has_room_for(
        &self,
        account: impl Into<Account>,
        sizes: impl Iterator<Item = usize>,
    ) -> bool {
        self.fits(account.into(), sizes.map(|bytes| CLASS_BYTES[class_of(bytes)]).sum())
    }

    fn fits(&self, account: Account, bytes: usize) -> bool {
        let purpose = account.purpose as usize;
        let idle = self.owned(account).is_none_or(|owned| owned.used_bytes == 0);
        idle || self.used_bytes[purpose] + bytes <= self.budget_bytes[purpose]
    }

    fn owned(&self, account: Account) -> Option<&Owned> {
        self.owned[account.purpose as usize].get(usize::from(account.owner))
    }

    fn owned_mut(&mut self, account: Account) -> &mut Owned {
        let (all, owner) = (&mut self.owned[account.purpose as usize], usize::from(account.owner));
        if all.len() <= owner {
            all.resize_with(owner + 1, Owned::default);
        }
        &mut all[owner]
    }

    fn allot(&mut self, account: Account, class: usize) -> Payload {
        self.used_bytes[account.purpose as usize] += CLASS_BYTES[class];
        self.owned_mut(account).used_bytes += CLASS_BYTES[class];
        let memory = self.free[class].pop().unwrap_or_else(|| allocate(class));
        let index = self.vacant.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.slots.len()).expect("fewer than 2^32 slots");
            self.slots.push(Slot { memory, class: 0, account, generation: 0, holders: 0 });
            index
        });
        let slot = &mut self.slots[index as usize];
        slot.memory = memory;
        slot.class = u8::try_from(class).expect("five classes");
        slot.account = account;
        slot.holders = 1;
        Payload(PayloadRef { index, generation: slot.generation })
    }

    /// Joins the line of an account. The pool serves whoever asks; those who would be fair ask only
    /// when they are first, or when there is no line. Other owners have lines of their own: once
    /// those before it have let go of their memory, the first of a line gets what it needs.
    pub fn join_line(&mut self, account: impl Into<Account>) -> Ticket {
        self.next_ticket += 1;
        let number = self.next_ticket;
        self.owned_mut(account.into()).line.push_back(number);
        Ticket(number)
    }

    /// Leaves the line, served or not.
    #[expect(clippy::needless_pass_by_value, reason = "a ticket is good for one place")]
    pub fn leave_line(&mut self, account: impl Into<Account>, ticket: Ticket) {
        self.owned_mut(account.into()).line.retain(|number| *number != ticket.0);
    }

    /// Whether nobody of the account has waited longer.
    #[must_use]
    pub fn is_first(&self, account: impl Into<Account>, ticket: &Ticket) -> bool {
        self.owned(account.into()).is_some_and(|owned| owned.line.front() == Some(&ticket.0))
    }

    /// Whether someone waits for memory on the account.
    #[must_use]
    pub fn has_line_of(&self, account: impl Into<Account>) -> bool {
        self.owned(account.into()).is_some_and(|owned| !owned.line.is_empty())
    }

    /// Whether someone waits for memory of the purpose, on whatever account.
    #[must_use]
    pub fn has_line(&self, purpose: Purpose) -> bool {
        self.owned[purpose as usize].iter().any(|owned| !owned.line.is_empty())
    }

    /// Whether [`take`](Self::take) would succeed.
    #[must_use]
    pub fn has_room(&self, account: impl Into<Account>, bytes: usize) -> bool {
        self.fits(account.into(), CLASS_BYTES[class_of(bytes)])
    }

    /// Adds a holder: the slot stays until each has let go.
    pub fn hold(&mut self, slot: PayloadRef) {
        self.slot_mut(slot).holders += 1;
    }

    /// Lets go of a slot held by [`hold`](Self::hold).
    pub fn let_go(&mut self, slot: PayloadRef) {
        let held = self.slot_mut(slot);
        held.holders -= 1;
        if held.holders > 0 {
            return;
        }
        held.generation = held.generation.wrapping_add(1);
        let (class, memory, account) = (usize::from(held.class), held.memory, held.account);
        self.used_bytes[account.purpose as usize] -= CLASS_BYTES[class];
        self.owned_mut(account).used_bytes -= CLASS_BYTES[class];
        self.vacant.push(slot.index);
        if self.free[class].len() < CLASS_KEPT[class] {
            self.free[class].push(memory);
        } else {
            give_back(memory, class);
        }
    }

    /// A slot is kept with the request that it belongs to, which its client's limits bound: it no longer takes
    /// room from what passes through its account, and for which that request may wait.
    pub fn keep(&mut self, slot: PayloadRef) {
        let held = self.slot(slot);
        let (bytes, from) = (CLASS_BYTES[usize::from(held.class)], held.account);
        let to = from.on(Purpose::Fixed);
        self.used_bytes[from.purpose as usize] -= bytes;
        self.owned_mut(from).used_bytes -= bytes;
        self.used_bytes[to.purpose as usize] += bytes;
        self.owned_mut(to).used_bytes += bytes;
        self.slot_mut(slot).account = to;
    }

    /// Gives a slot back.
    #[expect(clippy::needless_pass_by_value, reason = "a payload is the right to its slot")]
    pub fn release(&mut self, payload: Payload) {
        let Payload(slot) = payload;
        self.let_go(slot);
    }

    /// Size of a slot in bytes.
    #[must_use]
    pub fn capacity_bytes(&self, slot: PayloadRef) -> usize {
        CLASS_BYTES[usize::from(self.slot(slot).class)]
    }

    /// The bytes of a span. No kernel operation may be writing to them.
    #[must_use]
    pub fn bytes(&self, span: Span) -> &[u8] {
        let start = self.address(span);
        // SAFETY: `address` checked that the span lies in a live slot, whose memory is initialised
        // (zeroed when allocated) and is freed only through `&mut self`. Callers read a slot only
        // after the completion of what writes to it, as the module's contract says.
        unsafe { std::slice::from_raw_parts(start, span.length as usize) }
    }

    /// The bytes of a span, to change them. No kernel operation may be using them.
    #[must_use]
    pub fn bytes_mut(&mut self, span: Span) -> &mut [u8] {
        let start = self.address(span);
        // SAFETY: as in `bytes`; `&mut self` makes this the only borrow.
        unsafe { std::slice::from_raw_parts_mut(start, span.length as usize) }
    }

    /// Copies between two different slots.
    ///
    /// # Panics
    /// If the spans differ in length or lie in one slot.
    pub fn copy(&mut self, from: Span, to: Span) {
        assert!(from.length == to.length && from.slot.index != to.slot.index);
        let (source, target) = (self.address(from), self.address(to));
        // SAFETY: both spans were checked; different live slots never share memory.
        unsafe { std::ptr::copy_nonoverlapping(source, target, from.length as usize) };
    }

    /// Where a span begins, for the kernel. Valid while the slot is held.
    ///
    /// # Panics
    /// If the slot is not live or the span does not lie in it.
    #[must_use]
    pub fn address(&self, span: Span) -> *mut u8 {
        let slot = self.slot(span.slot);
        let end = span.offset as usize + span.length as usize;
        assert!(end <= CLASS_BYTES[usize::from(slot.class)], "span outside its slot");
        // SAFETY: the offset was just checked to lie within the allocation.
        unsafe { slot.memory.as_ptr().add(span.offset as usize) }
    }

    /// Bytes in use for a purpose.
    #[must_use]
    pub fn used_bytes(&self, purpose: Purpose) -> usize {
        self.used_bytes[purpose as usize]
    }

    fn slot(&self, slot: PayloadRef) -> &Slot {
        let found = &self.slots[slot.index as usize];
        assert!(
            found.generation == slot.generation && found.holders > 0,
            "slot used after release"
        );
        found
    }

    fn slot_mut(&mut self, slot: PayloadRef) -> &mut Slot {
        let found = &mut self.slots[slot.index as usize];
        assert!(
            found.generation == slot.generation && found.holders > 0,
            "slot used after release"
        );
        found
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for (class, free) in self.free.iter_mut().enumerate() {
            free.drain(..).for_each(|memory| give_back(memory, class));
        }
        for slot in self.slots.iter().filter(|slot| slot.holders > 0) {
            give_back(slot.memory, usize::from(slot.class));
        }
    }
}

fn class_of(bytes: usize) -> usize {
    let class = CLASS_BYTES.iter().position(|size| *size >= bytes);
    class.expect("no slot is larger than a piece")
}

fn layout(class: usize) -> Layout {
    Layout::from_size_align(CLASS_BYTES[class], SLOT_ALIGN_BYTES).expect("constant and valid")
}

fn allocate(class: usize) -> NonNull<u8> {
    // SAFETY: the layout has a non-zero size.
    let memory = unsafe { alloc_zeroed(layout(class)) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout(class)))
}

fn give_back(memory: NonNull<u8>, class: usize) {
    // SAFETY: the memory came from `allocate` with this class, and no slot names it any more.
    unsafe { dealloc(memory.as_ptr(), layout(class)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGETS: Budgets =
        Budgets { client_bytes: 8192, peer_bytes: 1 << 20, background_bytes: 1 << 20 };

    #[test]
    fn a_budget_bounds_its_purpose_only() {
        let mut pool = Pool::new(BUDGETS);
        let a = pool.take(Purpose::Client, 100).expect("room");
        let b = pool.take(Purpose::Client, 4096).expect("room");
        assert!(pool.take(Purpose::Client, 1).is_none());
        let c = pool.take(Purpose::Peer, 1 << 20).expect("its own budget");
        for payload in [a, b, c] {
            pool.release(payload);
        }
        assert_eq!(pool.used_bytes(Purpose::Client), 0);
    }

    #[test]
    fn several_slots_come_together_or_not_at_all() {
        let mut pool = Pool::new(BUDGETS);
        let one = pool.take(Purpose::Client, 1).expect("room");
        assert_eq!(pool.take_all(Purpose::Client, [4096, 1].into_iter()), None);
        assert_eq!(pool.used_bytes(Purpose::Client), 4096);
        pool.release(one);
        let many = pool.take_all(Purpose::Client, [4096, 1, 5000].into_iter());
        let many = many.expect("alone, whatever the budget");
        assert_eq!(many.iter().map(|p| pool.capacity_bytes(p.share())).sum::<usize>(), 24 << 10);
        assert!(!pool.has_room(Purpose::Client, 1));
        many.into_iter().for_each(|payload| pool.release(payload));
        assert_eq!(pool.used_bytes(Purpose::Client), 0);
    }

    #[test]
    fn what_is_kept_takes_no_room_from_what_passes_through() {
        let mut pool = Pool::new(BUDGETS);
        let account = Purpose::Answer.of(3);
        let most = 2 * ANSWER_BYTES_MAX / 4096;
        let edges: Vec<_> = (0..most)
            .map(|_| {
                let edge = pool.take(account, 4096).expect("room");
                pool.keep(edge.share());
                edge
            })
            .collect();
        assert_eq!(pool.used_bytes(Purpose::Answer), 0);
        assert_eq!(pool.used_bytes(Purpose::Fixed), 2 * ANSWER_BYTES_MAX);
        edges.into_iter().for_each(|edge| pool.release(edge));
        assert_eq!(pool.used_bytes(Purpose::Fixed), 0);
    }

    #[test]
    fn a_line_moves_on_when_anyone_leaves_it() {
        let mut pool = Pool::new(BUDGETS);
        let [a, b, c] = [(); 3].map(|()| pool.join_line(Purpose::Client));
        assert!(pool.is_first(Purpose::Client, &a) && !pool.is_first(Purpose::Client, &b));
        assert!(!pool.has_line(Purpose::Peer));
        pool.leave_line(Purpose::Client, b);
        pool.leave_line(Purpose::Client, a);
        assert!(pool.is_first(Purpose::Client, &c));
        pool.leave_line(Purpose::Client, c);
        assert!(!pool.has_line(Purpose::Client));
    }

    /// Whatever one owner holds for ever, another one goes on, one request at a time; and the total
    /// stays within the budget and one request for each.
    #[test]
    fn an_owner_that_holds_nothing_is_served_beside_one_that_never_lets_go() {
        let mut pool = Pool::new(BUDGETS);
        let [stuck, other] = [1, 7].map(|owner| Purpose::Client.of(owner));
        let held = [(); 2].map(|()| pool.take(stuck, 4096).expect("room"));
        let ticket = pool.join_line(stuck);
        for _ in 0..3 {
            assert!(!pool.has_room(stuck, 1) && !pool.has_line_of(other));
            let request = pool.take_all(other, [1 << 20, 1 << 20].into_iter());
            let request = request.expect("it holds nothing");
            assert!(!pool.has_room(other, 1), "one request");
            let own = pool.join_line(other);
            assert!(pool.is_first(other, &own) && pool.is_first(stuck, &ticket));
            pool.leave_line(other, own);
            assert_eq!(pool.used_bytes(Purpose::Client), (2 << 20) + 8192);
            request.into_iter().for_each(|payload| pool.release(payload));
        }
        assert!(pool.has_line(Purpose::Client));
        pool.leave_line(stuck, ticket);
        held.into_iter().for_each(|payload| pool.release(payload));
        assert_eq!(pool.used_bytes(Purpose::Client), 0);
    }

    #[test]
    fn a_slot_lives_until_its_last_holder_lets_go() {
        let mut pool = Pool::new(BUDGETS);
        let payload = pool.take(Purpose::Client, 10).expect("room");
        let slot = payload.share();
        pool.hold(slot);
        pool.release(payload);
        pool.bytes_mut(Span { slot, offset: 0, length: 1 })[0] = 7;
        pool.let_go(slot);
        let next = pool.take(Purpose::Client, 10).expect("room");
        assert_ne!(next.share(), slot);
        pool.release(next);
    }

    #[test]
    #[should_panic(expected = "slot used after release")]
    fn a_stale_name_is_caught() {
        let mut pool = Pool::new(BUDGETS);
        let payload = pool.take(Purpose::Client, 10).expect("room");
        let slot = payload.share();
        pool.release(payload);
        let _ = pool.bytes(Span { slot, offset: 0, length: 1 });
    }
}
