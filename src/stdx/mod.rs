//! What the standard library should have had, and nothing that knows what Remint is.
//!
//! A product noun in here (machine, image, step) is a bug: it belongs to its subject. `unsafe` is denied everywhere but
//! in this folder, where each block says why it is sound.

pub mod arp;
pub mod ata;
pub mod backoff;
pub mod blockdev;
pub mod buffer;
pub mod bytes;
pub mod cache;
pub mod crc32;
pub mod datagram;
pub mod digest;
pub mod file;
pub mod frame;
pub mod hex;
pub mod hint;
pub mod id;
pub mod interface;
pub mod io;
pub mod kexec;
pub mod mac;
pub mod monitor;
pub mod nvme;
pub mod owner;
pub mod process;
pub mod sparse;
pub mod time;
pub mod tty;
pub mod xattr;
pub mod xml;
