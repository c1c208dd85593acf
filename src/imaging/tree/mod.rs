//! Tree images: files that fit a disk of any geometry, in the same store as disks.
//!
//! The distinct contents of all files lie one behind the other, and behind them the document that says which files there are
//! ([`format`]). So a tree is, to everything that keeps, sends, checks and collects chunks, an image as any other; only
//! those who read and write files know better. Each content is cut on its own, and a chunk never holds bytes of two: equal
//! content is stored once, whatever WIM, edition or folder it comes from and whatever lies beside it there
//! (`docs/decisions/tree-chunks.md`).
//!
//! In: [`import`] (a WIM's image), [`capture`] (a folder). Out: [`apply`] (into a folder), [`export`] (a WIM).
//!
//! What a tree consists of and how files are made is `imaging::wim`'s knowledge: [`crate::imaging::wim::tree`],
//! [`crate::imaging::wim::files`]. Read next: [`format`].

pub mod apply;
pub mod builder;
pub mod capture;
pub mod diff;
pub mod export;
pub mod format;
pub mod import;
pub mod reader;
pub mod survey;

#[cfg(test)]
mod tests;
