//! Sound inputs of a target, made by the tools that define its format. What a missing tool would have made is left out, and
//! that is said.

mod containers;
mod disks;
mod machines;
mod packets;
mod stores;
mod texts;
mod tools;
mod trees;
mod wims;

use std::path::Path;

use crate::targets::Target;

/// Writes the seeds of `target` into `folder`; each has been through the target.
pub fn make(target: &Target, folder: &Path) {
    let seeds = seeds(target.name);
    std::fs::create_dir_all(folder).expect("the folder of seeds is made");
    for (seed, bytes) in &seeds {
        (target.run)(bytes);
        std::fs::write(folder.join(seed), bytes).expect("a seed is written");
    }
    println!(
        "{}: {} seeds, {} bytes",
        target.name,
        seeds.len(),
        seeds.iter().map(|(_, bytes)| bytes.len()).sum::<usize>()
    );
}

type Seeds = Vec<(String, Vec<u8>)>;

fn seeds(target: &str) -> Seeds {
    match target {
        "tables" | "ext4" | "xfs" | "btrfs" | "ntfs" | "fat" => disks::seeds(target),
        "qcow2" | "virtual-disks" | "partclone" => containers::seeds(target),
        "wim" | "wim-parts" | "xpress" | "lzx" | "lzms" => wims::seeds(target),
        "store" => stores::seeds(),
        "tree" => trees::seeds(),
        "dhcp" | "tftp" | "devices" => packets::seeds(target),
        "link" | "texts" | "menu" => texts::seeds(target),
        "inventory" => machines::seeds(),
        other => unreachable!("{other} has no seeds"),
    }
}

/// Seeds of the parser that a target's first byte names.
fn behind(which: u8, seeds: Seeds) -> Seeds {
    seeds.into_iter().map(|(name, bytes)| (name, [&[which], &bytes[..]].concat())).collect()
}
