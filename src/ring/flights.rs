//! Owns the table of operations in flight: whatever the kernel or another thread may still touch
//! lives in it until the end of its operation. Must never free an entry before.

use super::Token;

/// The operations in flight of one engine, each with what it needs to go on.
#[derive(Debug)]
pub(super) struct Flights<W> {
    slots: Vec<Slot<W>>,
    vacant: Vec<u32>,
}

#[derive(Debug)]
struct Slot<W> {
    generation: u32,
    content: Option<(Token, W)>,
}

impl<W> Flights<W> {
    pub(super) const fn new() -> Self {
        Self { slots: Vec::new(), vacant: Vec::new() }
    }

    /// Puts an operation in; its index stays its own until [`remove`](Self::remove).
    pub(super) fn insert(&mut self, token: Token, work: W) -> u32 {
        let content = Some((token, work));
        if let Some(index) = self.vacant.pop() {
            self.slots[index as usize].content = content;
            return index;
        }
        let index = u32::try_from(self.slots.len()).expect("memory ends long before 2^32 slots");
        self.slots.push(Slot { generation: 0, content });
        index
    }

    /// What names this very operation, also after its index was given to another.
    pub(super) fn key(&self, index: u32) -> u64 {
        let generation = self.slots[index as usize].generation;
        u64::from(generation) << 32 | u64::from(index)
    }

    /// The index of a key, if its operation still lives.
    pub(super) fn find(&self, key: u64) -> Option<u32> {
        let index = u32::try_from(key & u64::from(u32::MAX)).ok()?;
        let slot = self.slots.get(index as usize)?;
        (slot.content.is_some() && self.key(index) == key).then_some(index)
    }

    /// The work of an operation that lives.
    pub(super) fn work(&mut self, index: u32) -> &mut W {
        let content = self.slots[index as usize].content.as_mut();
        &mut content.expect("the operation lives").1
    }

    /// Takes an operation out.
    pub(super) fn remove(&mut self, index: u32) -> (Token, W) {
        let slot = &mut self.slots[index as usize];
        let content = slot.content.take().expect("the operation lives");
        // One bit less, so that no key equals the engine's own numbers at the top.
        slot.generation = (slot.generation + 1) & (u32::MAX >> 1);
        self.vacant.push(index);
        content
    }

    /// All that live.
    pub(super) fn iter(&self) -> impl Iterator<Item = &W> {
        let contents = self.slots.iter().filter_map(|slot| slot.content.as_ref());
        contents.map(|(_, work)| work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_outlives_neither_its_operation_nor_finds_the_next() {
        let mut flights = Flights::new();
        let index = flights.insert(Token(1), "first");
        let key = flights.key(index);
        assert_eq!(flights.find(key), Some(index));
        assert_eq!(flights.remove(index), (Token(1), "first"));
        assert_eq!(flights.find(key), None);
        assert_eq!(flights.insert(Token(2), "second"), index);
        assert_eq!(flights.find(key), None);
        assert_eq!(flights.find(flights.key(index)), Some(index));
        assert_eq!(flights.find(u64::MAX), None);
    }
}
