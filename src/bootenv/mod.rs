//! Builds the boot environment: the kernel and initramfs that machines start from the network, and the programs that
//! firmware loads before it.
//!
//! Ingredients are Debian packages: a kernel package (named and downloaded through apt, or given as a file), `ipxe`,
//! `grub-efi-amd64-bin`, for Secure Boot `shim-signed` and `grub-efi-amd64-signed`, for real machines the `firmware-*`
//! packages, and the same again for arm64 and UEFI of 32 bits where they are wanted. Nothing of them is kept in the source
//! tree. `plan` says all that will be done, `build` does it: packages are fetched and unpacked (`debian`), boot programs
//! are taken out (`programs`), modules are chosen by the lists in boot/modules (`modules`) with the firmware files that
//! they load (`firmware`), the programs that steps run are taken with their libraries (`tools`, `elf`), and the initramfs
//! is written with `remint-agent` as its `/init` (`cpio`). What comes out lies in `SITE/boot/BUILD/` with a
//! manifest of sizes and SHA-256s (`manifest`), and `SITE/boot/current` is switched to it in one step.
//!
//! Invariants: the same packages and the same agent give the same bytes, so the build's name is made of them; a build is
//! whole or absent; what is served is never edited. Absent: no secret and no address of any site is in what is built, it
//! is the same for everybody; no root is needed; nothing is installed on the machine that builds.
//!
//! Read next: boot/modules/virtual.list, then `build`.

pub mod build;
pub mod cpio;
pub mod debian;
pub mod elf;
pub mod error;
mod firmware;
pub mod manifest;
pub mod modules;
pub mod plan;
mod programs;
pub mod tools;
