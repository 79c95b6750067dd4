//! The handshake under damage, and what its proofs depend on.

use proptest::prelude::*;

use super::*;

fn hello() -> Hello {
    Hello {
        versions: Versions { oldest: 1, newest: 3 },
        channel: Channel::Control,
        from: NodeId(1),
        to: NodeId(2),
        session: Session(77),
        nonce: [5; 32],
        resource: "r0".into(),
    }
}

fn every_kind() -> Vec<Message> {
    let versions = Versions { oldest: 4, newest: 9 };
    let mut all = vec![
        Message::Hello(hello()),
        Message::Challenge(Challenge { version: 3, nonce: [6; 32], proof: [7; 32] }),
        Message::Proof(Proof { live: Session(8), proof: [9; 32] }),
        Message::Welcome(Welcome { session: Session(10), proof: [11; 32] }),
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
fn no_flipped_bit_and_no_cut_passes() {
    for message in every_kind() {
        let bytes = message.encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Message::decode(&flipped).is_err(), "bit {bit} of {message:?}");
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

/// Replaces the body of a message and mends what goes with it.
fn with_body(message: &Message, edit: impl FnOnce(&mut Vec<u8>)) -> Result<Message, Flaw> {
    let bytes = message.encode();
    let mut body = bytes[ENVELOPE_BYTES..bytes.len() - CHECKSUM_BYTES].to_vec();
    edit(&mut body);
    let length = u16::try_from(body.len()).unwrap().to_le_bytes();
    let mut forged = [&bytes[..10], &length, &body].concat();
    let sum = checksum::of(&forged);
    forged.extend_from_slice(&sum.to_le_bytes());
    Message::decode(&forged)
}

#[test]
fn only_a_hello_may_be_longer() {
    for message in every_kind() {
        let longer = with_body(&message, |body| body.push(0));
        match message {
            Message::Hello(_) => assert_eq!(longer, Ok(message.clone())),
            _ => assert_eq!(longer, Err(Flaw::Length)),
        }
        assert!(with_body(&message, |body| body.truncate(body.len() - 1)).is_err());
    }
}

#[test]
fn values_of_no_version_are_refused() {
    let change = |message: &Message, at: usize, byte: u8| with_body(message, |b| b[at] = byte);
    let all = every_kind();
    let (hello, challenge, refusal) = (&all[0], &all[1], &all[4]);
    assert_eq!(change(hello, 0, 4), Err(Flaw::Value), "oldest above newest");
    assert_eq!(change(hello, 4, 0), Err(Flaw::Value), "no such channel");
    assert_eq!(change(hello, 4, 1), Err(Flaw::Value), "data, and a session to join");
    assert_eq!(change(hello, 7, 0), Err(Flaw::Value), "no name");
    assert_eq!(change(hello, 48, b'/'), Err(Flaw::Value), "a name that is none");
    assert_eq!(change(hello, 48, 0xC3), Err(Flaw::Value), "a name that is none");
    assert_eq!(change(challenge, 2, 1), Err(Flaw::Value), "reserved");
    assert_eq!(change(refusal, 0, 9), Err(Flaw::Value), "no such reason");
    assert_eq!(change(refusal, 2, 1), Err(Flaw::Value), "a node without need");
    assert_eq!(change(refusal, 3, 1), Err(Flaw::Value), "reserved");
    assert_eq!(change(refusal, 4, 1), Err(Flaw::Value), "versions without need");
    assert!(change(hello, 48, b'_').is_ok(), "the forger itself works");
}

#[test]
fn names_are_short_and_plain() {
    let longest = "r".repeat(RESOURCE_BYTES_MAX);
    assert!(["r0", "a.b-c_D", "0", &longest].into_iter().all(is_resource_name));
    let longer = format!("{longest}r");
    assert!(!["", "a b", "a/b", "é", "a\n", &longer].into_iter().any(is_resource_name));
}

#[test]
fn a_stranger_cannot_make_us_read_more_than_a_message() {
    assert_eq!(message_bytes(b"SSH-2.0-OpenSSH"), Err(Flaw::Foreign));
    assert_eq!(message_bytes(b"TWIN"), Ok(None));
    let envelope = |length: usize| {
        let length = u16::try_from(length).unwrap().to_le_bytes();
        message_bytes(&[&MAGIC[..], &[1, 0], &length].concat())
    };
    let longest = MESSAGE_BYTES_MAX - ENVELOPE_BYTES - CHECKSUM_BYTES;
    assert_eq!(envelope(longest), Ok(Some(MESSAGE_BYTES_MAX)));
    assert_eq!(envelope(longest + 1), Err(Flaw::Length));
    assert_eq!(envelope(usize::from(u16::MAX)), Err(Flaw::Length));
}

/// N and N-1 of either side, and two that have nothing in common.
#[test]
fn versions_meet_at_the_newest_common_one() {
    let run = |oldest, newest| Versions { oldest, newest };
    assert_eq!(run(1, 3).common(run(2, 5)), Some(3));
    assert_eq!(run(4, 4).common(run(1, 4)), Some(4));
    assert_eq!(run(1, 2).common(run(3, 5)), None);
    assert_eq!(run(3, 5).common(run(1, 2)), None);
    assert_eq!(Versions::SPOKEN.common(Versions::SPOKEN), Some(LINK_VERSION));
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
        assert!(proofs[..at].iter().all(|other| !proofs_match(*other, *proof)));
    }
}

/// All proofs of one conversation, and its session.
fn conversation(secret: &[u8], hello: &Hello, version: u16, nonce: Nonce) -> [[u8; 32]; 3] {
    let bytes = Message::Hello(hello.clone()).encode();
    let mut transcript = Transcript::new(secret, &bytes);
    let challenge = transcript.challenge(version, &nonce);
    [challenge, transcript.answer(Session(4)), transcript.welcome(transcript.session())]
}

/// Whatever differs, nothing said in one conversation proves anything in the other, not even in
/// another place of it.
#[test]
fn a_proof_is_worth_nothing_elsewhere() {
    let ours = hello();
    let mut all = conversation(b"secret", &ours, 1, [1; 32]).to_vec();
    let data = Hello { channel: Channel::Data, session: Session(0), ..ours.clone() };
    let others = [
        conversation(b"Secret", &ours, 1, [1; 32]),
        conversation(b"secret", &ours, 2, [1; 32]),
        conversation(b"secret", &ours, 1, [2; 32]),
        conversation(b"secret", &data, 1, [1; 32]),
        conversation(b"secret", &Hello { nonce: [6; 32], ..ours.clone() }, 1, [1; 32]),
        conversation(b"secret", &Hello { session: Session(78), ..ours.clone() }, 1, [1; 32]),
        conversation(b"secret", &Hello { resource: "r1".into(), ..ours.clone() }, 1, [1; 32]),
        conversation(b"secret", &Hello { from: ours.to, to: ours.from, ..ours }, 1, [1; 32]),
    ];
    all.extend(others.as_flattened());
    for (at, proof) in all.iter().enumerate() {
        assert!(all[..at].iter().all(|other| !proofs_match(*other, *proof)), "proof {at}");
    }
    assert!(proofs_match(all[0], all[0]));
}

#[test]
fn both_sides_derive_the_same_session_from_both_nonces() {
    let bytes = Message::Hello(hello()).encode();
    let session = |nonce: Nonce| {
        let mut transcript = Transcript::new(b"secret", &bytes);
        let _ = transcript.challenge(1, &nonce);
        transcript.session()
    };
    assert_eq!(session([1; 32]), session([1; 32]));
    assert_ne!(session([1; 32]), session([2; 32]));
    assert_ne!(session([1; 32]), Session(0));
}

proptest! {
    #[test]
    fn garbage_is_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Message::decode(&bytes).is_err());
        let used = bytes.len().min(MAGIC.len());
        bytes[..used].copy_from_slice(&MAGIC[..used]);
        prop_assert!(Message::decode(&bytes).is_err());
    }

    /// Under a right checksum: refused, or a message with this one spelling (but for what a later
    /// version appends to a hello).
    #[test]
    fn accepted_bytes_have_one_spelling(
        kind in 1..=5u8, body in prop::collection::vec(0..4u8, 0..120),
    ) {
        let length = u16::try_from(body.len()).unwrap().to_le_bytes();
        let mut bytes = [&MAGIC[..], &[kind, 0], &length, &body].concat();
        let sum = checksum::of(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        if let Ok(message) = Message::decode(&bytes) {
            let hello = matches!(message, Message::Hello(_));
            prop_assert!(hello || message.encode() == bytes);
        }
    }
}
