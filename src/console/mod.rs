//! The kernel that owns HTML: layout, components, stylesheet, live updates.
//!
//! Pages are made on the server and whole without a script; the script only fetches a page again when the appliance says
//! that something on it changed, and says so when the connection is lost. Everything is in the binary: no address of
//! another host stands in any page, and the content policy forbids one. Subjects make their pages in their `console.rs`
//! from the pieces in [`page`] and [`part`].

pub mod assets;
pub mod door;
pub mod page;
pub mod part;
