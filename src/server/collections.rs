//! What is done for many machines at once: collections with a query follow the inventory, and who was seen is noted.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::fleet::db::Fleet;
use crate::stdx::hint::chain;

/// Inventory of many machines arrives at once; the queries are asked once for all that came meanwhile.
const EVERY: Duration = Duration::from_secs(2);

pub(super) async fn keep_current(fleet: Arc<Fleet>, mut stopped: watch::Receiver<bool>) {
    loop {
        let asking = fleet.clone();
        let refreshed = tokio::task::spawn_blocking(move || {
            asking.note_seen_lately()?;
            asking.refresh_collections()
        })
        .await;
        match refreshed {
            Ok(Ok(changed)) if !changed.is_empty() => tracing::info!("the members of {} changed", changed.join(", ")),
            Ok(Err(error)) => tracing::error!("collections do not follow the inventory: {}", chain(&error)),
            _ => {}
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
    }
}
