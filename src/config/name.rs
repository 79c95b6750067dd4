//! Owns the names of nodes and resources: parsed once, safe in a path, a URL and a log line after.
//! Must never know which names are in use.

use std::borrow::Borrow;
use std::fmt;

/// Longest name: leaves room for it in the path of a unix socket (107 bytes).
const NAME_BYTES_MAX: usize = 64;

/// The name of a node or a resource: `[A-Za-z0-9][A-Za-z0-9_.-]{0,63}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// Why a text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("a name cannot be empty")]
    Empty,
    /// Over 64 bytes.
    #[error("a name has at most {NAME_BYTES_MAX} characters")]
    Long,
    /// Begins with a dot, a dash or an underscore.
    #[error("a name begins with a letter or a digit")]
    Start,
    /// Has another character inside.
    #[error("a name has only letters, digits, `_`, `.` and `-`, not {0:?}")]
    Character(char),
}

impl Name {
    /// Parses a name.
    ///
    /// # Errors
    /// Says which rule of names the text breaks.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let first = text.chars().next().ok_or(NameError::Empty)?;
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if let Some(odd) = text.chars().find(|c| !fits(*c)) {
            return Err(NameError::Character(odd));
        }
        if !first.is_ascii_alphanumeric() {
            return Err(NameError::Start);
        }
        if text.len() > NAME_BYTES_MAX {
            return Err(NameError::Long);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_paths_and_lines() {
        for good in ["a", "r0", "db.data-1_x", &"x".repeat(64)] {
            assert_eq!(Name::parse(good).map(|name| name.to_string()), Ok(good.to_owned()));
        }
        assert_eq!(Name::parse(""), Err(NameError::Empty));
        assert_eq!(Name::parse(".."), Err(NameError::Start));
        assert_eq!(Name::parse("-rf"), Err(NameError::Start));
        assert_eq!(Name::parse("a/b"), Err(NameError::Character('/')));
        assert_eq!(Name::parse("a b"), Err(NameError::Character(' ')));
        assert_eq!(Name::parse("a\u{1b}"), Err(NameError::Character('\u{1b}')));
        assert_eq!(Name::parse(&"x".repeat(65)), Err(NameError::Long));
    }
}
