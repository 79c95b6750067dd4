//! Owns big-endian fields at fixed places of fixed-size headers, and a reader for parts whose
//! length the other side chose. It must never look past the bytes it was given: places in fixed
//! headers are checked when the crate is compiled, a reader answers `None`.

/// The `N` bytes at `AT` of a header of `L` bytes; a place outside the header does not compile.
pub(crate) fn get<const AT: usize, const N: usize, const L: usize>(header: &[u8; L]) -> [u8; N] {
    const { assert!(AT + N <= L) };
    let mut bytes = [0; N];
    bytes.copy_from_slice(&header[AT..AT + N]);
    bytes
}

/// Puts `bytes` at `AT` of a header of `L` bytes; a place outside the header does not compile.
pub(crate) fn put<const AT: usize, const N: usize, const L: usize>(
    header: &mut [u8; L],
    bytes: [u8; N],
) {
    const { assert!(AT + N <= L) };
    header[AT..AT + N].copy_from_slice(&bytes);
}

/// Reads one field after the other; once a field does not fit, what is left stays as it was.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// The next `length` bytes; `length` may be any number a stranger sent.
    pub(crate) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_stops_at_the_end_and_keeps_the_rest() {
        let mut fields = Fields(&[0, 1, 0, 0, 0, 2, 9]);
        assert_eq!(fields.u16(), Some(1));
        assert_eq!(fields.u32(), Some(2));
        assert_eq!(fields.u64(), None);
        assert_eq!(fields.bytes(usize::MAX), None);
        assert_eq!(fields.bytes(1), Some(&[9][..]));
        assert_eq!(fields.0, &[] as &[u8]);
    }

    #[test]
    fn what_is_put_is_got() {
        let mut header = [0; 6];
        put::<2, 4, 6>(&mut header, 0xdead_beef_u32.to_be_bytes());
        assert_eq!(header, [0, 0, 0xde, 0xad, 0xbe, 0xef]);
        assert_eq!(get::<2, 4, 6>(&header), [0xde, 0xad, 0xbe, 0xef]);
    }
}
