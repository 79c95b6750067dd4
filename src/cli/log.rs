//! Owns where the daemon's log goes: stderr, filtered by `TWINBLK_LOG`.
//! Must never colour what is not read on a terminal, nor let whoever reads it stop the daemon: a
//! thread of its own writes, and lines that it cannot write in time, or at all, are lost.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::exit::{Exit, Failure};
use super::terminal::Terminal;

const VARIABLE: &str = "TWINBLK_LOG";

/// Lines that wait for a reader that is behind: some megabytes at most.
const LINES_MAX: usize = 16_384;

/// How long the end of the process waits for what is still to be written.
const LAST_LINES_TIME: Duration = Duration::from_secs(1);

/// Starts logging; what waits is written when this is dropped, if it can be.
pub(super) fn start(terminal: Terminal) -> Result<Log, Failure> {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var(VARIABLE)
        .from_env()
        .map_err(|error| {
            let text = format!(
                "{VARIABLE} is no filter: {error}. Write a level such as `info` or `debug`, or \
                 `twinblk::link=debug,info`"
            );
            Failure::new(Exit::Usage, text)
        })?;
    let failed = |why: String| Failure::new(Exit::Failed, format!("cannot start the log: {why}"));
    let log = Log::begin().map_err(|error| failed(error.to_string()))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(log.lines.clone())
        // It would be told on stderr, which is what failed, and in a way that ends the process.
        .log_internal_errors(false)
        .with_ansi(terminal.error_colour)
        .try_init()
        .map_err(|error| failed(error.to_string()))?;
    Ok(log)
}

/// The log of this process while it runs.
pub(super) struct Log {
    lines: Lines,
    ended: Receiver<()>,
}

/// The way of lines to the thread that writes them.
#[derive(Clone)]
struct Lines {
    /// None once the log has ended.
    queue: Arc<Mutex<Option<SyncSender<Vec<u8>>>>>,
    lost: Arc<AtomicU64>,
}

impl Log {
    fn begin() -> io::Result<Self> {
        let (queue, waiting) = sync_channel(LINES_MAX);
        let (end, ended) = channel();
        let lost = Arc::new(AtomicU64::new(0));
        let lines = Lines { queue: Arc::new(Mutex::new(Some(queue))), lost: Arc::clone(&lost) };
        let run = move || write_lines(&waiting, &lost, &end);
        std::thread::Builder::new().name("log".to_owned()).spawn(run)?;
        Ok(Self { lines, ended })
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.lines.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        let _ = self.ended.recv_timeout(LAST_LINES_TIME);
    }
}

/// Writes until the log ends. That a line cannot be written is told to nobody: there is no other
/// place to tell it.
fn write_lines(waiting: &Receiver<Vec<u8>>, lost: &AtomicU64, _end: &Sender<()>) {
    let mut out = io::stderr();
    while let Ok(line) = waiting.recv() {
        let _ = out.write_all(&line);
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(out, "{lost} lines of the log were lost: they were not read in time");
        }
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { lines: self, bytes: Vec::new() }
    }
}

/// One line, which goes on its way as a whole.
struct Line<'a> {
    lines: &'a Lines,
    bytes: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let queue = self.lines.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = queue.as_ref().is_some_and(|queue| {
            let line = std::mem::take(&mut self.bytes);
            line.is_empty() || queue.try_send(line).is_ok()
        });
        if !sent {
            self.lines.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
