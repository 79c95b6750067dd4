//! Owns the secret both nodes share: read once, never shown.
//! Must never be kept in the configuration file or in a log line.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Longest secret: a key, not a document.
const SECRET_BYTES_MAX: u64 = 4096;

/// Shortest secret: 128 bits as hexadecimal digits would be 32, as base64 22; less is guessable.
const SECRET_BYTES_MIN: usize = 16;

/// The secret both nodes prove to each other that they know.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Why there is no usable secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file could not be read.
    #[error(
        "cannot read the secret {}: {source}\nMake one, the same on both nodes:\n  \
         (umask 077; head -c 32 /dev/urandom | base64 > {})",
        path.display(), path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read or change it.
    #[error(
        "the secret {} has mode {mode:04o}: others than its owner can read or change it.\n\
         Run: chmod 0600 {}",
        path.display(), path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error(
        "the secret {} belongs to user {owner}, neither root nor the user twinblk runs as.\n\
         Run: chown root {}",
        path.display(), path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// It is too short or too long to be a key.
    #[error(
        "the secret {} has {length} bytes; it needs {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX}.\n\
         Make one, the same on both nodes:\n  (umask 077; head -c 32 /dev/urandom | base64 > {})",
        path.display(), path.display()
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length without white space around it.
        length: usize,
    },
}

impl Secret {
    /// The bytes, without white space around them.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn read(path: &Path) -> Result<Self, SecretError> {
        let unreadable = |source| SecretError::Unreadable { path: path.to_owned(), source };
        // The checks are made on the descriptor that is read, so nobody can swap the file between.
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
        if mode & 0o077 != 0 {
            return Err(SecretError::Open { path: path.to_owned(), mode });
        }
        if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
            return Err(SecretError::Foreign { path: path.to_owned(), owner });
        }
        let mut bytes = Vec::new();
        file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        let secret = bytes.trim_ascii().to_vec();
        if secret.len() < SECRET_BYTES_MIN || bytes.len() as u64 > SECRET_BYTES_MAX {
            return Err(SecretError::Length { path: path.to_owned(), length: secret.len() });
        }
        Ok(Self(secret))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn secret(content: &[u8], mode: u32) -> Result<Secret, SecretError> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        fs::write(&path, content).expect("write");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
        Secret::read(&path)
    }

    #[test]
    fn a_secret_is_long_private_and_never_shown() {
        let good = secret(b"0123456789abcdef\n", 0o600).expect("good");
        assert_eq!(good.bytes(), b"0123456789abcdef");
        assert_eq!(format!("{good:?}"), "Secret");
        assert!(secret(b"0123456789abcdef", 0o400).is_ok());
        for mode in [0o644, 0o640, 0o660, 0o602] {
            let error = secret(b"0123456789abcdef", mode).expect_err("open to others");
            assert!(matches!(error, SecretError::Open { .. }), "{error}");
        }
        for short in [&b""[..], b" \n", b"0123456789abcde"] {
            let error = secret(short, 0o600).expect_err("too short");
            assert!(matches!(error, SecretError::Length { .. }), "{error}");
        }
        let long = secret(&[b'x'; 5000], 0o600);
        assert!(matches!(long, Err(SecretError::Length { .. })));
        assert!(Secret::read(Path::new("/nonexistent")).is_err());
    }
}
