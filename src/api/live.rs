//! What happens, as it happens, for whoever listens (consoles, `deploy watch`).

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use tokio::sync::broadcast;

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
