//! The bytes of every message, frozen: written by hand from the specification, never from the
//! crate's own output.

mod wire;

use twinblk_nbd::client::{Client, ClientHandshake, OpenStep};
use twinblk_nbd::*;
use wire::{COOKIE, FLAGS, terms};

/// Bytes from hexadecimal; spaces and line ends separate fields, text stands in quotes.
fn hex(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in text.split_whitespace() {
        if let Some(quoted) = word.strip_prefix('"') {
            bytes.extend(quoted.trim_end_matches('"').bytes());
        } else {
            let digit = |at: usize| u8::from_str_radix(&word[at..at + 2], 16).expect("two digits");
            bytes.extend((0..word.len()).step_by(2).map(digit));
        }
    }
    bytes
}

const OPTION: &str = "49484156454f5054";
const REPLY: &str = "0003e889045565a9";

fn disk() -> [ExportInfo; 1] {
    let flags =
        TransmissionFlags::SEND_FLUSH | TransmissionFlags::SEND_FUA | TransmissionFlags::SEND_DF;
    let mut disk = ExportInfo { flags, ..ExportInfo::new("disk", 0x1_0000_0000) };
    disk.description = "fast".into();
    [disk]
}

fn server_says(client: &str) -> Vec<u8> {
    wire::talk(&disk(), &[&FLAGS[..], &hex(client)].concat()).said
}

#[test]
fn greeting() {
    assert_eq!(Handshake::new().take_output(), hex("4e42444d41474943 49484156454f5054 0003"));
}

#[test]
fn export_name() {
    assert_eq!(
        server_says(&format!("{OPTION} 00000001 00000004 \"disk\"")),
        hex("0000000100000000 000d")
    );
}

#[test]
fn abort() {
    assert_eq!(
        server_says(&format!("{OPTION} 00000002 00000000")),
        hex(&format!("{REPLY} 00000002 00000001 00000000"))
    );
}

#[test]
fn list() {
    let expected = format!(
        "{REPLY} 00000003 00000002 0000000c 00000004 \"disk\" \"fast\" {REPLY} 00000003 00000001 00000000"
    );
    assert_eq!(server_says(&format!("{OPTION} 00000003 00000000")), hex(&expected));
}

#[test]
fn info_with_everything() {
    let asked = format!("{OPTION} 00000006 00000010 00000004 \"disk\" 0003 0001 0002 0003");
    let expected = format!(
        "{REPLY} 00000006 00000003 0000000c 0000 0000000100000000 000d
         {REPLY} 00000006 00000003 00000006 0001 \"disk\"
         {REPLY} 00000006 00000003 00000006 0002 \"fast\"
         {REPLY} 00000006 00000003 0000000e 0003 00000001 00001000 04000000
         {REPLY} 00000006 00000001 00000000"
    );
    assert_eq!(server_says(&asked), hex(&expected));
}

#[test]
fn structured_reply_and_go() {
    let asked =
        format!("{OPTION} 00000008 00000000 {OPTION} 00000007 0000000a 00000004 \"disk\" 0000");
    let expected = format!(
        "{REPLY} 00000008 00000001 00000000
         {REPLY} 00000007 00000003 0000000c 0000 0000000100000000 008d
         {REPLY} 00000007 00000003 0000000e 0003 00000001 00001000 04000000
         {REPLY} 00000007 00000001 00000000"
    );
    assert_eq!(server_says(&asked), hex(&expected));
}

#[test]
fn errors_of_options() {
    let unknown =
        format!("{REPLY} 00000007 80000006 00000010 \"no\" 20 \"export\" 20 22 \"tape\" 22");
    assert_eq!(
        server_says(&format!("{OPTION} 00000007 0000000a 00000004 \"tape\" 0000")),
        hex(&unknown)
    );
    let unsupported = hex(&format!("{REPLY} 00000005 80000001"));
    assert_eq!(server_says(&format!("{OPTION} 00000005 00000000"))[..16], unsupported);
    let invalid = hex(&format!("{REPLY} 00000006 80000003"));
    assert_eq!(server_says(&format!("{OPTION} 00000006 00000001 00"))[..16], invalid);
}

#[test]
fn requests() {
    let golden = |flags_and_command: &str| {
        hex(&format!("25609513 {flags_and_command} 0123456789abcdef 0000000000001000 00000200"))
    };
    let commands = [
        (Command::READ, CommandFlags::DF, "0004 0000"),
        (Command::WRITE, CommandFlags::FUA, "0001 0001"),
        (Command::TRIM, CommandFlags::NONE, "0000 0004"),
        (Command::CACHE, CommandFlags::NONE, "0000 0005"),
        (Command::WRITE_ZEROES, CommandFlags::NO_HOLE | CommandFlags::FAST_ZERO, "0012 0006"),
    ];
    for (command, flags, text) in commands {
        let request = Request::new(command, COOKIE, 4096, 512).flags(flags);
        assert_eq!(request.encode()[..], golden(text));
        let bytes: [u8; REQUEST_BYTES] = golden(text).try_into().expect("28 bytes");
        assert_eq!(Request::parse(&bytes), Ok(request));
    }
}

#[test]
fn flush_and_disconnect() {
    let flush = hex("25609513 0000 0003 0123456789abcdef 0000000000000000 00000000");
    assert_eq!(Request::new(Command::FLUSH, COOKIE, 0, 0).encode()[..], flush);
    let disconnect = hex("25609513 0000 0002 0000000000000000 0000000000000000 00000000");
    assert_eq!(Client::disconnect()[..], disconnect);
}

#[test]
fn simple_replies() {
    assert_eq!(simple_reply(COOKIE, Errno(0))[..], hex("67446698 00000000 0123456789abcdef"));
    assert_eq!(
        simple_reply(COOKIE, Errno::SHUTDOWN)[..],
        hex("67446698 0000006c 0123456789abcdef")
    );
}

#[test]
fn chunks() {
    let data = hex("668e33ef 0001 0001 0123456789abcdef 00000208 0000000000001000");
    assert_eq!(data_header(COOKIE, ChunkFlags::DONE, 4096, 512)[..], data);
    let zeroes = hex("668e33ef 0000 0002 0123456789abcdef 0000000c 0000000000001000 00000200");
    assert_eq!(hole(COOKIE, ChunkFlags::NONE, 4096, 512)[..], zeroes);
    assert_eq!(done(COOKIE)[..], hex("668e33ef 0001 0000 0123456789abcdef 00000000"));
}

#[test]
fn error_chunks() {
    let mut out = [0; 64];
    let detail = ErrorDetail { errno: Errno::IO, offset: None, message: "torn" };
    let length = error_chunk(COOKIE, ChunkFlags::DONE, &detail, &mut out).expect("room");
    assert_eq!(
        out[..length],
        hex("668e33ef 0001 8001 0123456789abcdef 0000000a 00000005 0004 \"torn\"")
    );
    let detail = ErrorDetail { offset: Some(4096), ..detail };
    let length = error_chunk(COOKIE, ChunkFlags::NONE, &detail, &mut out).expect("room");
    let golden =
        "668e33ef 0000 8002 0123456789abcdef 00000012 00000005 0004 \"torn\" 0000000000001000";
    assert_eq!(out[..length], hex(golden));
}

#[test]
fn error_numbers() {
    use Errno as E;
    let all = [E::PERM, E::IO, E::NOMEM, E::INVAL, E::NOSPC, E::OVERFLOW, E::NOTSUP, E::SHUTDOWN];
    assert_eq!(all.map(|errno| errno.0), [1, 5, 12, 22, 28, 75, 95, 108]);
    let names = "NBD_EPERM NBD_EIO NBD_ENOMEM NBD_EINVAL NBD_ENOSPC NBD_EOVERFLOW NBD_ENOTSUP NBD_ESHUTDOWN";
    assert_eq!(all.map(|errno| errno.spelling().expect("a name")).join(" "), names);
}

#[test]
fn what_the_client_sends_and_understands() {
    let mut client = ClientHandshake::new("disk", true).expect("a name");
    let greeting = hex("4e42444d41474943 49484156454f5054 0003");
    assert_eq!(client.feed(&greeting), (18, OpenStep::Send));
    assert_eq!(client.take_output(), hex(&format!("00000001 {OPTION} 00000008 00000000")));
    assert_eq!(client.feed(&hex(&format!("{REPLY} 00000008 00000001 00000000"))).1, OpenStep::Send);
    let go = format!("{OPTION} 00000007 0000000c 00000004 \"disk\" 0001 0003");
    assert_eq!(client.take_output(), hex(&go));
    let answer = format!(
        "{REPLY} 00000007 00000003 0000000c 0000 0000000040000000 0005
         {REPLY} 00000007 00000003 0000000e 0003 00000001 00001000 04000000
         {REPLY} 00000007 00000001 00000000"
    );
    let agreed = terms(TransmissionFlags::HAS_FLAGS | TransmissionFlags::SEND_FLUSH);
    assert_eq!(client.feed(&hex(&answer)).1, OpenStep::Open(agreed));
}
