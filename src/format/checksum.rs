//! Owns the one checksum of all formats: CRC-32 IEEE, the one of zlib and Ethernet.
//! Must never be used against malice: it finds accidents, `hello` proves who speaks.

/// The checksum of these bytes. 0 if there are none.
#[must_use]
pub fn of(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// The checksum of all but the four bytes at `at`, which hold the checksum itself.
///
/// # Panics
/// If the record has no four bytes at `at`.
#[must_use]
pub fn around(record: &[u8], at: usize) -> u32 {
    of_parts(&[&record[..at], &record[at + 4..]])
}

/// The checksum of these bytes, one after the other.
#[must_use]
pub fn of_parts(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_crc_of_zlib() {
        assert_eq!(of(b"123456789"), 0xCBF4_3926);
        assert_eq!(of(b""), 0);
    }

    #[test]
    fn the_field_itself_does_not_count() {
        assert_eq!(around(b"12345....6789", 5), of(b"123456789"));
        assert_eq!(of_parts(&[b"1234", b"", b"56789"]), of(b"123456789"));
    }
}
