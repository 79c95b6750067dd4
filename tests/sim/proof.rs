//! Owns the simulator's self-tests. Must never look at real time.
pub(crate) fn all(_filter: &str) -> bool {
    true
}
