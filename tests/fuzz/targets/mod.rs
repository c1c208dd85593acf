//! Every parser of bytes that come from outside, as a function of bytes. The fuzzer (`tests/fuzz`) calls one of them without
//! end; the test suite calls all of them on what lies in `tests/corpus/TARGET`.
//!
//! A target fails by panicking: the parser did, or what it said about the input contradicts itself.

pub(crate) mod containers;
mod devices;
mod disks;
mod documents;
mod inventory;
#[cfg(feature = "agent")]
mod machine;
mod menu;
mod network;
pub(crate) mod sectors;
mod store;
mod sums;
mod tree;
mod wim;

/// What the input of a target is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    Bytes,
    /// A sparse disk, see [`sectors`].
    Sectors,
}

#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) run: fn(&[u8]),
}

const fn bytes(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, shape: Shape::Bytes, run }
}

const fn sectors(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, shape: Shape::Sectors, run }
}

pub(crate) const TARGETS: &[Target] = &[
    sectors("tables", disks::tables),
    sectors("ext4", disks::ext4),
    sectors("xfs", disks::xfs),
    sectors("btrfs", disks::btrfs),
    sectors("ntfs", disks::ntfs),
    sectors("fat", disks::fat),
    sectors("qcow2", containers::qcow2),
    sectors("virtual-disks", containers::virtual_disks),
    bytes("partclone", containers::partclone),
    bytes("store", store::any),
    bytes("wim", wim::file),
    bytes("wim-parts", wim::parts),
    bytes("tree", tree::any),
    bytes("xpress", wim::xpress),
    bytes("lzx", wim::lzx),
    bytes("lzms", wim::lzms),
    bytes("dhcp", network::dhcp),
    bytes("tftp", network::tftp),
    bytes("menu", |input| one_of(&[menu::query, menu::entry], input)),
    bytes("link", network::link),
    bytes("devices", devices::devices),
    bytes("texts", documents::texts),
    bytes("inventory", inventory::any),
];

/// Several parsers behind one target: the first byte says which of them gets the rest.
fn one_of(parsers: &[fn(&[u8])], input: &[u8]) {
    if let Some((which, rest)) = input.split_first() {
        parsers[usize::from(*which) % parsers.len()](rest);
    }
}

pub(crate) fn find(name: &str) -> Option<Target> {
    TARGETS.iter().find(|target| target.name == name).copied()
}
