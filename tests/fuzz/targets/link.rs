//! What a peer, or anybody at the link's port, sends.

use twinblk::format::checksum;
use twinblk::format::frame::{self, BODY_BYTES_MAX, HEADER_BYTES, Header, PAYLOAD_BYTES_MAX};
use twinblk::format::hello::{self as greeting, Message};

/// A stream of frames. Checksums are put right, since no fuzzer guesses them.
pub(super) fn frames(mut bytes: &[u8]) {
    while let Some((first, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() {
        let _unmended = frame::decode_header(first);
        let mut header = *first;
        mend(&mut header);
        let Ok(judged) = frame::decode_header(&header) else {
            return;
        };
        // Memory is taken by these before anything else of the frame has come.
        assert!(
            judged.body_bytes() <= BODY_BYTES_MAX && judged.payload_bytes() <= PAYLOAD_BYTES_MAX
        );
        let length = (judged.body_bytes() as usize).min(rest.len());
        let (body, rest) = rest.split_at(length);
        let mut whole = body.to_vec();
        whole.resize(judged.body_bytes() as usize, 0);
        if judged.payload_bytes() == 0 {
            header[16..20].copy_from_slice(&checksum::of(&whole).to_le_bytes());
            mend(&mut header);
        }
        if let Ok(judged) = frame::decode_header(&header) {
            read_and_write(&judged, &whole);
        }
        bytes = rest;
    }
}

fn mend(header: &mut [u8; HEADER_BYTES]) {
    let sum = checksum::around(header, 8).to_le_bytes();
    header[8..12].copy_from_slice(&sum);
}

/// What is accepted says the same when it is written again.
fn read_and_write(header: &Header, body: &[u8]) {
    let Ok(read) = header.frame(body) else {
        return;
    };
    let mut written = Vec::new();
    frame::encode(&read, header.tag(), header.payload_sum(), &mut written);
    let (again, body) = written.split_first_chunk::<HEADER_BYTES>().expect("a header");
    let again = frame::decode_header(again).expect("our own");
    assert_eq!((again.tag(), again.kind()), (header.tag(), header.kind()));
    assert_eq!(again.frame(body), Ok(read));
}

pub(super) fn hello(bytes: &[u8]) {
    let _unmended = Message::decode(bytes);
    let Ok(Some(length)) = greeting::message_bytes(bytes) else {
        return;
    };
    let mut message = bytes.to_vec();
    message.resize(length, 0);
    let sum = checksum::of(&message[..length - 4]).to_le_bytes();
    message[length - 4..].copy_from_slice(&sum);
    if let Ok(read) = Message::decode(&message) {
        assert_eq!(Message::decode(&read.encode()), Ok(read));
    }
}
