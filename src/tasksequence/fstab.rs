//! /etc/fstab of a system whose file systems `format` made.

use super::layout::{Mount, Target};

/// The lines of `before` about other places stay; those of the target come first, each by UUID.
pub fn with(before: &str, target: &Target) -> String {
    let mut text = String::from("# by UUID; written by Remint, lines about other places are kept\n");
    target.in_order().into_iter().chain(target.mounts.iter().filter(|mount| mount.at.is_empty())).for_each(|mount| {
        text.push_str(&line(mount));
    });
    for kept in before.lines().filter(|line| is_foreign(line, target)) {
        text.push_str(kept);
        text.push('\n');
    }
    text
}

/// fstab(5): what, where, type, options, dump, pass.
fn line(mount: &Mount) -> String {
    let (at, usual, pass) = match (mount.kind.as_str(), mount.at.as_str()) {
        ("swap", _) => ("none", "sw", 0),
        ("fat", at) => (at, "umask=0077", 2),
        ("ext4", "/") => ("/", "errors=remount-ro", 1),
        ("ext4", at) => (at, "defaults", 2),
        (_, at) => (at, "defaults", 0),
    };
    let options = if mount.options.is_empty() { usual.to_owned() } else { mount.options.join(",") };
    format!("UUID={} {at} {} {options} 0 {pass}\n", mount.uuid, linux_type(&mount.kind))
}

/// The name of the kernel's driver.
pub fn linux_type(kind: &str) -> &str {
    match kind {
        "fat" => "vfat",
        "ntfs" => "ntfs3",
        other => other,
    }
}

fn is_foreign(line: &str, target: &Target) -> bool {
    let mut words = line.split_whitespace();
    let (Some(what), Some(at)) = (words.next(), words.next()) else { return false };
    let ours = target.mounts.iter().any(|mount| mount.at == at || what.strip_prefix("UUID=") == Some(&mount.uuid));
    let old_swap = words.next() == Some("swap") && target.mounts.iter().any(|mount| mount.kind == "swap");
    !(what.starts_with('#') || ours || old_swap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasksequence::journal::DiskIdentity;

    #[test]
    fn the_table_names_what_was_formatted_by_uuid_and_keeps_other_lines() {
        let disk = DiskIdentity { path: "/dev/vda".into(), serial: None, bytes: 1 };
        let mount = |partition, kind: &str, uuid: &str, at: &str, options: &[&str]| Mount {
            disk: disk.clone(),
            partition,
            kind: kind.into(),
            uuid: uuid.into(),
            at: at.into(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        let mounts = vec![
            mount(2, "fat", "AAAA-BBBB", "/boot/efi", &[]),
            mount(4, "swap", "s", "", &[]),
            mount(3, "ext4", "r", "/", &["noatime"]),
            mount(5, "xfs", "h", "/home", &[]),
        ];
        let target = Target { disk: disk.clone(), mounts };
        let before = "# old\nUUID=x / ext4 defaults 0 1\n/dev/sdb1 /srv ext4 nofail 0 2\nUUID=q none swap sw 0 0\n";
        let once = with(before, &target);
        assert_eq!(
            once.lines().skip(1).collect::<Vec<_>>(),
            [
                "UUID=r / ext4 noatime 0 1",
                "UUID=h /home xfs defaults 0 0",
                "UUID=AAAA-BBBB /boot/efi vfat umask=0077 0 2",
                "UUID=s none swap sw 0 0",
                "/dev/sdb1 /srv ext4 nofail 0 2",
            ]
        );
        assert_eq!(with(&once, &target), once);
    }
}
