//! Owns the messages with which two nodes open a connection of a link: who speaks, for which
//! resource, in which version, and the proof that both know the shared secret.
//! Must never do I/O, draw a random number, or keep the secret longer than a handshake.
//!
//! The dialling node begins; each message waits for the one before:
//!
//! ```text
//! dialler                                    acceptor
//!   Hello {versions, resource, nodes, nonce}   ->
//!          <-   Challenge {version, nonce, proof}     or Refusal
//!   Proof {live session, proof}                ->     or Refusal
//!          <-   Welcome {session, proof}              or Refusal
//! ```
//!
//! Every proof is a keyed blake3 hash over all that was said before it, beginning with the bytes
//! of the hello, so a recorded one is worth nothing under another nonce, on another channel, for
//! another resource, between other nodes or in the other direction. The key is derived from the
//! shared secret. A `Refusal` is not authenticated: it explains, it never decides. It has a reason
//! and no text: the words for a person are the reader's own.
//!
//! The envelope (magic, kind, length, body, CRC-32) and the fields of the hello never move, in any
//! version: versions are negotiated by them. A later version may append to a hello; what is
//! appended is covered by checksum and proof and else ignored.

use super::frame::Channel;
use super::{LINK_VERSION, LINK_VERSION_MIN, checksum};
use crate::units::{NodeId, Session};

/// Bytes before the body.
pub const ENVELOPE_BYTES: usize = 12;

/// Bytes of the largest message: bounds what is read from a stranger.
pub const MESSAGE_BYTES_MAX: usize = 512;

/// Bytes of the longest resource name.
pub const RESOURCE_BYTES_MAX: usize = 64;

const MAGIC: [u8; 8] = *b"TWINLINK";
const CHECKSUM_BYTES: usize = 4;
const HELLO: u16 = 1;
const CHALLENGE: u16 = 2;
const PROOF: u16 = 3;
const WELCOME: u16 = 4;
const REFUSAL: u16 = 5;
const KEY_CONTEXT: &str = "twinblk 2026-11 link handshake key";

/// A run of link versions, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// Oldest.
    pub oldest: u16,
    /// Newest.
    pub newest: u16,
}

impl Versions {
    /// What this program speaks.
    pub const SPOKEN: Self = Self { oldest: LINK_VERSION_MIN, newest: LINK_VERSION };

    /// The newest version that both runs hold.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest && newest >= other.oldest).then_some(newest)
    }
}

/// Whether both nodes and all files accept this as the name of a resource: 1 to
/// [`RESOURCE_BYTES_MAX`] letters, digits, `_`, `.` and `-`, all ASCII.
#[must_use]
pub fn is_resource_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (1..=RESOURCE_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed)
}

/// A random number said once, so that no answer can be a recorded one.
pub type Nonce = [u8; 32];

/// The first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the dialler speaks.
    pub versions: Versions,
    /// What the connection is for.
    pub channel: Channel,
    /// The dialler.
    pub from: NodeId,
    /// Whom it means to reach.
    pub to: NodeId,
    /// The session to join: of the data connection made before, or 0 for a data connection.
    pub session: Session,
    /// The dialler's.
    pub nonce: Nonce,
    /// The resource: see [`is_resource_name`].
    pub resource: String,
}

/// The acceptor's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The version to speak.
    pub version: u16,
    /// The acceptor's.
    pub nonce: Nonce,
    /// That the acceptor knows the secret.
    pub proof: [u8; 32],
}

/// The dialler's proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The session with this peer that stands on the dialler, or 0.
    pub live: Session,
    /// That the dialler knows the secret.
    pub proof: [u8; 32],
}

/// The last message: the acceptor has bound the connection to its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The session.
    pub session: Session,
    /// That the acceptor sent this.
    pub proof: [u8; 32],
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The node has no such resource, or not with the dialling node.
    UnknownResource,
    /// Another node answered than the one meant; this one did.
    WrongNode(NodeId),
    /// No version in common; the sender speaks these.
    Version(Versions),
    /// The proof is wrong: the secrets differ.
    Secret,
    /// The sender does not want a connection now (StandAlone).
    Unwanted,
    /// The sender has, or is making, another connection with the same node.
    Busy,
}

/// Any of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// See [`Hello`].
    Hello(Hello),
    /// See [`Challenge`].
    Challenge(Challenge),
    /// See [`Proof`].
    Proof(Proof),
    /// See [`Welcome`].
    Welcome(Welcome),
    /// See [`Refusal`].
    Refusal(Refusal),
}

/// What is wrong with bytes that should be a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// Something else than a twinblk node speaks.
    #[error("not the greeting of a twinblk node")]
    Foreign,
    /// Longer than any message, or shorter than its kind.
    #[error("a handshake message of impossible length")]
    Length,
    /// Damaged on the way.
    #[error("a handshake message with a wrong checksum")]
    Checksum,
    /// A field holds what no version defines.
    #[error("a handshake message with an unknown value")]
    Value,
}

/// The whole length of the message that begins with `bytes`, as soon as they tell.
///
/// # Errors
/// If they cannot be the beginning of a message.
pub fn message_bytes(bytes: &[u8]) -> Result<Option<usize>, Flaw> {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] {
        return Err(Flaw::Foreign);
    }
    let Some(envelope) = bytes.get(..ENVELOPE_BYTES) else {
        return Ok(None);
    };
    let body = usize::from(u16::from_le_bytes([envelope[10], envelope[11]]));
    let whole = ENVELOPE_BYTES + body + CHECKSUM_BYTES;
    if whole > MESSAGE_BYTES_MAX { Err(Flaw::Length) } else { Ok(Some(whole)) }
}

impl Message {
    /// Its bytes.
    ///
    /// # Panics
    /// If the name of a resource is not one, which configuration refuses.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Hello(hello) => (HELLO, hello.body()),
            Self::Challenge(challenge) => (CHALLENGE, challenge.body()),
            Self::Proof(proof) => (PROOF, [&proof.live.0.to_le_bytes()[..], &proof.proof].concat()),
            Self::Welcome(welcome) => {
                (WELCOME, [&welcome.session.0.to_le_bytes()[..], &welcome.proof].concat())
            }
            Self::Refusal(refusal) => (REFUSAL, refusal.body()),
        };
        let length = u16::try_from(body.len()).expect("names are bounded");
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&body);
        let sum = checksum::of(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The message that is exactly `bytes`.
    ///
    /// # Errors
    /// If they are not one.
    pub fn decode(bytes: &[u8]) -> Result<Self, Flaw> {
        if message_bytes(bytes)? != Some(bytes.len()) {
            return Err(Flaw::Length);
        }
        let (covered, sum) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
        if checksum::of(covered).to_le_bytes() != sum {
            return Err(Flaw::Checksum);
        }
        let mut fields = Fields(&covered[ENVELOPE_BYTES..]);
        let message = Self::read(u16::from_le_bytes([bytes[8], bytes[9]]), &mut fields)?;
        // Only a hello may be longer: it comes before the version is agreed.
        let ended = fields.0.is_empty() || matches!(message, Self::Hello(_));
        if ended { Ok(message) } else { Err(Flaw::Length) }
    }

    fn read(kind: u16, fields: &mut Fields<'_>) -> Result<Self, Flaw> {
        Ok(match kind {
            HELLO => Self::Hello(Hello::read(fields)?),
            CHALLENGE => Self::Challenge(Challenge::read(fields)?),
            PROOF => Self::Proof(Proof { live: Session(fields.u64()?), proof: fields.bytes()? }),
            WELCOME => {
                Self::Welcome(Welcome { session: Session(fields.u64()?), proof: fields.bytes()? })
            }
            REFUSAL => Self::Refusal(Refusal::read(fields)?),
            _ => return Err(Flaw::Value),
        })
    }
}

impl Hello {
    /// versions 2+2, channel 1, from 1, to 1, length of the name 1, session 8, nonce 32, name.
    fn body(&self) -> Vec<u8> {
        let name = self.resource.as_bytes();
        assert!(is_resource_name(&self.resource), "not a resource name: {:?}", self.resource);
        let length = u8::try_from(name.len()).expect("just checked");
        let channel = match self.channel {
            Channel::Data => 1,
            Channel::Control => 2,
        };
        let mut body = self.versions.oldest.to_le_bytes().to_vec();
        body.extend_from_slice(&self.versions.newest.to_le_bytes());
        body.extend_from_slice(&[channel, self.from.0, self.to.0, length]);
        body.extend_from_slice(&self.session.0.to_le_bytes());
        body.extend_from_slice(&self.nonce);
        body.extend_from_slice(name);
        body
    }

    fn read(fields: &mut Fields<'_>) -> Result<Self, Flaw> {
        let versions = Versions { oldest: fields.u16()?, newest: fields.u16()? };
        let [channel, from, to, length] = fields.bytes()?;
        let channel = match channel {
            1 => Channel::Data,
            2 => Channel::Control,
            _ => return Err(Flaw::Value),
        };
        let session = Session(fields.u64()?);
        let nonce = fields.bytes()?;
        let name = fields.take(usize::from(length))?;
        let name = std::str::from_utf8(name).map_err(|_| Flaw::Value)?;
        if !is_resource_name(name) || versions.oldest > versions.newest {
            return Err(Flaw::Value);
        }
        if (channel == Channel::Data) != (session.0 == 0) {
            return Err(Flaw::Value);
        }
        let (from, to, resource) = (NodeId(from), NodeId(to), name.to_owned());
        Ok(Self { versions, channel, from, to, session, nonce, resource })
    }
}

impl Challenge {
    /// version 2, zero 6, nonce 32, proof 32.
    fn body(&self) -> Vec<u8> {
        [&self.version.to_le_bytes()[..], &[0; 6], &self.nonce, &self.proof].concat()
    }

    fn read(fields: &mut Fields<'_>) -> Result<Self, Flaw> {
        let version = fields.u16()?;
        fields.zeroes::<6>()?;
        Ok(Self { version, nonce: fields.bytes()?, proof: fields.bytes()? })
    }
}

impl Refusal {
    /// reason 2, node 1, zero 1, versions 2+2; zero what the reason does not need.
    fn body(self) -> Vec<u8> {
        let none = Versions { oldest: 0, newest: 0 };
        let (reason, node, versions) = match self {
            Self::UnknownResource => (1, 0, none),
            Self::WrongNode(node) => (2, node.0, none),
            Self::Version(versions) => (3, 0, versions),
            Self::Secret => (4, 0, none),
            Self::Unwanted => (5, 0, none),
            Self::Busy => (6, 0, none),
        };
        let mut body = vec![reason, 0, node, 0];
        body.extend_from_slice(&versions.oldest.to_le_bytes());
        body.extend_from_slice(&versions.newest.to_le_bytes());
        body
    }

    fn read(fields: &mut Fields<'_>) -> Result<Self, Flaw> {
        let whole = fields.0;
        let reason = fields.u16()?;
        let [node, _] = fields.bytes()?;
        let versions = Versions { oldest: fields.u16()?, newest: fields.u16()? };
        let refusal = match reason {
            1 => Self::UnknownResource,
            2 => Self::WrongNode(NodeId(node)),
            3 if versions.oldest <= versions.newest => Self::Version(versions),
            4 => Self::Secret,
            5 => Self::Unwanted,
            6 => Self::Busy,
            _ => return Err(Flaw::Value),
        };
        // What the reason does not need must be zero.
        if whole.starts_with(&refusal.body()) { Ok(refusal) } else { Err(Flaw::Value) }
    }
}

/// Bytes of a body not read yet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Flaw> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Flaw::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Flaw::Length)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn zeroes<const N: usize>(&mut self) -> Result<(), Flaw> {
        if self.bytes()? == [0; N] { Ok(()) } else { Err(Flaw::Value) }
    }

    fn u16(&mut self) -> Result<u16, Flaw> {
        Ok(u16::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64, Flaw> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }
}

/// All that was said on one connection, under the key both nodes should have.
#[derive(Clone)]
pub struct Transcript {
    key: [u8; 32],
    said: blake3::Hasher,
}

impl Transcript {
    /// Begins with the bytes of the hello, as sent or as received.
    #[must_use]
    pub fn new(secret: &[u8], hello: &[u8]) -> Self {
        let key = blake3::derive_key(KEY_CONTEXT, secret);
        let mut transcript = Self { key, said: blake3::Hasher::new_keyed(&key) };
        transcript.say(hello);
        transcript
    }

    /// What the acceptor says, and its proof in `Challenge`.
    #[must_use]
    pub fn challenge(&mut self, version: u16, nonce: &Nonce) -> [u8; 32] {
        self.say(&version.to_le_bytes());
        self.say(nonce);
        self.proof(b"challenge")
    }

    /// What the dialler says, and its proof in `Proof`.
    #[must_use]
    pub fn answer(&mut self, live: Session) -> [u8; 32] {
        self.say(&live.0.to_le_bytes());
        self.proof(b"answer")
    }

    /// The proof in `Welcome`.
    #[must_use]
    pub fn welcome(&mut self, session: Session) -> [u8; 32] {
        self.say(&session.0.to_le_bytes());
        self.proof(b"welcome")
    }

    /// The session that both nonces make, once the challenge has been said. Never 0.
    #[must_use]
    pub fn session(&self) -> Session {
        let drawn = self.proof(b"session");
        let (number, _) = drawn.split_first_chunk().expect("32 bytes hold 8");
        Session(u64::from_le_bytes(*number).max(1))
    }

    /// Each part with its length, so that no two conversations look alike.
    fn say(&mut self, part: &[u8]) {
        self.said.update(&(part.len() as u64).to_le_bytes());
        self.said.update(part);
    }

    fn proof(&self, label: &[u8]) -> [u8; 32] {
        let mut labelled = blake3::Hasher::new_keyed(&self.key);
        labelled.update(self.said.finalize().as_bytes());
        labelled.update(label);
        *labelled.finalize().as_bytes()
    }
}

/// Whether two proofs are equal, in time that does not tell where they differ.
#[must_use]
pub fn proofs_match(expected: [u8; 32], given: [u8; 32]) -> bool {
    blake3::Hash::from_bytes(expected) == blake3::Hash::from_bytes(given)
}

#[cfg(test)]
mod tests;
