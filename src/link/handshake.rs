//! Owns the conversation that opens one connection: whose turn it is and whether the other side
//! has proven that it knows the secret. Must never decide which of several connections is kept.

use super::fault::Fault;
use super::options::LinkOptions;
use crate::format::frame::Channel;
use crate::format::hello::{
    Challenge, Hello, Message, Nonce, Proof, Refusal, Transcript, Welcome, proofs_match,
};
use crate::ring::Ring;
use crate::units::Session;

/// Whose turn it is.
///
/// ```text
/// dialled:  Challenge -> Prove -> Welcome -> Bound
/// accepted: Proof -> Confirm -> Bound
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The acceptor must send its challenge.
    Challenge,
    /// This side, the dialler, must send its proof.
    Prove,
    /// The acceptor must welcome the connection to this session, if it is known already.
    Welcome,
    /// The dialler must send its proof.
    Proof,
    /// This side, the acceptor, must welcome.
    Confirm,
    /// Both have proven themselves and agree on the session.
    Bound,
}

/// What a message of the other side came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The acceptor has proven itself: this side may do the same.
    Challenged,
    /// The dialler has proven itself; the session that stands on it, or 0.
    Proven(Session),
    /// The acceptor has bound the connection.
    Welcomed,
}

/// One connection's handshake.
pub(super) struct Handshake {
    channel: Channel,
    stage: Stage,
    transcript: Transcript,
    version: u16,
    /// Named by the hello of a control connection; made by both nonces of a data connection.
    session: Session,
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?} {:?}", self.channel, self.stage, self.session)
    }
}

impl Handshake {
    /// The dialler's side and its hello. `session` is 0 for a data connection.
    pub(super) fn dial(options: &LinkOptions, nonce: Nonce, session: Session) -> (Self, Vec<u8>) {
        let channel = if session.0 == 0 { Channel::Data } else { Channel::Control };
        let hello = Message::Hello(Hello {
            versions: options.versions,
            channel,
            from: options.local,
            to: options.peer,
            session,
            nonce,
            resource: options.resource.clone(),
        })
        .encode();
        let transcript = Transcript::new(options.secret.bytes(), &hello);
        (Self { channel, stage: Stage::Challenge, transcript, version: 0, session }, hello)
    }

    /// The acceptor's side and its challenge. `bytes` are those of the hello.
    pub(super) fn accept(
        options: &LinkOptions,
        nonce: Nonce,
        hello: &Hello,
        bytes: &[u8],
    ) -> Result<(Self, Vec<u8>), Refusal> {
        if hello.to != options.local || hello.from == options.local {
            return Err(Refusal::WrongNode(options.local));
        }
        if hello.from != options.peer || hello.resource != options.resource {
            return Err(Refusal::UnknownResource);
        }
        let version = options.versions.common(hello.versions);
        let version = version.ok_or(Refusal::Version(options.versions))?;
        let mut transcript = Transcript::new(options.secret.bytes(), bytes);
        let proof = transcript.challenge(version, &nonce);
        let session = match hello.channel {
            Channel::Data => transcript.session(),
            Channel::Control => hello.session,
        };
        let challenge = Message::Challenge(Challenge { version, nonce, proof }).encode();
        let (channel, stage) = (hello.channel, Stage::Proof);
        Ok((Self { channel, stage, transcript, version, session }, challenge))
    }

    /// Takes a message of the other side.
    pub(super) fn on_message(
        &mut self,
        options: &LinkOptions,
        bytes: &[u8],
    ) -> Result<Heard, Fault> {
        let message = Message::decode(bytes).map_err(Fault::Flaw)?;
        match (self.stage, message) {
            (_, Message::Refusal(refusal)) => Err(Fault::Refused(refusal)),
            (Stage::Challenge, Message::Challenge(challenge)) => {
                self.on_challenge(options, &challenge)
            }
            (Stage::Proof, Message::Proof(proof)) => {
                if !proofs_match(self.transcript.answer(proof.live), proof.proof) {
                    return Err(Fault::Secret);
                }
                self.stage = Stage::Confirm;
                Ok(Heard::Proven(proof.live))
            }
            (Stage::Welcome, Message::Welcome(welcome)) => {
                let expected = self.transcript.welcome(self.session);
                if welcome.session != self.session || !proofs_match(expected, welcome.proof) {
                    return Err(Fault::OutOfTurn);
                }
                self.stage = Stage::Bound;
                Ok(Heard::Welcomed)
            }
            _ => Err(Fault::OutOfTurn),
        }
    }

    fn on_challenge(
        &mut self,
        options: &LinkOptions,
        challenge: &Challenge,
    ) -> Result<Heard, Fault> {
        let version = challenge.version;
        if version < options.versions.oldest || version > options.versions.newest {
            return Err(Fault::OutOfTurn);
        }
        let expected = self.transcript.challenge(version, &challenge.nonce);
        if !proofs_match(expected, challenge.proof) {
            return Err(Fault::Secret);
        }
        self.version = version;
        if self.channel == Channel::Data {
            self.session = self.transcript.session();
        }
        self.stage = Stage::Prove;
        Ok(Heard::Challenged)
    }

    /// The dialler's proof, after [`Heard::Challenged`]. `live`: the session that stands, or 0.
    pub(super) fn prove(&mut self, live: Session) -> Vec<u8> {
        debug_assert_eq!(self.stage, Stage::Prove);
        self.stage = Stage::Welcome;
        Message::Proof(Proof { live, proof: self.transcript.answer(live) }).encode()
    }

    /// The acceptor's last word, after [`Heard::Proven`].
    pub(super) fn welcome(&mut self) -> Vec<u8> {
        debug_assert_eq!(self.stage, Stage::Confirm);
        self.stage = Stage::Bound;
        let (session, proof) = (self.session, self.transcript.welcome(self.session));
        Message::Welcome(Welcome { session, proof }).encode()
    }

    /// Whether it is over, with success.
    pub(super) fn is_bound(&self) -> bool {
        self.stage == Stage::Bound
    }

    /// Whether this side, the dialler, has said all it has to say.
    pub(super) fn has_proven(&self) -> bool {
        self.stage == Stage::Welcome
    }

    /// What the connection is for.
    pub(super) fn channel(&self) -> Channel {
        self.channel
    }

    /// The agreed session, once challenged.
    pub(super) fn session(&self) -> Session {
        self.session
    }

    /// The agreed version, once challenged.
    pub(super) fn version(&self) -> u16 {
        self.version
    }
}

/// A number nobody has seen before.
pub(super) fn draw_nonce<R: Ring>(ring: &mut R) -> Nonce {
    let mut nonce = [0; 32];
    for part in nonce.chunks_exact_mut(8) {
        part.copy_from_slice(&ring.random().to_le_bytes());
    }
    nonce
}
