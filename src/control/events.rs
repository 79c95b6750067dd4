//! Owns the stream of events: all that exists, a marker, then each change, one JSON object a line.
//! Must never let a slow reader take memory: it is cut, and told so.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc, watch};

use super::body::{Event, EventBody};
use super::gateway::{ControlError, Gateway};
use super::server::stopped;

/// Lines written ahead of what the reader has taken.
const LINES_AHEAD: usize = 16;

/// The lines of one stream, as the body of an answer.
#[derive(Debug)]
pub(super) struct Lines(mpsc::Receiver<Bytes>);

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

/// Starts a stream; it ends when its reader goes, falls behind, or the daemon stops. `permit`
/// counts it among the streams that may run at once.
pub(super) fn stream(
    gateway: Arc<Gateway>,
    mut stop: watch::Receiver<bool>,
    permit: OwnedSemaphorePermit,
) -> Lines {
    let (lines, receiver) = mpsc::channel(LINES_AHEAD);
    // Subscribed before the first status is asked for, so that no change falls between.
    let changes = gateway.subscribe();
    tokio::spawn(async move {
        let _permit = permit;
        let writer = Writer { lines: lines.clone() };
        tokio::select! {
            // The reader or the daemon goes: nothing is left to say.
            () = lines.closed() => {}
            () = stopped(&mut stop) => {}
            _ = writer.run(&gateway, changes) => {}
        }
    });
    Lines(receiver)
}

/// The reader has gone.
struct Gone;

struct Writer {
    lines: mpsc::Sender<Bytes>,
}

impl Writer {
    async fn run(
        &self,
        gateway: &Gateway,
        mut changes: broadcast::Receiver<Arc<EventBody>>,
    ) -> Result<(), Gone> {
        match gateway.status_of_all().await {
            Ok(resources) => {
                for status in resources {
                    let (resource, status) = (status.name.clone(), Some(Box::new(status)));
                    self.put(&EventBody::now(Event::Exists { resource, status })).await?;
                }
            }
            Err(error) => return self.cut(&error).await,
        }
        let marker = Event::Exists { resource: "-".to_owned(), status: None };
        self.put(&EventBody::now(marker)).await?;
        loop {
            match changes.recv().await {
                Ok(change) => self.put(&change).await?,
                Err(RecvError::Lagged(missed)) => {
                    let cause =
                        format!("the reader was too slow and missed {missed} changes: read afresh");
                    return self.put(&EventBody::now(Event::Cut { cause })).await;
                }
                Err(RecvError::Closed) => return self.cut(&ControlError::Stopping).await,
            }
        }
    }

    async fn cut(&self, why: &ControlError) -> Result<(), Gone> {
        self.put(&EventBody::now(Event::Cut { cause: why.to_string() })).await
    }

    async fn put(&self, event: &EventBody) -> Result<(), Gone> {
        let mut line = serde_json::to_vec(event).map_err(|_| Gone)?;
        line.push(b'\n');
        self.lines.send(line.into()).await.map_err(|_| Gone)
    }
}
