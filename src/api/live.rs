//! What happens, as it happens, for whoever listens (consoles, `deploy watch`).

use std::sync::Arc;

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::{Stream, StreamExt};

use super::{Access, Routes, Table};
use crate::access::Capability;

/// Events kept for a listener that is slow; one that falls further behind is told so and reads the state anew.
const EVENTS_KEPT: usize = 4096;

/// Something changed. `kind` is `machine`, `run`, `progress`, `log` ..., `subject` is the identifier of what changed.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    pub kind: &'static str,
    pub subject: String,
    pub data: Value,
}

/// The channel of a site. Cloning shares it.
#[derive(Clone)]
pub struct Live(broadcast::Sender<Arc<Event>>);

impl Default for Live {
    fn default() -> Live {
        Live(broadcast::Sender::new(EVENTS_KEPT))
    }
}

impl Live {
    pub fn publish(&self, kind: &'static str, subject: &str, data: Value) {
        // Nobody listening is not an error.
        let _ = self.0.send(Arc::new(Event { kind, subject: subject.to_owned(), data }));
    }

    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.0.subscribe()
    }
}

/// Sent when nothing happens, so that both ends notice a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub fn routes(live: Live) -> Table {
    let read = Access::Person(Capability::Read);
    Routes::new().get("/api/v1/events", read, "What happens, as server-sent events", events).with_state(live)
}

/// One JSON document an event. A listener that fell behind gets `{"kind":"missed"}` and should read the state anew.
async fn events(State(live): State<Live>) -> Sse<impl Stream<Item = Result<Frame, Infallible>>> {
    let frames = BroadcastStream::new(live.subscribe()).map(|event| {
        let data = match event {
            Ok(event) => serde_json::to_string(&*event).unwrap_or_default(),
            Err(_) => r#"{"kind":"missed"}"#.to_owned(),
        };
        Ok(Frame::default().data(data))
    });
    Sse::new(frames).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}
