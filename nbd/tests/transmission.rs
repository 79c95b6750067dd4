//! Transmission: every rule a request can break, and every reply.

mod wire;

use twinblk_nbd::*;
use wire::*;

const READ: u16 = 0;
const WRITE: u16 = 1;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const CACHE: u16 = 5;
const ZEROES: u16 = 6;
const FUA: u16 = 1;
const NO_HOLE: u16 = 2;
const DF: u16 = 4;
const REQ_ONE: u16 = 8;
const FAST_ZERO: u16 = 16;

const END: u64 = 1 << 30;

fn judge(terms: Terms, flags: u16, command: u16, range: (u64, u32)) -> Result<Checked, Rejection> {
    let request = Request::parse(&request(flags, command, range)).expect("the magic is right");
    let judged = check(&request, &terms);
    if let Ok(checked) = judged {
        assert_eq!((checked.cookie, checked.operation.command()), (COOKIE, Command(command)));
        assert_eq!((checked.offset, checked.length), range);
    }
    judged
}

fn errno(terms: Terms, flags: u16, command: u16, range: (u64, u32)) -> Errno {
    match judge(terms, flags, command, range) {
        Err(Rejection::Refuse(refusal)) => {
            let payload = if command == WRITE { range.1 } else { 0 };
            assert_eq!(
                (refusal.cookie, refusal.command, refusal.drain),
                (COOKIE, Command(command), payload)
            );
            refusal.errno
        }
        other => panic!("{other:?}"),
    }
}

fn operation(flags: u16, command: u16, range: (u64, u32)) -> Operation {
    judge(terms(ALL), flags, command, range).expect("a good request").operation
}

// Good requests

#[test]
fn each_command_is_understood_with_the_flags_that_go_with_it() {
    let range = (4096, 512);
    assert_eq!(operation(0, READ, range), Operation::Read { unfragmented: false });
    assert_eq!(operation(DF, READ, range), Operation::Read { unfragmented: true });
    assert_eq!(operation(0, WRITE, range), Operation::Write { fua: false });
    assert_eq!(operation(FUA, WRITE, range), Operation::Write { fua: true });
    assert_eq!(operation(0, FLUSH, (0, 0)), Operation::Flush);
    assert_eq!(operation(FUA, TRIM, range), Operation::Trim { fua: true });
    assert_eq!(operation(0, CACHE, range), Operation::Cache);
    let zeroes = |fua, no_hole, fast| Operation::WriteZeroes { fua, no_hole, fast };
    assert_eq!(operation(0, ZEROES, range), zeroes(false, false, false));
    assert_eq!(operation(FUA | NO_HOLE | FAST_ZERO, ZEROES, range), zeroes(true, true, true));
}

#[test]
fn fua_is_accepted_on_every_command() {
    for command in [READ, WRITE, TRIM, CACHE, ZEROES] {
        operation(FUA, command, (0, 512));
    }
    operation(FUA, FLUSH, (0, 0));
}

#[test]
fn any_offset_and_length_is_valid() {
    for range in [(1, 1), (511, 3), (END - 1, 1), (END - 7, 7), (4095, 4098)] {
        for command in [READ, WRITE, TRIM, CACHE, ZEROES] {
            operation(0, command, range);
        }
    }
}

#[test]
fn reads_and_writes_of_64_mib_are_served() {
    for command in [READ, WRITE] {
        operation(0, command, (END - (64 << 20), 64 << 20));
    }
}

#[test]
fn trim_zeroes_and_cache_may_be_as_long_as_the_export() {
    for command in [TRIM, ZEROES, CACHE] {
        let large = Terms { size_bytes: 1 << 33, ..terms(ALL) };
        assert!(judge(large, 0, command, (12345, u32::MAX)).is_ok());
    }
}

#[test]
fn length_0_is_harmless_up_to_the_end() {
    for command in [READ, WRITE, TRIM, CACHE, ZEROES] {
        for offset in [0, 5, END] {
            operation(0, command, (offset, 0));
        }
    }
    assert_eq!(errno(terms(ALL), 0, READ, (END + 1, 0)), Errno::INVAL);
    assert_eq!(errno(terms(ALL), 0, WRITE, (END + 1, 0)), Errno::NOSPC);
}

// Bad input

#[test]
fn bad_magic_is_fatal() {
    for magic in [0, 0x1256_0953, 0x21e4_1c71, u32::MAX] {
        let mut bytes = request(0, READ, (0, 512));
        bytes[..4].copy_from_slice(&u32::to_be_bytes(magic));
        let mut transmission = Transmission::new(terms(ALL));
        let fatal = Event::Fatal(TransmissionError::BadMagic(magic));
        assert_eq!(transmission.feed(&bytes), (28, fatal));
        assert_eq!(transmission.feed(&request(0, READ, (0, 512))), (0, fatal), "and stays so");
    }
}

#[test]
fn an_unknown_command_is_invalid() {
    for command in [7, 8, 0x4000, u16::MAX] {
        assert_eq!(errno(terms(ALL), 0, command, (0, 512)), Errno::INVAL);
    }
}

#[test]
fn an_unknown_flag_is_invalid_on_every_command() {
    for command in [READ, WRITE, FLUSH, TRIM, CACHE, ZEROES] {
        for flag in [REQ_ONE, 0x20, 0x40, 0x8000] {
            assert_eq!(
                errno(terms(ALL), flag, command, (0, 0)),
                Errno::INVAL,
                "{command} {flag:#x}"
            );
        }
    }
}

#[test]
fn a_flag_of_another_command_is_invalid() {
    for (flag, owner) in [(NO_HOLE, ZEROES), (FAST_ZERO, ZEROES), (DF, READ)] {
        for command in [READ, WRITE, FLUSH, TRIM, CACHE, ZEROES] {
            if command != owner {
                assert_eq!(
                    errno(terms(ALL), flag, command, (0, 0)),
                    Errno::INVAL,
                    "{command} {flag:#x}"
                );
            }
        }
    }
}

#[test]
fn what_was_not_offered_is_invalid() {
    use TransmissionFlags as F;
    let cases = [
        (F::SEND_FLUSH, 0, FLUSH, 0),
        (F::SEND_TRIM, 0, TRIM, 1),
        (F::SEND_WRITE_ZEROES, 0, ZEROES, 1),
        (F::SEND_CACHE, 0, CACHE, 1),
        (F::SEND_FUA, FUA, WRITE, 1),
        (F::SEND_DF, DF, READ, 1),
        (F::SEND_FAST_ZERO, FAST_ZERO, ZEROES, 1),
    ];
    for (offer, flags, command, length) in cases {
        assert!(judge(terms(ALL), flags, command, (0, length)).is_ok());
        assert_eq!(
            errno(terms(ALL.without(offer)), flags, command, (0, length)),
            Errno::INVAL,
            "{offer}"
        );
    }
}

#[test]
fn past_the_end_is_invalid_or_no_space() {
    for range in [(END, 1), (END - 1, 2), (END - 511, 512), (u64::from(u32::MAX) << 20, 512)] {
        for command in [READ, TRIM, CACHE] {
            assert_eq!(errno(terms(ALL), 0, command, range), Errno::INVAL);
        }
        for command in [WRITE, ZEROES] {
            assert_eq!(errno(terms(ALL), 0, command, range), Errno::NOSPC);
        }
    }
}

#[test]
fn a_range_that_wraps_is_invalid() {
    for range in [(u64::MAX, 1), (u64::MAX - 511, 512), (u64::MAX, 64 << 20)] {
        for command in [READ, WRITE, TRIM, CACHE, ZEROES] {
            assert_eq!(errno(terms(ALL), 0, command, range), Errno::INVAL);
        }
    }
    assert_eq!(
        errno(terms(ALL), 0, WRITE, (u64::MAX - 512, 512)),
        Errno::NOSPC,
        "ends at 2^64 - 1, so does not wrap"
    );
}

#[test]
fn writing_to_a_read_only_export_is_not_permitted_wherever_it_goes() {
    let exported = ExportInfo { flags: ALL | TransmissionFlags::READ_ONLY, ..export("disk") };
    let negotiated = Negotiated { export: exported, structured_replies: true, no_zeroes: true };
    for command in [WRITE, TRIM, ZEROES] {
        for range in [(0, 512), (0, 0), (u64::MAX, 512)] {
            assert_eq!(errno(negotiated.terms(), 0, command, range), Errno::PERM);
        }
    }
    assert!(judge(negotiated.terms(), 0, READ, (0, 512)).is_ok());
    assert!(judge(negotiated.terms(), 0, FLUSH, (0, 0)).is_ok());
}

#[test]
fn a_flush_with_a_range_is_invalid() {
    for range in [(0, 1), (1, 0), (u64::MAX, u32::MAX)] {
        assert_eq!(errno(terms(ALL), 0, FLUSH, range), Errno::INVAL);
    }
}

#[test]
fn a_read_longer_than_the_limit_overflows_or_is_invalid() {
    let range = (0, MAX_REQUEST_BYTES + 1);
    assert_eq!(errno(terms(ALL), 0, READ, range), Errno::OVERFLOW);
    assert_eq!(errno(terms(ALL.without(TransmissionFlags::SEND_DF)), 0, READ, range), Errno::INVAL);
}

#[test]
fn a_write_longer_than_the_limit_is_invalid_and_its_payload_is_read_past() {
    for length in [MAX_REQUEST_BYTES + 1, MAX_DRAIN_BYTES] {
        assert_eq!(errno(terms(ALL), 0, WRITE, (0, length)), Errno::INVAL);
    }
}

#[test]
fn a_write_too_long_to_be_read_past_is_fatal() {
    for length in [MAX_DRAIN_BYTES + 1, u32::MAX] {
        let close = Rejection::Close(TransmissionError::PayloadTooLong(length));
        assert_eq!(judge(terms(ALL), 0, WRITE, (0, length)), Err(close));
    }
}

#[test]
fn a_stricter_limit_and_block_size_are_kept() {
    let strict = Terms { min_block_bytes: 512, max_payload_bytes: 4096, ..terms(ALL) };
    for command in [READ, WRITE, TRIM, CACHE, ZEROES] {
        assert!(judge(strict, 0, command, (512, 4096)).is_ok());
        assert_eq!(errno(strict, 0, command, (1, 512)), Errno::INVAL);
        assert_eq!(errno(strict, 0, command, (512, 511)), Errno::INVAL);
    }
    assert_eq!(errno(strict, 0, WRITE, (0, 4608)), Errno::INVAL);
    assert!(judge(strict, 0, ZEROES, (0, 4608)).is_ok());
}

// The stream

#[test]
fn requests_are_found_in_any_fragmentation_and_payloads_are_the_callers() {
    let payload = b"payload that looks like nothing";
    let length = u32::try_from(payload.len()).expect("short");
    let stream = [
        &request(0, READ, (0, 512))[..],
        &request(FUA, WRITE, (7, length)),
        payload,
        &request(0, WRITE, (END, length)),
        payload,
        &request(0, FLUSH, (0, 0)),
        &request(0, 2, (0, 0)),
        b"never looked at",
    ]
    .concat();
    for size in [1, 3, 27, 28, 29, 64, stream.len()] {
        let (events, payloads) = follow(&stream, size);
        let names: Vec<_> = events
            .iter()
            .map(|event| format!("{event:?}").split(['(', ' ']).next().map(str::to_owned))
            .collect();
        assert_eq!(
            names.iter().flatten().collect::<Vec<_>>(),
            ["Request", "Request", "Refused", "Request", "Disconnect"]
        );
        assert_eq!(payloads, payload, "in pieces of {size}");
    }
}

/// Feeds `stream` in pieces of `size`, taking payloads as a server would; all events but
/// `NeedMore`.
fn follow(stream: &[u8], size: usize) -> (Vec<Event>, Vec<u8>) {
    let mut transmission = Transmission::new(terms(ALL));
    let (mut events, mut payloads, mut due) = (Vec::new(), Vec::new(), 0);
    for mut piece in stream.chunks(size) {
        while !piece.is_empty() {
            if due > 0 {
                let here = piece.len().min(due);
                payloads.extend_from_slice(&piece[..here]);
                (piece, due) = (&piece[here..], due - here);
                if due == 0 {
                    transmission.payload_done();
                }
                continue;
            }
            let (taken, event) = transmission.feed(piece);
            piece = &piece[taken..];
            match event {
                Event::NeedMore => assert!(piece.is_empty(), "NeedMore takes all"),
                Event::Disconnect => {
                    events.push(event);
                    return (events, payloads);
                }
                Event::Request(request) => {
                    due = request.payload_bytes() as usize;
                    events.push(event);
                }
                other => events.push(other),
            }
        }
    }
    (events, payloads)
}

#[test]
fn a_refusal_is_reported_once_its_payload_is_read_past() {
    let mut transmission = Transmission::new(terms(ALL));
    assert_eq!(transmission.feed(&request(0, WRITE, (END, 100))), (28, Event::NeedMore));
    assert!(!transmission.at_boundary());
    assert_eq!(transmission.feed(&[0; 60]), (60, Event::NeedMore));
    let (taken, event) = transmission.feed(&[0; 60]);
    assert!(matches!(event, Event::Refused(Refusal { drain: 100, errno: Errno::NOSPC, .. })));
    assert_eq!(taken, 40);
    assert!(transmission.at_boundary());
}

#[test]
fn a_payload_that_was_not_taken_is_asked_for_again() {
    let mut transmission = Transmission::new(terms(ALL));
    let stream = request(0, WRITE, (0, 512));
    assert!(matches!(transmission.feed(&stream), (28, Event::Request(_))));
    assert_eq!(transmission.feed(&stream), (0, Event::PayloadDue(512)));
    transmission.payload_done();
    assert!(matches!(transmission.feed(&stream), (28, Event::Request(_))));
}

#[test]
fn payload_done_out_of_place_changes_nothing() {
    let mut transmission = Transmission::new(terms(ALL));
    transmission.feed(&request(0, READ, (0, 1))[..9]);
    transmission.payload_done();
    assert!(matches!(transmission.feed(&request(0, READ, (0, 1))[9..]), (19, Event::Request(_))));
}

#[test]
fn disconnect_takes_nothing_more() {
    let mut transmission = Transmission::new(terms(ALL));
    let stream = [request(0, 2, (1, 1)), request(0, READ, (0, 512))].concat();
    assert_eq!(
        transmission.feed(&stream),
        (28, Event::Disconnect),
        "also with a range it should not have"
    );
    assert_eq!(transmission.feed(&stream[28..]), (0, Event::Disconnect));
}

#[test]
fn two_requests_in_flight_may_have_the_same_cookie() {
    let mut transmission = Transmission::new(terms(ALL));
    for _ in 0..2 {
        let (_, event) = transmission.feed(&request(0, READ, (0, 512)));
        assert!(matches!(event, Event::Request(Checked { cookie: COOKIE, .. })));
    }
}

#[test]
fn a_disconnect_in_the_middle_of_a_request_is_told_from_one_between_requests() {
    for cut in 0..=REQUEST_BYTES {
        let mut transmission = Transmission::new(terms(ALL));
        let (_, event) = transmission.feed(&request(0, READ, (0, 512))[..cut]);
        assert_eq!(transmission.at_boundary(), cut == 0 || cut == REQUEST_BYTES);
        assert_eq!(event == Event::NeedMore, cut < REQUEST_BYTES);
    }
}

// Replies

/// What the encoder answers to a request, with success or with an error.
fn reply(structured: bool, command: u16, length: u32, failure: Option<Errno>) -> Vec<u8> {
    let range = if command == FLUSH { (0, 0) } else { (4096, length) };
    let request = judge(terms(ALL), 0, command, range).expect("a good request");
    let mut out = [0xee; MAX_REPLY_HEADER_BYTES];
    let encoder = ReplyEncoder::new(structured);
    let length = match failure {
        None => encoder.success(&request, &mut out),
        Some(errno) => encoder.failure(&request, errno, &mut out),
    };
    out[..length].to_vec()
}

#[test]
fn only_reads_get_structured_replies() {
    for command in [WRITE, FLUSH, TRIM, CACHE, ZEROES] {
        for failure in [None, Some(Errno::IO)] {
            assert_eq!(reply(true, command, 512, failure), reply(false, command, 512, failure));
        }
    }
}

#[test]
fn a_read_of_any_length_is_one_data_chunk_with_done() {
    for length in [1, 65536, MAX_REQUEST_BYTES] {
        let expected = data_header(COOKIE, ChunkFlags::DONE, 4096, length);
        assert_eq!(reply(true, READ, length, None), expected);
        assert_eq!(expected[16..20], (length + 8).to_be_bytes());
    }
}

#[test]
fn a_read_of_nothing_is_answered_without_data() {
    assert_eq!(reply(true, READ, 0, None), done(COOKIE));
    assert_eq!(reply(false, READ, 0, None), simple_reply(COOKIE, Errno(0)));
}

#[test]
fn a_refused_read_is_structured_even_if_only_its_flags_were_bad() {
    let request = Request::parse(&request(0x8000, READ, (0, 512))).expect("the magic is right");
    let Err(Rejection::Refuse(refusal)) = check(&request, &terms(ALL)) else {
        panic!("a bad flag")
    };
    let mut out = [0; MAX_REPLY_HEADER_BYTES];
    let length = ReplyEncoder::new(true).refusal(&refusal, &mut out);
    assert_eq!(out[..4], 0x668e_33ef_u32.to_be_bytes());
    assert_eq!((length, &out[20..26]), (26, &[0, 0, 0, 22, 0, 0][..]));
    let length = ReplyEncoder::new(false).refusal(&refusal, &mut out);
    assert_eq!(out[..length], simple_reply(COOKIE, Errno::INVAL));
}

#[test]
fn a_message_is_cut_to_the_room_and_the_limit_between_characters() {
    let message = "ä".repeat(3000);
    let detail = ErrorDetail { errno: Errno::IO, offset: Some(5), message: &message };
    let mut out = [0; MAX_ERROR_CHUNK_BYTES + 100];
    assert_eq!(
        error_chunk(COOKIE, ChunkFlags::DONE, &detail, &mut out),
        Some(MAX_ERROR_CHUNK_BYTES)
    );
    assert_eq!(out[24..26], 4096_u16.to_be_bytes());
    assert_eq!(error_chunk(COOKIE, ChunkFlags::DONE, &detail, &mut out[..37]), Some(36));
    assert_eq!(error_chunk(COOKIE, ChunkFlags::DONE, &detail, &mut out[..34]), Some(34));
    assert_eq!(error_chunk(COOKIE, ChunkFlags::DONE, &detail, &mut out[..33]), None);
}

#[test]
fn a_message_is_told_where_the_session_has_room_for_it() {
    let request = judge(terms(ALL), 0, WRITE, (0, 512)).expect("a good request");
    let detail = ErrorDetail { errno: Errno::SHUTDOWN, offset: None, message: "demoted" };
    let mut out = [0; 64];
    assert_eq!(ReplyEncoder::new(true).failure_with(&request, &detail, &mut out), Some(33));
    assert_eq!(&out[26..33], b"demoted");
    assert_eq!(ReplyEncoder::new(false).failure_with(&request, &detail, &mut out), Some(16));
    assert_eq!(out[..16], simple_reply(COOKIE, Errno::SHUTDOWN));
    assert_eq!(ReplyEncoder::new(false).failure_with(&request, &detail, &mut out[..15]), None);
}
