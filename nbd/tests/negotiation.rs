//! The server's negotiation: what clients do right, and each thing they do wrong.

mod wire;

use twinblk_nbd::*;
use wire::*;

const REFUSAL: &str = "not primary; ask node alpha at 10.0.0.1:10809";

fn refusing() -> [ExportInfo; 1] {
    [ExportInfo { refusal: Some(REFUSAL.into()), ..export("disk") }]
}

fn closed(talk: &Talk) -> &CloseReason {
    match &talk.step {
        Step::Closed(reason) => reason,
        other => panic!("{other:?}"),
    }
}

/// The option was answered with `reply`, and the next one is answered too.
fn goes_on_after(first: &[u8], reply: OptionReply) -> Talk {
    let talk = haggle(&[first.to_vec()]);
    assert_eq!((talk.last(), &talk.step), (reply, &Step::NeedMore));
    let both = haggle(&[first.to_vec(), go(b"disk")]);
    assert_eq!(both.negotiated().export.name, "disk");
    talk
}

// Entering transmission

#[test]
fn go_tells_size_flags_and_block_sizes_and_begins_transmission() {
    let talk = haggle(&[go(b"disk")]);
    let kinds: Vec<_> = talk
        .replies()
        .iter()
        .map(|reply| (reply.1, reply.2.get(..2).map(<[u8]>::to_vec)))
        .collect();
    let info = |kind| (OptionReply::INFO, Some(vec![0, kind]));
    assert_eq!(kinds, [info(0), info(3), (OptionReply::ACK, None)]);
    assert!(talk.negotiated().no_zeroes && !talk.negotiated().structured_replies);
}

#[test]
fn go_and_info_tell_name_and_description_to_who_asks() {
    let exports = [ExportInfo { description: "fast".into(), ..export("disk") }];
    let asked = option(6, &info(b"", &[1, 2, 1, 99]));
    let talk = talk(&exports, &[&FLAGS[..], &asked].concat());
    let payloads: Vec<_> = talk.replies().into_iter().map(|reply| reply.2).collect();
    assert!(
        payloads.contains(&b"\0\x01disk".to_vec()) && payloads.contains(&b"\0\x02fast".to_vec())
    );
    assert_eq!(talk.step, Step::NeedMore);
}

#[test]
fn info_says_the_same_as_go() {
    let strip =
        |talk: Talk| talk.replies().into_iter().map(|reply| (reply.1, reply.2)).collect::<Vec<_>>();
    let wants = info(b"disk", &[0, 1, 2, 3]);
    assert_eq!(strip(haggle(&[option(6, &wants)])), strip(haggle(&[option(7, &wants)])));
}

#[test]
fn export_name_ends_with_124_zeroes_unless_declined() {
    let name = option(1, b"disk");
    let with = talk(&[export("disk")], &[&[0, 0, 0, 1][..], &name].concat());
    assert_eq!(with.said.len(), 10 + 124);
    assert!(with.said[10..].iter().all(|byte| *byte == 0) && !with.negotiated().no_zeroes);
    let without = talk(&[export("disk")], &[&FLAGS[..], &name].concat());
    assert_eq!(without.said, with.said[..10]);
}

#[test]
fn a_client_without_fixed_newstyle_may_send_export_name() {
    let talk = talk(&[export("disk")], &[&[0; 4][..], &option(1, b"disk")].concat());
    assert_eq!(talk.negotiated().export.name, "disk");
}

#[test]
fn structured_replies_are_agreed_and_bring_df() {
    let talk = haggle(&[option(8, b""), go(b"disk")]);
    assert_eq!(talk.replies()[0].1, OptionReply::ACK);
    let terms = talk.negotiated().terms();
    assert!(terms.structured_replies && terms.flags.contains(TransmissionFlags::SEND_DF));
    let plain = haggle(&[go(b"disk")]).negotiated().terms();
    assert!(!plain.flags.contains(TransmissionFlags::SEND_DF));
}

#[test]
fn the_flags_sent_are_those_the_session_is_bound_to() {
    for options in [vec![go(b"disk")], vec![option(8, b""), go(b"disk")]] {
        let talk = haggle(&options);
        let sent = talk
            .replies()
            .into_iter()
            .find(|reply| reply.2.starts_with(&[0, 0]))
            .expect("NBD_INFO_EXPORT")
            .2;
        assert_eq!(sent[10..12], talk.negotiated().terms().flags.0.to_be_bytes());
    }
}

#[test]
fn requests_sent_along_with_the_last_option_are_left_for_the_transmission() {
    for last in [go(b"disk"), option(1, b"disk")] {
        let talk = haggle(&[last, b"requests already".to_vec()]);
        assert_eq!(talk.left, b"requests already");
    }
}

#[test]
fn list_names_every_export_also_one_that_is_refused() {
    let mut exports = vec![export("a"), ExportInfo { description: "text".into(), ..export("b") }];
    exports[0].refusal = Some(REFUSAL.into());
    let talk = talk(&exports, &[&FLAGS[..], &option(3, b"")].concat());
    let expected = [
        (3, OptionReply::SERVER, b"\0\0\0\x01a".to_vec()),
        (3, OptionReply::SERVER, b"\0\0\0\x01btext".to_vec()),
        (3, OptionReply::ACK, vec![]),
    ];
    assert_eq!(talk.replies(), expected);
}

#[test]
fn abort_is_acknowledged_whatever_it_carries() {
    for payload in [&b""[..], b"bye", &[7; 20_000]] {
        let talk = haggle(&[option(2, payload), go(b"disk")]);
        assert_eq!((talk.last(), closed(&talk)), (OptionReply::ACK, &CloseReason::Aborted));
        assert_eq!(talk.left, go(b"disk"), "nothing is taken after the end");
    }
}

// A secondary

#[test]
fn an_export_that_is_refused_says_why_to_go_and_info() {
    for code in [6, 7] {
        let talk = talk(&refusing(), &[&FLAGS[..], &option(code, &info(b"disk", &[]))].concat());
        assert_eq!((talk.last(), talk.text().as_str()), (OptionReply::ERR_POLICY, REFUSAL));
        assert_eq!((talk.replies().len(), &talk.step), (1, &Step::NeedMore));
    }
}

#[test]
fn an_export_that_is_refused_closes_export_name() {
    let talk = talk(&refusing(), &[&FLAGS[..], &option(1, b"disk")].concat());
    assert_eq!(
        closed(&talk),
        &CloseReason::Refused { name: "disk".into(), message: REFUSAL.into() }
    );
    assert!(talk.said.is_empty());
}

#[test]
fn an_export_whose_settings_break_the_rules_is_refused_and_never_sent() {
    let exports = [ExportInfo { min_block_bytes: 3, ..export("disk") }];
    let go = talk(&exports, &[&FLAGS[..], &option(3, b""), &go(b"disk")].concat());
    let kinds: Vec<_> = go.replies().into_iter().map(|reply| reply.1).collect();
    assert_eq!(kinds, [OptionReply::ACK, OptionReply::ERR_POLICY]);
    let name = talk(&exports, &[&FLAGS[..], &option(1, b"disk")].concat());
    assert!(matches!(closed(&name), CloseReason::Refused { .. }));
}

#[test]
fn a_refusal_of_any_length_and_content_is_sent_as_a_legal_string() {
    let exports = [ExportInfo { refusal: Some("\0ä".repeat(4000)), ..export("disk") }];
    let talk = talk(&exports, &[&FLAGS[..], &go(b"disk")].concat());
    assert!(talk.text().len() <= 4096 && !talk.text().contains('\0'));
}

#[test]
fn an_export_may_come_and_go_between_two_options() {
    let mut handshake = Handshake::new();
    handshake.take_output();
    let both = [&FLAGS[..], &go(b"disk"), &go(b"disk")].concat();
    let (taken, step) = handshake.feed(&both, &refusing());
    assert_eq!(step, Step::Send);
    handshake.take_output();
    let (_, step) = handshake.feed(&both[taken..], &[export("disk")]);
    assert!(matches!(step, Step::Negotiated(_)));
}

// Bad input: flags and headers

#[test]
fn wrong_client_flags_close() {
    for flags in [4_u32, 0x8000_0000, 7, u32::MAX] {
        let talk = talk(&[export("disk")], &[&flags.to_be_bytes()[..], &go(b"disk")].concat());
        assert_eq!(closed(&talk), &CloseReason::UnknownClientFlags(flags));
        assert!(talk.said.is_empty());
    }
}

#[test]
fn an_oldstyle_client_is_closed() {
    let talk = talk(&[export("disk")], b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53");
    assert!(matches!(closed(&talk), CloseReason::UnknownClientFlags(_)));
}

#[test]
fn a_bad_option_magic_closes() {
    let talk = haggle(&[vec![0xff; 16]]);
    assert_eq!(closed(&talk), &CloseReason::BadOptionMagic(u64::MAX));
}

#[test]
fn options_without_fixed_newstyle_close() {
    let talk = talk(&[export("disk")], &[&[0, 0, 0, 2][..], &go(b"disk")].concat());
    assert_eq!(closed(&talk), &CloseReason::NotFixedNewstyle(OptionCode::GO));
}

#[test]
fn an_unknown_option_is_unsupported_and_the_next_is_answered() {
    for code in [0, 4, 5, 9, 10, 11, 99, u32::MAX] {
        for length in [0, 1, 16 << 10, (16 << 10) + 1, 64 << 10] {
            let talk = goes_on_after(&option(code, &vec![1; length]), OptionReply::ERR_UNSUP);
            assert_eq!(talk.replies()[0].0, code);
        }
    }
}

#[test]
fn starttls_is_unsupported_and_what_was_agreed_stands() {
    let talk = haggle(&[option(8, b""), option(5, b""), go(b"disk")]);
    assert_eq!(talk.replies()[1].1, OptionReply::ERR_UNSUP);
    assert!(talk.negotiated().structured_replies, "nothing was upgraded, so nothing is forgotten");
}

#[test]
fn the_longest_option_that_is_kept_is_answered_like_any_other() {
    let longest = option(7, &info(b"disk", &[99; 8187]));
    assert_eq!(longest.len(), 16 + (16 << 10));
    assert_eq!(haggle(&[longest]).negotiated().export.name, "disk");
}

#[test]
fn an_option_longer_than_is_kept_is_read_past_and_answered() {
    for code in [3, 6, 7, 8] {
        goes_on_after(&option(code, &vec![0; (16 << 10) + 1]), OptionReply::ERR_TOO_BIG);
    }
}

#[test]
fn an_option_longer_than_is_read_past_closes_before_its_data() {
    for (code, length) in
        [(7, (64 << 10) + 1), (99, u32::MAX), (2, u32::MAX), (1, u32::MAX), (1, 4097)]
    {
        let talk = haggle(&[announced(code, length)]);
        assert_eq!(closed(&talk), &CloseReason::OptionTooLong { option: OptionCode(code), length });
    }
}

#[test]
fn endless_options_close() {
    let options = vec![option(99, b""); MAX_OPTIONS as usize + 1];
    let talk = haggle(&options);
    assert_eq!(closed(&talk), &CloseReason::TooManyOptions);
    assert_eq!(talk.replies().len(), MAX_OPTIONS as usize);
}

#[test]
fn an_option_sent_before_the_reply_to_the_last_one_waits_until_that_is_taken() {
    let mut handshake = Handshake::new();
    let input = [&FLAGS[..], &option(3, b""), &option(3, b"")].concat();
    assert_eq!(
        handshake.feed(&input, &[export("disk")]),
        (0, Step::Send),
        "the greeting comes first"
    );
    handshake.take_output();
    let (taken, step) = handshake.feed(&input, &[export("disk")]);
    assert_eq!((taken, &step), (4 + 16, &Step::Send));
    assert_eq!(handshake.feed(&input[taken..], &[export("disk")]), (0, Step::Send));
    let first = handshake.take_output();
    assert_eq!(handshake.feed(&input[taken..], &[export("disk")]), (16, Step::Send));
    assert_eq!(handshake.take_output(), first);
}

#[test]
fn a_second_structured_reply_is_invalid_and_the_first_stands() {
    let talk = haggle(&[option(8, b""), option(8, b""), go(b"disk")]);
    assert_eq!(talk.replies()[1].1, OptionReply::ERR_INVALID);
    assert!(talk.negotiated().structured_replies);
}

#[test]
fn list_and_structured_reply_take_no_data() {
    for code in [3, 8] {
        goes_on_after(&option(code, b"x"), OptionReply::ERR_INVALID);
    }
    assert!(!haggle(&[option(8, b"x"), go(b"disk")]).negotiated().structured_replies);
}

// Bad input: names

#[test]
fn go_for_an_unknown_name_is_unknown() {
    let talk = goes_on_after(&go(b"tape"), OptionReply::ERR_UNKNOWN);
    assert_eq!(talk.text(), "no export \"tape\"");
}

#[test]
fn go_for_a_name_that_cannot_be_one_is_unknown() {
    let bad: [&[u8]; 4] = [&[b'x'; 4097], b"di\0sk", b"\0", b"\xff\xfe"];
    for name in bad {
        goes_on_after(&go(name), OptionReply::ERR_UNKNOWN);
    }
}

#[test]
fn export_name_for_an_unknown_name_closes() {
    let talk = haggle(&[option(1, b"tape")]);
    assert_eq!(closed(&talk), &CloseReason::UnknownExport("tape".into()));
    assert!(talk.said.is_empty());
}

#[test]
fn export_name_for_a_name_that_cannot_be_one_closes() {
    for (name, error) in [(&b"di\0sk"[..], NameError::Nul(2)), (b"\xff", NameError::NotUtf8(0))] {
        assert_eq!(closed(&haggle(&[option(1, name)])), &CloseReason::BadName(error));
    }
}

#[test]
fn the_longest_name_is_served() {
    let name = "ä".repeat(2048);
    for last in [go(name.as_bytes()), option(1, name.as_bytes())] {
        let talk = talk(&[export(&name)], &[&FLAGS[..], &last].concat());
        assert_eq!(talk.negotiated().export.name, name);
    }
}

#[test]
fn the_empty_name_is_the_only_export() {
    assert_eq!(haggle(&[go(b"")]).negotiated().export.name, "disk");
    assert_eq!(haggle(&[option(1, b"")]).negotiated().export.name, "disk");
    let two = talk(&[export("a"), export("b")], &[&FLAGS[..], &go(b"")].concat());
    assert_eq!(two.last(), OptionReply::ERR_UNKNOWN);
}

// Bad input: lengths inside

#[test]
fn inner_lengths_that_disagree_are_invalid() {
    let name = |length: u32, rest: &[u8]| [&length.to_be_bytes()[..], rest].concat();
    let cases = [
        vec![],
        vec![0, 0, 0],
        name(5, b"disk\0\0"),
        name(0xffff_ffff, b"disk\0\0"),
        name(0xffff_fffe, b"disk\0\0"),
        name(3, b"disk\0\0"),
        name(4, b"disk"),
        name(4, b"disk\0"),
        name(4, b"disk\0\x01"),
        name(4, b"disk\xff\xff\0\0"),
        name(4, b"disk\0\0\0\0"),
    ];
    for payload in cases {
        for code in [6, 7] {
            goes_on_after(&option(code, &payload), OptionReply::ERR_INVALID);
        }
    }
}

// Disconnects and fragments

/// Every kind of option, and requests behind them.
fn recorded() -> Vec<u8> {
    let options = [
        option(8, b""),
        option(3, b""),
        option(9, b"\0\0\0\x04disk\0\0\0\0"),
        option(6, &info(b"tape", &[1])),
        option(6, &info(b"disk", &[0, 1, 2, 3])),
        option(99, &[0; 20_000]),
        go(b"disk"),
    ];
    [&FLAGS[..], &options.concat(), &request(0, 0, (0, 512))].concat()
}

#[test]
fn one_byte_at_a_time_says_the_same_as_all_at_once() {
    let stream = recorded();
    let exports = [export("disk")];
    let whole = talk(&exports, &stream);
    assert_eq!(whole.left, request(0, 0, (0, 512)));
    for size in [1, 2, 3, 7, 15, 16, 17, 4096] {
        assert_eq!(talk_in_pieces(&exports, stream.chunks(size)), whole, "{size}");
    }
}

#[test]
fn a_disconnect_at_each_byte_of_a_handshake_is_no_more_than_that() {
    let stream = recorded();
    let exports = [export("disk")];
    let whole = talk(&exports, &stream);
    let end = stream.len() - REQUEST_BYTES;
    for cut in 0..end {
        let talk = talk(&exports, &stream[..cut]);
        assert_eq!((&talk.step, talk.left.len()), (&Step::NeedMore, 0), "{cut}");
        assert!(whole.said.starts_with(&talk.said), "{cut}");
    }
}

#[test]
fn a_boundary_is_told_from_the_middle_of_an_option() {
    let mut handshake = Handshake::new();
    handshake.take_output();
    for (piece, boundary) in [(&FLAGS[..], true), (&b"IHAVE"[..], false)] {
        handshake.feed(piece, &[export("disk")]);
        assert_eq!(handshake.at_boundary(), boundary, "{piece:?}");
    }
    handshake.feed(&option(99, b"data")[5..18], &[export("disk")]);
    assert!(!handshake.at_boundary());
    handshake.feed(b"ta", &[export("disk")]);
    assert!(handshake.at_boundary());
}

#[test]
fn nothing_is_taken_after_the_end() {
    let mut handshake = Handshake::new();
    handshake.take_output();
    handshake.feed(&[&FLAGS[..], &go(b"disk")].concat(), &[export("disk")]);
    handshake.take_output();
    assert_eq!(
        handshake.feed(b"more", &[export("disk")]),
        (0, Step::Closed(CloseReason::Finished))
    );
}
