//! Owns talking to the daemon: HTTP on its admin socket, and what its refusals mean for the exit
//! code. Must never wait without a limit, but for a stream of events.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::exit::{Exit, Failure};
use crate::control::body::{DoneBody, ErrorBody, EventBody, Parameters, ResourceBody, StatusBody};

/// How long a question may take that a daemon answers from memory.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// What the daemon's own time limit may be exceeded by.
const GRACE_TIME: Duration = Duration::from_secs(5);

/// Largest answer: thousands of resources.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Longest line of events.
const LINE_BYTES_MAX: usize = 1 << 20;

/// The daemon of this node.
#[derive(Clone, Debug)]
pub(super) struct Daemon {
    socket: PathBuf,
    /// Why the socket is only a guess.
    doubt: Option<String>,
}

impl Daemon {
    pub(super) const fn new(socket: PathBuf, doubt: Option<String>) -> Self {
        Self { socket, doubt }
    }

    /// The state of one resource, or of all.
    pub(super) async fn status(&self, resource: Option<&str>) -> Result<StatusBody, Failure> {
        let path = match resource {
            Some(name) => format!("/v1/status/{name}"),
            None => "/v1/status".to_owned(),
        };
        self.ask(Method::GET, &path, Bytes::new(), ANSWER_TIME).await
    }

    /// The state of one resource.
    pub(super) async fn resource(&self, name: &str) -> Result<ResourceBody, Failure> {
        let mut status = self.status(Some(name)).await?;
        status.resources.pop().ok_or_else(|| self.odd("it sent no resource"))
    }

    /// Carries out a command on a resource, within `limit`.
    pub(super) async fn command(
        &self,
        resource: &str,
        command: &str,
        parameters: Parameters,
        limit: Duration,
    ) -> Result<DoneBody, Failure> {
        let timeout_ms = Some(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        let parameters = Parameters { timeout_ms, ..parameters };
        let body = serde_json::to_vec(&parameters)
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let path = format!("/v1/resource/{resource}/{command}");
        self.ask(Method::POST, &path, body.into(), limit.saturating_add(GRACE_TIME)).await
    }

    /// Follows the events.
    pub(super) async fn events(&self) -> Result<Events, Failure> {
        let sent = timeout(ANSWER_TIME, self.send(Method::GET, "/v1/events", Bytes::new())).await;
        let answer = sent.map_err(|_| self.silent(ANSWER_TIME))??;
        if answer.status() == StatusCode::OK {
            return Ok(Events {
                body: answer.into_body(),
                rest: BytesMut::new(),
                lines: VecDeque::new(),
            });
        }
        let body = self.body_of(answer).await?;
        Err(self.failure(&body))
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<T, Failure> {
        let work = async {
            let answer = self.send(method, path, body).await?;
            let status = answer.status();
            let body = self.body_of(answer).await?;
            if status != StatusCode::OK {
                return Err(self.failure(&body));
            }
            serde_json::from_slice(&body).map_err(|error| self.odd(&error.to_string()))
        };
        timeout(limit, work).await.map_err(|_| self.silent(limit))?
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(&e))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.odd(&error.to_string()))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "twinblk")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        sender.send_request(request).await.map_err(|error| self.odd(&error.to_string()))
    }

    async fn body_of(&self, answer: Response<Incoming>) -> Result<Bytes, Failure> {
        let collected = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok(collected.map_err(|error| self.odd(&error.to_string()))?.to_bytes())
    }

    /// What the daemon's refusal means.
    fn failure(&self, body: &[u8]) -> Failure {
        let Ok(ErrorBody { error, .. }) = serde_json::from_slice(body) else {
            return self.odd("its refusal cannot be read");
        };
        let exit = match error.kind.as_str() {
            "no_such_resource" => Exit::NoSuchResource,
            "refused" => Exit::Refused,
            "timed_out" => Exit::TimedOut,
            "stopping" => Exit::Unreachable,
            _ => Exit::Failed,
        };
        Failure { exit, reason: error.reason, text: error.message }
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        let socket = self.socket.display();
        let next = match error.kind() {
            io::ErrorKind::PermissionDenied => "Only root may talk to it: use sudo.",
            _ => "Is it running? Start it: `twinblk serve`.",
        };
        let doubt = self.doubt.as_ref().map_or_else(String::new, |why| {
            format!("\nThat is only the usual place, because of the configuration:\n{why}")
        });
        let text = format!("cannot reach the daemon at {socket}: {error}. {next}{doubt}");
        Failure::new(Exit::Unreachable, text)
    }

    fn silent(&self, limit: Duration) -> Failure {
        let (socket, seconds) = (self.socket.display(), limit.as_secs_f32());
        let text = format!(
            "the daemon at {socket} did not answer within {seconds} s. See its log (of a \
             systemd service: `journalctl -u NAME`)"
        );
        Failure::new(Exit::TimedOut, text)
    }

    /// Whoever answered did not speak as our daemon does, or stopped in mid-sentence.
    fn odd(&self, why: &str) -> Failure {
        let socket = self.socket.display();
        let text = format!(
            "the daemon at {socket} gave no proper answer: {why}. It may just have stopped, or be \
             of another version"
        );
        Failure::new(Exit::Unreachable, text)
    }
}

/// A stream of events.
#[derive(Debug)]
pub(super) struct Events {
    body: Incoming,
    rest: BytesMut,
    lines: VecDeque<EventBody>,
}

impl Events {
    /// The next event; none when the daemon has ended the stream.
    pub(super) async fn next(&mut self) -> Result<Option<EventBody>, Failure> {
        loop {
            if let Some(event) = self.lines.pop_front() {
                return Ok(Some(event));
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let broken = |why: String| {
                Failure::new(Exit::Unreachable, format!("the stream of events broke: {why}"))
            };
            let frame = frame.map_err(|error| broken(error.to_string()))?;
            self.rest.extend_from_slice(frame.data_ref().map_or(&[], |data| data.as_ref()));
            while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.split_to(end + 1);
                let event = serde_json::from_slice(&line).map_err(|e| broken(e.to_string()))?;
                self.lines.push_back(event);
            }
            if self.rest.len() > LINE_BYTES_MAX {
                return Err(broken("a line has no end".to_owned()));
            }
        }
    }
}
