//! Route: the schema of documents, for editors.

use axum::Json;
use serde_json::Value;

use crate::access::Capability;
use crate::api::{Access, Routes, Table};
use crate::tasksequence::schema::schema;

pub fn routes() -> Table {
    let read = Access::Person(Capability::Read);
    Routes::new()
        .get("/api/v1/schemas/sequence", read, "JSON Schema of task sequences, for editors", sequence)
        .with_state(())
}

async fn sequence() -> Json<Value> {
    Json(schema())
}
