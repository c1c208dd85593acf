//! What anybody on the network is told: the boot files, unpacked, the kernel's command line with all else that a machine's
//! console shows, and the appliance's log. The site's keys are in none of it.

use remint::lab::console::Mark;
use remint::lab::run::Lab;

#[path = "../shared/secrets.rs"]
mod shared;

use shared::{holds, private_keys};

/// Of a machine that went the whole way.
pub(crate) fn assert_no_key_is_told(lab: &Lab) {
    let site = lab.appliance.site();
    let console = lab.machines[0].console().since(Mark::default());
    assert!(console.contains("Kernel command line: "), "the console does not show the kernel's command line");
    let mut told = vec![
        ("the console".to_owned(), console.into_bytes()),
        ("the appliance's log".to_owned(), lab.appliance.log().into_bytes()),
    ];
    for entry in std::fs::read_dir(site.join("boot/current")).unwrap() {
        let (name, path) = entry.map(|entry| (entry.file_name(), entry.path())).unwrap();
        if FROM_PACKAGES.iter().any(|start| name.to_str().unwrap().starts_with(start)) {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let plain = if bytes.starts_with(&ZSTD_MAGIC) { zstd::decode_all(&bytes[..]).unwrap() } else { bytes };
        told.push((path.display().to_string(), plain));
    }
    let initramfs = told.iter().find(|(name, _)| name.ends_with("initrd.img")).unwrap();
    assert!(holds(&initramfs.1, b"070701"), "the initramfs is not unpacked");
    for (name, key) in private_keys(site) {
        for (place, bytes) in &told {
            assert!(!holds(bytes, &key), "{place} tells {name}");
        }
    }
}

/// Boot files that lie in Debian's packages as they are.
const FROM_PACKAGES: [&str; 4] = ["vmlinuz", "shim", "grub", "memtest"];
/// RFC 8878 3.1.1
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
