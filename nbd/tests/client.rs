//! The client: what it makes of a good server, and of a bad one.

mod wire;

use std::slice;

use twinblk_nbd::client::*;
use twinblk_nbd::*;
use wire::*;

// Opening an export

const REPLY: u64 = 0x0003_e889_0455_65a9;

fn reply(option: u32, kind: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&REPLY.to_be_bytes()[..], &option.to_be_bytes(), &kind.to_be_bytes(), &length, payload]
        .concat()
}

fn export_info(size: u64) -> Vec<u8> {
    [&[0, 0][..], &size.to_be_bytes(), &[0, 5]].concat()
}

const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\0\x03";

/// What a client that wants "disk" makes of a server's bytes.
fn open(structured_replies: bool, server: &[u8]) -> OpenStep {
    let mut client = ClientHandshake::new("disk", structured_replies).expect("a name");
    let mut rest = server;
    loop {
        let (taken, step) = client.feed(rest);
        rest = &rest[taken..];
        client.take_output();
        if step != OpenStep::Send {
            return step;
        }
    }
}

fn fails(server: &[&[u8]]) -> OpenError {
    match open(false, &[&[GREETING], server].concat().concat()) {
        OpenStep::Failed(error) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn our_server_and_our_client_agree_in_any_fragmentation() {
    for structured in [false, true] {
        for size in [1, 2, 17, 1000] {
            let (negotiated, terms) = open_ours(structured, size);
            assert_eq!(negotiated.terms(), terms);
            assert_eq!(terms.structured_replies, structured);
        }
    }
}

/// Pumps bytes between the two machines, at most `size` at a time.
fn open_ours(structured: bool, size: usize) -> (Negotiated, Terms) {
    let mut client = ClientHandshake::new("disk", structured).expect("a name");
    let (mut server, exports) = (Handshake::new(), [export("disk")]);
    let (mut to_client, mut to_server, mut negotiated) = (Vec::new(), Vec::new(), None);
    loop {
        to_client.extend(server.take_output());
        let (taken, step) = client.feed(&to_client[..to_client.len().min(size)]);
        to_client.drain(..taken);
        if let OpenStep::Open(terms) = step {
            assert_eq!((to_client.len(), to_server.len()), (0, 0));
            return (negotiated.expect("the server agreed first"), terms);
        }
        to_server.extend(client.take_output());
        if negotiated.is_none() {
            let (taken, step) = server.feed(&to_server[..to_server.len().min(size)], &exports);
            to_server.drain(..taken);
            if let Step::Negotiated(agreed) = step {
                negotiated = Some(agreed);
            }
        }
    }
}

#[test]
fn a_server_without_structured_replies_is_no_failure() {
    let server = [
        GREETING,
        &reply(8, 0x8000_0001, b"what?"),
        &reply(7, 3, &export_info(1 << 20)),
        &reply(7, 1, b""),
    ];
    let OpenStep::Open(terms) = open(true, &server.concat()) else { panic!("it opens") };
    assert!(!terms.structured_replies);
    assert_eq!(
        (terms.size_bytes, terms.max_payload_bytes, terms.min_block_bytes),
        (1 << 20, 32 << 20, 1)
    );
}

#[test]
fn a_refusal_is_told_in_the_servers_words() {
    let error = fails(&[&reply(7, 0x8000_0002, b"ask alpha")]);
    assert_eq!(
        error,
        OpenError::Refused { reply: OptionReply::ERR_POLICY, message: "ask alpha".into() }
    );
}

#[test]
fn unknown_information_is_skipped() {
    let server = [
        GREETING,
        &reply(7, 3, &[0, 99, 1, 2, 3]),
        &reply(7, 3, &export_info(5)),
        &reply(7, 1, b""),
    ];
    assert!(matches!(open(false, &server.concat()), OpenStep::Open(_)));
}

#[test]
fn a_bad_server_is_named_for_what_it_did() {
    let old = [&GREETING[..16], &[0, 2]].concat();
    assert_eq!(open(false, &old), OpenStep::Failed(OpenError::TooOld(HandshakeFlags::NO_ZEROES)));
    assert!(matches!(
        open(false, b"HTTP/1.1 400 Bad Request"),
        OpenStep::Failed(OpenError::NotNbd(_))
    ));
    assert_eq!(fails(&[&[0xff; 20]]), OpenError::BadReplyMagic(u64::MAX));
    assert_eq!(fails(&[&reply(3, 1, b"")]), OpenError::WrongOption(OptionCode::LIST));
    assert_eq!(fails(&[&reply(7, 2, b"")]), OpenError::UnexpectedReply(OptionReply::SERVER));
    assert_eq!(fails(&[&reply(7, 1, b"")]), OpenError::NoExportInfo);
    assert_eq!(fails(&[&reply(7, 3, &export_info(1 << 63))]), OpenError::BadInfo(InfoType::EXPORT));
    assert_eq!(fails(&[&reply(7, 3, &[0, 0, 1])]), OpenError::BadInfo(InfoType::EXPORT));
    assert_eq!(
        fails(&[&reply(7, 3, &[0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])]),
        OpenError::BadInfo(InfoType::BLOCK_SIZE)
    );
    assert_eq!(fails(&[&vec![reply(7, 3, &[0, 99]); 65].concat()]), OpenError::TooManyReplies);
}

#[test]
fn a_reply_too_long_fails_before_its_data() {
    let mut header = reply(7, 3, b"");
    header[16..].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(fails(&[&header]), OpenError::ReplyTooLong(u32::MAX));
}

#[test]
fn a_name_no_export_can_have_is_not_asked_for() {
    assert_eq!(ClientHandshake::new("a\0", false).err(), Some(NameError::Nul(1)));
}

// Requests and replies

fn client(structured_replies: bool) -> Client {
    Client::new(Terms { structured_replies, ..terms(ALL) })
}

/// A client with one READ of 100 bytes at 1000 in flight.
fn reading(structured_replies: bool) -> Client {
    let mut client = client(structured_replies);
    client.submit(Request::new(Command::READ, 7, 1000, 100)).expect("room");
    client
}

/// Feeds a server's bytes, taking data as it comes; all events but `NeedMore`.
fn events(client: &mut Client, server: &[u8], size: usize) -> Vec<ClientEvent> {
    let (mut events, mut rest) = (Vec::new(), server);
    loop {
        let (taken, event) = client.feed(&rest[..rest.len().min(size)]);
        rest = &rest[taken..];
        match event {
            ClientEvent::NeedMore if rest.is_empty() => return events,
            ClientEvent::NeedMore => continue,
            ClientEvent::Data { length, .. } => {
                rest = &rest[length as usize..];
                client.payload_done();
            }
            ClientEvent::Fatal(_) => {
                events.push(event);
                return events;
            }
            _ => {}
        }
        events.push(event);
    }
}

fn data(offset: u64, length: u32) -> ClientEvent {
    ClientEvent::Data { cookie: 7, offset, length }
}

const SUCCESS: ClientEvent = ClientEvent::Completed { cookie: 7, result: Ok(()) };

fn failure(errno: Errno, offset: Option<u64>, message: &str) -> ClientEvent {
    ClientEvent::Completed {
        cookie: 7,
        result: Err(Failure { errno, offset, message: message.into() }),
    }
}

fn chunk(flags: ChunkFlags, offset: u64, length: u32) -> Vec<u8> {
    [&data_header(7, flags, offset, length)[..], &vec![1; length as usize]].concat()
}

#[test]
fn a_simple_read_is_data_then_completion() {
    let server = [&simple_reply(7, Errno(0))[..], &[1; 100]].concat();
    for size in [1, 5, 16, 1000] {
        assert_eq!(events(&mut reading(false), &server, size), [data(1000, 100), SUCCESS]);
    }
}

#[test]
fn a_structured_read_is_put_together_in_any_order() {
    let zeroes = ClientEvent::Zeroes { cookie: 7, offset: 1010, length: 30 };
    let server = [
        &chunk(ChunkFlags::NONE, 1040, 60)[..],
        &hole(7, ChunkFlags::NONE, 1010, 30),
        &chunk(ChunkFlags::NONE, 1000, 10),
        &done(7),
    ];
    for size in [1, 5, 28, 1000] {
        let seen = events(&mut reading(true), &server.concat(), size);
        assert_eq!(seen, [data(1040, 60), zeroes.clone(), data(1000, 10), SUCCESS]);
    }
    let seen = events(&mut reading(true), &chunk(ChunkFlags::DONE, 1000, 100), 1000);
    assert_eq!(seen, [data(1000, 100), SUCCESS]);
    let seen = events(&mut reading(true), &hole(7, ChunkFlags::DONE, 1000, 100), 1000);
    assert_eq!(seen[1..], [SUCCESS]);
}

#[test]
fn errors_are_told_in_either_form() {
    let seen = events(&mut reading(false), &simple_reply(7, Errno::IO), 1000);
    assert_eq!(seen, [failure(Errno::IO, None, "")]);
    let mut out = [0; 64];
    let detail = ErrorDetail { errno: Errno(200), offset: Some(1005), message: "torn" };
    let length = error_chunk(7, ChunkFlags::NONE, &detail, &mut out).expect("room");
    let server = [&chunk(ChunkFlags::NONE, 1000, 9)[..], &out[..length], &done(7)].concat();
    let seen = events(&mut reading(true), &server, 1000);
    assert_eq!(seen, [data(1000, 9), failure(Errno(200), Some(1005), "torn")]);
}

#[test]
fn an_error_chunk_of_a_kind_unknown_is_an_error_all_the_same() {
    let header = chunk_header(7, ChunkType(0x9999), ChunkFlags::DONE, 8);
    let server = [&header[..], &[0, 0, 0, 5, 0, 0, 1, 2]].concat();
    assert_eq!(events(&mut reading(true), &server, 1000), [failure(Errno::IO, None, "")]);
}

#[test]
fn a_read_that_was_not_answered_in_full_is_never_a_success() {
    let short = ClientEvent::Fatal(ClientError::ShortRead(7));
    assert_eq!(events(&mut reading(true), &done(7), 1000), slice::from_ref(&short));
    let seen = events(&mut reading(true), &chunk(ChunkFlags::DONE, 1000, 99), 1000);
    assert_eq!(seen, [data(1000, 99), short]);
}

#[test]
fn content_outside_the_request_or_given_twice_is_fatal() {
    let bad = ClientEvent::Fatal(ClientError::BadContent(7));
    for (offset, length) in [(999, 1), (1100, 1), (1099, 2), (0, 100), (u64::MAX, 2)] {
        assert_eq!(
            events(&mut reading(true), &chunk(ChunkFlags::NONE, offset, length), 1000),
            slice::from_ref(&bad)
        );
        assert_eq!(
            events(&mut reading(true), &hole(7, ChunkFlags::NONE, offset, length), 1000),
            slice::from_ref(&bad)
        );
    }
    assert_eq!(
        events(&mut reading(true), &hole(7, ChunkFlags::NONE, 1000, 0), 1000),
        slice::from_ref(&bad)
    );
    let twice = [chunk(ChunkFlags::NONE, 1000, 50), chunk(ChunkFlags::NONE, 1049, 10)].concat();
    assert_eq!(events(&mut reading(true), &twice, 1000), [data(1000, 50), bad]);
}

#[test]
fn a_reply_of_the_wrong_form_or_to_nobody_is_fatal() {
    let fatal =
        |structured, server: &[u8]| match events(&mut reading(structured), server, 1000).pop() {
            Some(ClientEvent::Fatal(error)) => error,
            other => panic!("{other:?}"),
        };
    assert_eq!(fatal(true, &simple_reply(7, Errno(0))), ClientError::WrongForm(7));
    assert_eq!(fatal(false, &done(7)), ClientError::WrongForm(7));
    assert_eq!(fatal(false, &simple_reply(8, Errno(0))), ClientError::UnknownCookie(8));
    assert_eq!(fatal(true, &done(8)), ClientError::UnknownCookie(8));
    assert_eq!(fatal(true, &[0xff; 16]), ClientError::BadMagic(u32::MAX));
}

#[test]
fn chunks_of_impossible_lengths_are_fatal_before_their_data() {
    let cases = [
        (ChunkType::NONE, 1),
        (ChunkType::OFFSET_DATA, 8),
        (ChunkType::OFFSET_DATA, MAX_REQUEST_BYTES + 9),
        (ChunkType::OFFSET_HOLE, 11),
        (ChunkType::ERROR, 5),
        (ChunkType::ERROR, 5000),
        (ChunkType::BLOCK_STATUS, 12),
        (ChunkType(99), 0),
    ];
    for (kind, length) in cases {
        let seen =
            events(&mut reading(true), &chunk_header(7, kind, ChunkFlags::DONE, length), 1000);
        assert_eq!(seen, [ClientEvent::Fatal(ClientError::BadChunk(kind))]);
    }
    let long_message =
        [&chunk_header(7, ChunkType::ERROR, ChunkFlags::DONE, 6)[..], &[0, 0, 0, 5, 0, 1]].concat();
    let no_error = [&chunk_header(7, ChunkType::ERROR, ChunkFlags::DONE, 6)[..], &[0; 6]].concat();
    for server in [long_message, no_error] {
        let seen = events(&mut reading(true), &server, 1000);
        assert_eq!(seen, [ClientEvent::Fatal(ClientError::BadChunk(ChunkType::ERROR))]);
    }
}

#[test]
fn content_for_a_write_is_fatal() {
    let mut client = client(true);
    client.submit(Request::new(Command::WRITE, 7, 1000, 100)).expect("room");
    let seen = events(&mut client, &chunk(ChunkFlags::DONE, 1000, 100), 1000);
    assert_eq!(seen, [ClientEvent::Fatal(ClientError::BadChunk(ChunkType::OFFSET_DATA))]);
}

#[test]
fn every_other_command_takes_either_form_of_reply() {
    for command in
        [Command::WRITE, Command::FLUSH, Command::TRIM, Command::CACHE, Command::WRITE_ZEROES]
    {
        for server in [&simple_reply(7, Errno(0))[..], &done(7)] {
            let mut client = client(true);
            client.submit(Request::new(command, 7, 0, 0)).expect("room");
            assert_eq!(events(&mut client, server, 1000), [SUCCESS]);
            assert_eq!(client.in_flight(), 0);
        }
    }
}

#[test]
fn a_read_of_nothing_completes_in_either_form() {
    for (structured, server) in [(false, &simple_reply(7, Errno(0))[..]), (true, &done(7))] {
        let mut client = client(structured);
        client.submit(Request::new(Command::READ, 7, 5, 0)).expect("room");
        assert_eq!(events(&mut client, server, 1000), [SUCCESS]);
    }
}

#[test]
fn what_cannot_be_answered_is_not_submitted() {
    let mut client = reading(true);
    let read = |cookie, length| Request::new(Command::READ, cookie, 0, length);
    assert_eq!(client.submit(read(7, 1)), Err(SubmitError::CookieInFlight(7)));
    assert_eq!(
        client.submit(read(8, MAX_REQUEST_BYTES + 1)),
        Err(SubmitError::TooLong(MAX_REQUEST_BYTES + 1))
    );
    let disconnect = Request::new(Command::DISC, 8, 0, 0);
    assert_eq!(client.submit(disconnect), Err(SubmitError::NotSubmittable(Command::DISC)));
    let mut cookies = 100..;
    while client.in_flight() < MAX_IN_FLIGHT {
        client.submit(read(cookies.next().expect("endless"), 1)).expect("room");
    }
    assert_eq!(client.submit(read(8, 1)), Err(SubmitError::TooMany));
}

#[test]
fn data_that_was_not_taken_is_asked_for_again() {
    let mut client = reading(false);
    assert_eq!(client.feed(&simple_reply(7, Errno(0))), (16, data(1000, 100)));
    assert_eq!(client.feed(&[1; 100]), (0, ClientEvent::PayloadDue(100)));
    client.payload_done();
    assert_eq!(client.feed(&[]), (0, SUCCESS));
}
