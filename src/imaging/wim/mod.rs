//! WIM and ESD files: read, checked, applied and written natively, on all cores and with bounded memory.
//!
//! A WIM holds contents named by their SHA-1 ([`format`], [`resource`], [`codec`]) and images, which are trees of names that
//! refer to contents ([`tree`], [`metadata`], [`xml`]). [`reader`] opens all parts of a set; [`extract`] is the one way to
//! contents, and gives out none whose SHA-1 it has not checked, or says so afterwards. [`apply`] writes an image into a
//! folder ([`files`], [`ntfs`], [`target`]), which it cannot leave, and counts what the folder's file system cannot hold;
//! [`capture`] reads one into a file and [`export`] takes one over from another ([`contents`], [`writer`]).
//!
//! Every number of a file is hostile: offsets and lengths are checked against the file, tables are never allocated larger
//! than the file could fill, folders are visited once. With [`reader::OnDamage::KeepGoing`] what is sound is still had.
//!
//! Sources: docs/formats/wim.md. The formats were learnt from documents and files; no code is anybody else's.

pub mod apply;
pub mod capture;
pub mod codec;
pub mod contents;
pub mod error;
pub mod export;
pub mod extract;
pub mod files;
pub mod format;
pub mod metadata;
pub mod ntfs;
pub mod reader;
pub mod reparse;
pub mod resource;
pub mod target;
pub mod tree;
pub mod verify;
pub mod writer;
pub mod xml;
