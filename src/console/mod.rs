//! The kernel that owns HTML: layout, components, charts, stylesheet, live updates.
//!
//! Pages are made on the server and whole without a script. The scripts only add: progress that moves (the event stream is
//! sent in batches, so that 500 machines that report at once are a few messages a second), parts of a page that changed
//! (the page is fetched again and only what differs is touched: focus, selection and what was typed stay), help in the
//! editor, dragging. They say so when the connection is lost.
//!
//! Everything is in the binary: no address of another host stands in any page, and the content policy forbids one, as it
//! forbids scripts and styles within a page. Every change is a form that posts to a route of its own with the capability
//! in the table; pages show only what the caller may do. Subjects make their pages in their `console.rs` from the pieces
//! in [`page`], [`part`] and [`chart`].

pub mod assets;
pub mod audit;
pub mod chart;
pub mod door;
pub mod fault;
pub mod form;
pub mod page;
pub mod part;
pub mod settings;
