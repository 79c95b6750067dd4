//! Owns the answer to one question: which bytes of a READ has the server answered?
//! It must never grow beyond a fixed number of pieces, however finely a server splits its answer.

/// Most separate pieces that are remembered at once. Servers answer in order or nearly so, and
/// neighbours are joined.
const MAX_PIECES: usize = 256;

/// Disjoint, ascending, non-adjacent ranges `start..end` in bytes of the export.
#[derive(Clone, Debug, Default)]
pub(super) struct Coverage {
    pieces: Vec<(u64, u64)>,
}

impl Coverage {
    /// Adds `start..end`. `false` if it overlaps what was added before, or if too many pieces would
    /// be kept.
    pub(super) fn add(&mut self, start: u64, end: u64) -> bool {
        let at = self.pieces.partition_point(|piece| piece.1 < start);
        let first_after = self.pieces.partition_point(|piece| piece.1 <= start);
        let mut joined = (start, end);
        let mut joined_until = at;
        if first_after > at {
            joined.0 = self.pieces[at].0;
            joined_until = first_after;
        }
        match self.pieces.get(first_after) {
            Some(next) if next.0 < end => return false,
            Some(next) if next.0 == end => {
                joined.1 = next.1;
                joined_until = first_after + 1;
            }
            _ => {}
        }
        self.pieces.splice(at..joined_until, [joined]);
        self.pieces.len() <= MAX_PIECES
    }

    /// Whether exactly `start..end` has been added; an empty range always has.
    pub(super) fn is(&self, start: u64, end: u64) -> bool {
        start == end || self.pieces == [(start, end)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_in_any_order() {
        let mut coverage = Coverage::default();
        for (start, end) in [(10, 20), (40, 50), (0, 10), (20, 30)] {
            assert!(coverage.add(start, end));
            assert!(!coverage.is(0, 50));
        }
        assert!(coverage.add(30, 40));
        assert!(coverage.is(0, 50));
    }

    #[test]
    fn an_overlap_is_found_at_either_end_and_inside() {
        for (start, end) in [(5, 11), (19, 25), (12, 13), (10, 20), (0, 99)] {
            let mut coverage = Coverage::default();
            assert!(coverage.add(10, 20));
            assert!(!coverage.add(start, end), "{start}..{end}");
        }
    }

    #[test]
    fn a_server_cannot_make_it_grow_without_end() {
        let mut coverage = Coverage::default();
        let added = (0..10_000).take_while(|piece| coverage.add(piece * 2, piece * 2 + 1)).count();
        assert_eq!(added, MAX_PIECES);
    }
}
