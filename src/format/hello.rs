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
//! Every proof is a keyed blake3 hash over all that was said before it, so a recorded one is
//! worth nothing under another nonce. The key is derived from the shared secret. A `Refusal` is
//! not authenticated: it explains, it never decides.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | magic `TWINLINK` |
//! | 8 | 2 | kind: 1 Hello, 2 Challenge, 3 Proof, 4 Welcome, 5 Refusal |
//! | 10 | 2 | length n of the body |
//! | 12 | n | body |
//! | 12 + n | 4 | CRC-32 of all before |
//!
//! This envelope and the fields below never move: versions are negotiated by it. Later versions
//! may append to a body; what is appended is covered by checksum and proof and else ignored.

use crate::format::frame::Channel;
use crate::units::{NodeId, Session};

/// Bytes before the body.
pub const ENVELOPE_BYTES: usize = 12;

/// Bytes of the largest message: bounds what is read from a stranger.
pub const MESSAGE_BYTES_MAX: usize = 512;

/// Bytes of the longest resource name.
pub const RESOURCE_BYTES_MAX: usize = 128;

const MAGIC: [u8; 8] = *b"TWINLINK";
const CHECKSUM_BYTES: usize = 4;
const HELLO: u16 = 1;
const CHALLENGE: u16 = 2;
const PROOF: u16 = 3;
const WELCOME: u16 = 4;
const REFUSAL: u16 = 5;
const KEY_CONTEXT: &str = "twinblk 2025-11 link handshake key";

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
    pub const SPOKEN: Self = Self {
        oldest: 1,
        newest: 1,
    };

    /// The newest version that both runs hold.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest && newest >= other.oldest).then_some(newest)
    }
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
    /// The resource, 1 to [`RESOURCE_BYTES_MAX`] bytes.
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
    if whole > MESSAGE_BYTES_MAX {
        Err(Flaw::Length)
    } else {
        Ok(Some(whole))
    }
}

impl Message {
    /// Its bytes.
    ///
    /// # Panics
    /// If the name of a resource is longer than [`RESOURCE_BYTES_MAX`], which configuration
    /// refuses.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Hello(hello) => (HELLO, hello.body()),
            Self::Challenge(challenge) => (CHALLENGE, challenge.body()),
            Self::Proof(proof) => (
                PROOF,
                [&proof.live.0.to_le_bytes()[..], &proof.proof].concat(),
            ),
            Self::Welcome(welcome) => (
                WELCOME,
                [&welcome.session.0.to_le_bytes()[..], &welcome.proof].concat(),
            ),
            Self::Refusal(refusal) => (REFUSAL, refusal.body()),
        };
        let length = u16::try_from(body.len()).expect("names are bounded");
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&body);
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
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
        let (covered, checksum) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
        if crc32fast::hash(covered).to_le_bytes() != checksum {
            return Err(Flaw::Checksum);
        }
        let mut fields = Fields(&covered[ENVELOPE_BYTES..]);
        let fields = &mut fields;
        Ok(match u16::from_le_bytes([bytes[8], bytes[9]]) {
            HELLO => Self::Hello(Hello::read(fields)?),
            CHALLENGE => Self::Challenge(Challenge::read(fields)?),
            PROOF => Self::Proof(Proof {
                live: Session(fields.u64()?),
                proof: fields.bytes()?,
            }),
            WELCOME => Self::Welcome(Welcome {
                session: Session(fields.u64()?),
                proof: fields.bytes()?,
            }),
            REFUSAL => Self::Refusal(Refusal::read(fields)?),
            _ => return Err(Flaw::Value),
        })
    }
}

impl Hello {
    /// versions 2+2, channel 1, from 1, to 1, length of the name 1, session 8, nonce 32, name.
    fn body(&self) -> Vec<u8> {
        let name = self.resource.as_bytes();
        assert!(
            name.len() <= RESOURCE_BYTES_MAX,
            "resource name too long for the wire"
        );
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
        let versions = Versions {
            oldest: fields.u16()?,
            newest: fields.u16()?,
        };
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
        if name.is_empty() || name.len() > RESOURCE_BYTES_MAX || versions.oldest > versions.newest {
            return Err(Flaw::Value);
        }
        if (channel == Channel::Data) != (session.0 == 0) {
            return Err(Flaw::Value);
        }
        let (from, to, resource) = (NodeId(from), NodeId(to), name.to_owned());
        Ok(Self {
            versions,
            channel,
            from,
            to,
            session,
            nonce,
            resource,
        })
    }
}

impl Challenge {
    /// version 2, zero 6, nonce 32, proof 32.
    fn body(&self) -> Vec<u8> {
        [
            &self.version.to_le_bytes()[..],
            &[0; 6],
            &self.nonce,
            &self.proof,
        ]
        .concat()
    }

    fn read(fields: &mut Fields<'_>) -> Result<Self, Flaw> {
        let version = fields.u16()?;
        fields.take(6)?;
        Ok(Self {
            version,
            nonce: fields.bytes()?,
            proof: fields.bytes()?,
        })
    }
}

impl Refusal {
    /// reason 2, node 1, zero 1, versions 2+2.
    fn body(self) -> Vec<u8> {
        let (reason, node, versions) = match self {
            Self::UnknownResource => (1, 0, None),
            Self::WrongNode(node) => (2, node.0, None),
            Self::Version(versions) => (3, 0, Some(versions)),
            Self::Secret => (4, 0, None),
            Self::Unwanted => (5, 0, None),
            Self::Busy => (6, 0, None),
        };
        let versions = versions.unwrap_or(Versions {
            oldest: 0,
            newest: 0,
        });
        let mut body = vec![reason, 0, node, 0];
        body.extend_from_slice(&versions.oldest.to_le_bytes());
        body.extend_from_slice(&versions.newest.to_le_bytes());
        body
    }

    fn read(fields: &mut Fields<'_>) -> Result<Self, Flaw> {
        let reason = fields.u16()?;
        let [node, _] = fields.bytes()?;
        let versions = Versions {
            oldest: fields.u16()?,
            newest: fields.u16()?,
        };
        Ok(match reason {
            1 => Self::UnknownResource,
            2 => Self::WrongNode(NodeId(node)),
            3 => Self::Version(versions),
            4 => Self::Secret,
            5 => Self::Unwanted,
            6 => Self::Busy,
            _ => return Err(Flaw::Value),
        })
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
        let mut transcript = Self {
            key,
            said: blake3::Hasher::new_keyed(&key),
        };
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
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            versions: Versions {
                oldest: 1,
                newest: 3,
            },
            channel: Channel::Control,
            from: NodeId(1),
            to: NodeId(2),
            session: Session(77),
            nonce: [5; 32],
            resource: "r0".into(),
        }
    }

    fn every_kind() -> Vec<Message> {
        let versions = Versions {
            oldest: 4,
            newest: 9,
        };
        let mut all = vec![
            Message::Hello(hello()),
            Message::Challenge(Challenge {
                version: 3,
                nonce: [6; 32],
                proof: [7; 32],
            }),
            Message::Proof(Proof {
                live: Session(8),
                proof: [9; 32],
            }),
            Message::Welcome(Welcome {
                session: Session(10),
                proof: [11; 32],
            }),
        ];
        all.extend(
            [
                Refusal::UnknownResource,
                Refusal::WrongNode(NodeId(3)),
                Refusal::Version(versions),
                Refusal::Secret,
                Refusal::Unwanted,
                Refusal::Busy,
            ]
            .map(Message::Refusal),
        );
        all
    }

    #[test]
    fn every_message_comes_back_as_it_was() {
        for message in every_kind() {
            let bytes = message.encode();
            assert!(bytes.len() <= MESSAGE_BYTES_MAX);
            assert_eq!(Message::decode(&bytes), Ok(message));
        }
    }

    #[test]
    fn the_first_release_is_read_for_ever() {
        let golden = "5457494e4c494e4b010032000100030002010202\
                      4d00000000000000\
                      0505050505050505050505050505050505050505050505050505050505050505\
                      7230";
        let bytes = Message::Hello(hello()).encode();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex.split_at(hex.len() - 8).0,
            golden.replace(char::is_whitespace, "")
        );
    }

    #[test]
    fn no_flipped_bit_and_no_cut_passes() {
        for message in every_kind() {
            let bytes = message.encode();
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(
                    Message::decode(&flipped).is_err(),
                    "bit {bit} of {message:?}"
                );
            }
            for cut in 0..bytes.len() {
                assert!(Message::decode(&bytes[..cut]).is_err());
            }
        }
    }

    #[test]
    fn a_longer_body_of_a_later_version_is_read() {
        let mut bytes = Message::Hello(hello()).encode();
        bytes.truncate(bytes.len() - CHECKSUM_BYTES);
        bytes.extend_from_slice(b"more");
        bytes[10] += 4;
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        assert_eq!(Message::decode(&bytes), Ok(Message::Hello(hello())));
    }

    #[test]
    fn versions_meet_at_the_newest_common_one() {
        let run = |oldest, newest| Versions { oldest, newest };
        assert_eq!(run(1, 3).common(run(2, 5)), Some(3));
        assert_eq!(run(4, 4).common(run(1, 4)), Some(4));
        assert_eq!(run(1, 2).common(run(3, 5)), None);
    }

    #[test]
    fn proofs_depend_on_secret_nonces_and_place() {
        let bytes = Message::Hello(hello()).encode();
        let mut proofs = Vec::new();
        for (secret, nonce) in [(b"a", [1; 32]), (b"b", [1; 32]), (b"a", [2; 32])] {
            let mut transcript = Transcript::new(secret, &bytes);
            proofs.push(transcript.challenge(1, &nonce));
            assert_ne!(transcript.session(), Session(0));
            proofs.push(transcript.answer(Session(0)));
            proofs.push(transcript.welcome(Session(0)));
        }
        for (at, proof) in proofs.iter().enumerate() {
            assert!(
                proofs[..at]
                    .iter()
                    .all(|other| !proofs_match(*other, *proof))
            );
        }
    }
}
