//! Images: what lies on a disk or in a tree, kept as chunks in packs, and put back so that every byte is proven.
//!
//! - A chunk is named by the BLAKE3 of its plain content ([`chunk`]). Only [`chunk::Verified`] bytes reach a writer, and
//!   only hashing makes them.
//! - Apply makes the target match ([`plan`], [`apply`]): a first deploy, an update, a repair and a resume after a power cut
//!   are one operation.
//! - A version is whole or absent at any instant, a power cut included ([`store`]).
//! - Sources are opened read-only; no backing file or other outside reference of an image is ever followed.
//!
//! Absent from here: machines, runs, and any opinion about who may read what.
//!
//! Read next: [`chunk`], [`manifest`], [`plan`].

#[cfg(feature = "server")]
pub mod api;
pub mod apply;
pub mod capture;
pub mod chunk;
pub mod chunker;
#[cfg(feature = "server")]
pub mod console;
mod cutter;
pub mod diff;
pub mod disk;
pub mod error;
pub mod file_diff;
pub mod fs;
pub mod import;
pub mod intake;
pub mod link;
pub mod manifest;
pub mod moves;
pub mod plan;
pub mod ranges;
pub mod store;
pub mod survey;
pub mod target;
pub mod tree;
pub mod view;
pub mod wim;

#[cfg(test)]
mod tests;
