//! What happens, as it happens, for whoever listens (consoles, `deploy watch`).

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::{BroadcastStream, ReceiverStream};
use tokio_stream::{Stream, StreamExt};

use super::{Access, Routes, Shape, Table};
use crate::access::Capability;

/// Events kept for a listener that is slow; one that falls further behind is told so and reads the state anew.
const EVENTS_KEPT: usize = 4096;
/// A batch never holds more; what does not fit makes it say that something was missed.
const BATCH_EVENTS_MAX: usize = 20_000;
const BATCH_LINES_MAX: usize = 2000;
/// Between two batches, in milliseconds.
const EVERY_MIN: u64 = 100;
const EVERY_MAX: u64 = 60_000;

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
    Routes::new()
        .get(
            "/api/v1/events",
            read,
            "What happens, as server-sent events: each alone, or every so often together",
            events,
        )
        .asks(&[
            ("kinds", "machine, run, progress, log; all without it"),
            ("subject", "identifiers, with commas"),
            ("every", "milliseconds between batches"),
        ])
        .gives(Shape::Events)
        .with_state(live)
}

/// What a listener wants to hear.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Wanted {
    /// `machine,run`; all without it.
    kinds: Option<String>,
    /// Events of these identifiers, separated by commas, and of what belongs to such a machine.
    subject: Option<String>,
    /// Milliseconds between batches; without it each event is sent at once.
    every: Option<u64>,
}

impl Wanted {
    fn wants(&self, event: &Event) -> bool {
        let among = |list: &Option<String>, name: &str| match list {
            Some(list) => list.split(',').any(|known| known == name),
            None => true,
        };
        let machine = event.data.get("machine").and_then(Value::as_str).unwrap_or_default();
        among(&self.kinds, event.kind) && (among(&self.subject, &event.subject) || among(&self.subject, machine))
    }
}

type Frames = Pin<Box<dyn Stream<Item = Result<Frame, Infallible>> + Send>>;

/// One JSON document an event; with `every` an array of what happened since the last one: the latest progress of each run,
/// every line of a log, and of all else that it changed. A listener that fell behind gets `{"kind":"missed"}` and should
/// read the state anew.
async fn events(State(live): State<Live>, Query(wanted): Query<Wanted>) -> Response {
    let heard = live.subscribe();
    let frames: Frames = match wanted.every {
        None => Box::pin(each(heard, wanted)),
        Some(every) => {
            let every = Duration::from_millis(every.clamp(EVERY_MIN, EVERY_MAX));
            Box::pin(batches(heard, wanted, every).map(|text| Ok(Frame::default().data(text))))
        }
    };
    Sse::new(frames).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

fn each(heard: broadcast::Receiver<Arc<Event>>, wanted: Wanted) -> impl Stream<Item = Result<Frame, Infallible>> {
    BroadcastStream::new(heard).filter_map(move |event| {
        let data = match event {
            Ok(event) if !wanted.wants(&event) => return None,
            Ok(event) => serde_json::to_string(&*event).unwrap_or_default(),
            Err(_) => r#"{"kind":"missed"}"#.to_owned(),
        };
        Some(Ok(Frame::default().data(data)))
    })
}

/// A listener that does not keep up finds more in its next batch, not more batches.
fn batches(mut heard: broadcast::Receiver<Arc<Event>>, wanted: Wanted, every: Duration) -> ReceiverStream<String> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Batch::default();
        loop {
            tokio::select! {
                event = heard.recv() => match event {
                    Ok(event) if wanted.wants(&event) => batch.add(event),
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => batch.missed = true,
                    Err(RecvError::Closed) => return,
                },
                _ = ticks.tick() => match sender.try_reserve() {
                    Ok(place) if !batch.is_empty() => place.send(std::mem::take(&mut batch).text()),
                    Err(mpsc::error::TrySendError::Closed(())) => return,
                    _ => {}
                },
            }
        }
    });
    ReceiverStream::new(receiver)
}

/// What happened since the last batch.
#[derive(Default)]
struct Batch {
    latest: HashMap<(&'static str, String), Arc<Event>>,
    lines: Vec<Arc<Event>>,
    missed: bool,
}

impl Batch {
    fn add(&mut self, event: Arc<Event>) {
        match event.kind {
            "log" if self.lines.len() < BATCH_LINES_MAX => self.lines.push(event),
            "log" => self.missed = true,
            kind => {
                self.latest.insert((kind, event.subject.clone()), event);
                if self.latest.len() > BATCH_EVENTS_MAX {
                    self.latest.clear();
                    self.missed = true;
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.latest.is_empty() && self.lines.is_empty() && !self.missed
    }

    fn text(self) -> String {
        let told = |event: Arc<Event>| match event.kind {
            "progress" | "log" => json!(&*event),
            kind => json!({ "kind": kind, "subject": event.subject }),
        };
        let mut all: Vec<Value> = self.latest.into_values().chain(self.lines).map(told).collect();
        if self.missed {
            all.push(json!({ "kind": "missed" }));
        }
        Value::Array(all).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &'static str, subject: &str, data: Value) -> Arc<Event> {
        Arc::new(Event { kind, subject: subject.to_owned(), data })
    }

    #[test]
    fn a_batch_keeps_the_latest_progress_of_each_run_and_every_line() {
        let mut batch = Batch::default();
        assert!(batch.is_empty());
        for done in 0..1000 {
            batch.add(event("progress", "run-1", json!({ "done": done })));
            batch.add(event("run", "run-1", json!({ "error": "long" })));
        }
        batch.add(event("log", "run-1", json!({ "text": "a" })));
        batch.add(event("log", "run-1", json!({ "text": "b" })));
        let sent: Vec<Value> = serde_json::from_str(&batch.text()).unwrap();
        assert_eq!(sent.len(), 4);
        let progress = sent.iter().find(|event| event["kind"] == "progress").unwrap();
        assert_eq!(progress["data"]["done"], 999);
        let lines: Vec<&Value> = sent.iter().filter(|event| event["kind"] == "log").collect();
        assert_eq!((&lines[0]["data"]["text"], &lines[1]["data"]["text"]), (&json!("a"), &json!("b")));
        assert!(sent.iter().any(|event| *event == json!({ "kind": "run", "subject": "run-1" })));
    }

    #[test]
    fn a_flood_of_lines_is_cut_and_said_to_be() {
        let mut batch = Batch::default();
        for _ in 0..=BATCH_LINES_MAX {
            batch.add(event("log", "run-1", json!({})));
        }
        let sent: Vec<Value> = serde_json::from_str(&batch.text()).unwrap();
        assert_eq!(sent.len(), BATCH_LINES_MAX + 1);
        assert_eq!(sent.last(), Some(&json!({ "kind": "missed" })));
    }

    #[test]
    fn a_listener_hears_what_it_asked_for() {
        let wanted = |kinds: Option<&str>, subject: Option<&str>| Wanted {
            kinds: kinds.map(str::to_owned),
            subject: subject.map(str::to_owned),
            every: None,
        };
        let run = event("run", "run-1", json!({ "machine": "machine-1" }));
        for (wanted, hears) in [
            (wanted(None, None), true),
            (wanted(Some("machine,run"), None), true),
            (wanted(Some("machine"), None), false),
            (wanted(None, Some("run-1")), true),
            (wanted(None, Some("machine-1")), true),
            (wanted(None, Some("machine-2")), false),
        ] {
            assert_eq!(wanted.wants(&run), hears, "{wanted:?}");
        }
    }
}
