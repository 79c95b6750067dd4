//! An NBD server over memory, one blocking thread per connection: how the crate's parts go
//! together.
//!
//! Owns the sockets, the clock and the memory, which the crate leaves to its caller. It must never
//! be taken for more than an example: what it holds is lost when it ends.
//!
//! `memory_server [--read-only] [--refuse MESSAGE] [ADDRESS:PORT [MIB]]`

use std::env;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use twinblk_nbd::{
    Checked, Errno, Event, ExportInfo, Handshake, MAX_REPLY_HEADER_BYTES, Negotiated, Operation,
    ReplyEncoder, Step, Transmission, TransmissionFlags as Flags,
};

/// The time a client has to choose an export.
const NEGOTIATION: Duration = Duration::from_secs(10);
/// What is read from a socket at once; payloads that are longer go straight into their own buffer.
const INPUT_BYTES: usize = 64 << 10;

type Memory = Arc<Mutex<Vec<u8>>>;

fn main() -> io::Result<()> {
    let (address, export) = arguments();
    let listener = TcpListener::bind(&address)?;
    println!("nbd://{}/{}", listener.local_addr()?, export.name);
    let memory = Memory::new(Mutex::new(vec![0; index(export.size_bytes)]));
    for socket in listener.incoming() {
        let (socket, export, memory) = (socket?, export.clone(), Arc::clone(&memory));
        thread::spawn(move || {
            let peer = socket.peer_addr();
            match session(socket, &export, &memory) {
                Ok(why) => println!("{peer:?}: {why}"),
                Err(error) => println!("{peer:?}: {error}"),
            }
        });
    }
    Ok(())
}

fn arguments() -> (String, ExportInfo) {
    let all = Flags(0x0dfe).without(Flags::READ_ONLY | Flags::ROTATIONAL);
    let mut export = ExportInfo { flags: all, ..ExportInfo::new("memory", 64 << 20) };
    export.description = "lost when the server ends".into();
    let (mut address, mut arguments) = (None, env::args().skip(1));
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--read-only" => export.flags |= Flags::READ_ONLY,
            "--refuse" => export.refusal = Some(arguments.next().unwrap_or_default()),
            _ if address.is_none() => address = Some(argument),
            mib => export.size_bytes = mib.parse::<u64>().expect("a size in MiB") << 20,
        }
    }
    (address.unwrap_or_else(|| "127.0.0.1:10809".into()), export)
}

/// A socket, and what was read from it and not used yet.
struct Connection {
    socket: TcpStream,
    input: Box<[u8]>,
    unused: Range<usize>,
}

impl Connection {
    fn unused(&self) -> &[u8] {
        &self.input[self.unused.clone()]
    }

    /// Waits for more once all was used; `false` at the end of the stream.
    fn read_more(&mut self) -> io::Result<bool> {
        let bytes = self.socket.read(&mut self.input)?;
        self.unused = 0..bytes;
        Ok(bytes > 0)
    }

    /// A payload: first what is here already, then straight from the socket.
    fn read_payload(&mut self, payload: &mut [u8]) -> io::Result<()> {
        let here = payload.len().min(self.unused.len());
        payload[..here].copy_from_slice(&self.unused()[..here]);
        self.unused.start += here;
        self.socket.read_exact(&mut payload[here..])
    }
}

fn session(socket: TcpStream, export: &ExportInfo, memory: &Memory) -> io::Result<String> {
    socket.set_nodelay(true)?;
    let mut connection =
        Connection { socket, input: vec![0; INPUT_BYTES].into_boxed_slice(), unused: 0..0 };
    match negotiate(&mut connection, export)? {
        Ok(negotiated) => transmit(&mut connection, &negotiated, memory),
        Err(why) => Ok(why),
    }
}

fn negotiate(
    connection: &mut Connection,
    export: &ExportInfo,
) -> io::Result<Result<Negotiated, String>> {
    let exports = [export.clone()];
    let deadline = Instant::now() + NEGOTIATION;
    let mut handshake = Handshake::new();
    loop {
        let (taken, step) = handshake.feed(connection.unused(), &exports);
        connection.unused.start += taken;
        connection.socket.write_all(&handshake.take_output())?;
        match step {
            Step::Send => {}
            Step::NeedMore => {
                let left = deadline.saturating_duration_since(Instant::now());
                connection.socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
                if left.is_zero() || !connection.read_more()? {
                    return Ok(Err("left during the negotiation".into()));
                }
            }
            Step::Negotiated(negotiated) => {
                connection.socket.set_read_timeout(None)?;
                return Ok(Ok(negotiated));
            }
            Step::Closed(reason) => return Ok(Err(reason.to_string())),
        }
    }
}

fn transmit(
    connection: &mut Connection,
    negotiated: &Negotiated,
    memory: &Memory,
) -> io::Result<String> {
    let mut transmission = Transmission::new(negotiated.terms());
    let replies = ReplyEncoder::new(negotiated.structured_replies);
    let mut header = [0; MAX_REPLY_HEADER_BYTES];
    loop {
        let (taken, event) = transmission.feed(connection.unused());
        connection.unused.start += taken;
        match event {
            Event::NeedMore => {
                if !connection.read_more()? {
                    return Ok("hung up".into());
                }
            }
            Event::Request(request) => {
                let mut data = vec![0; request.payload_bytes() as usize];
                connection.read_payload(&mut data)?;
                transmission.payload_done();
                let length = match serve(&request, &mut data, memory) {
                    Ok(()) => replies.success(&request, &mut header),
                    Err(errno) => replies.failure(&request, errno, &mut header),
                };
                connection.socket.write_all(&header[..length])?;
                connection.socket.write_all(&data)?;
            }
            Event::Refused(refusal) => {
                println!("{refusal:?}");
                let length = replies.refusal(&refusal, &mut header);
                connection.socket.write_all(&header[..length])?;
            }
            Event::PayloadDue(_) => unreachable!("every payload is taken at once"),
            Event::Disconnect => return Ok("disconnected".into()),
            Event::Fatal(error) => return Ok(error.to_string()),
        }
    }
}

/// Carries a request out; `data` is the payload of a WRITE, and becomes the data of a READ.
fn serve(request: &Checked, data: &mut Vec<u8>, memory: &Memory) -> Result<(), Errno> {
    let mut memory = memory.lock().map_err(|_| Errno::IO)?;
    let range = &mut memory[index(request.offset)..][..request.length as usize];
    match request.operation {
        Operation::Read { .. } => data.extend_from_slice(range),
        Operation::Write { .. } => {
            range.copy_from_slice(data);
            data.clear();
        }
        Operation::WriteZeroes { fast: true, .. } => return Err(Errno::NOTSUP),
        Operation::WriteZeroes { .. } | Operation::Trim { .. } => range.fill(0),
        Operation::Flush | Operation::Cache => {}
    }
    Ok(())
}

/// A place in memory; the export is no larger than memory is.
fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("an export that fits memory")
}
