//! NTFS volumes in files, what only NTFS has, and what wimlib sees of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use remint::imaging::wim::reader::{OnDamage, Wim};
use remint::stdx::xattr;

/// An NTFS volume in a file, mounted by ntfs-3g while this lives.
pub(crate) struct Volume {
    pub(crate) folder: PathBuf,
}

impl Volume {
    /// Makes the file system in `image`.
    pub(crate) fn make(image: &Path) -> Result<(), String> {
        fs::File::create(image).and_then(|file| file.set_len(64 << 20)).map_err(|error| error.to_string())?;
        run("mkntfs", &["-F", "-Q", "-q", text(image)])
    }

    pub(crate) fn mount(image: &Path, folder: &Path) -> Result<Volume, String> {
        fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        run("ntfs-3g", &["-o", "streams_interface=windows,compression", text(image), text(folder)])?;
        Ok(Volume { folder: folder.to_owned() })
    }

    pub(crate) fn unmount(self) {
        let folder = self.folder.clone();
        drop(self);
        assert!(fs::read_dir(folder).unwrap().next().is_none(), "the volume is still mounted");
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = run("umount", &[text(&self.folder)]);
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).env("PATH", path()).output();
    let output = output.map_err(|error| format!("{program} does not run: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

fn set(path: &Path, name: &std::ffi::CStr, value: &[u8]) {
    xattr::set_at(path, name, value).unwrap_or_else(|error| panic!("{name:?} of {}: {error}", path.display()));
}

/// A self-relative security descriptor ([MS-DTYP] 2.4.6) whose owner and group are S-1-5-21-1-2-3-`id`, with one entry that
/// grants everything to everyone.
fn descriptor(id: u32) -> Vec<u8> {
    let sid = [&[1u8, 5, 0, 0, 0, 0, 0, 5][..], &[21u32, 1, 2, 3, id].map(u32::to_le_bytes).concat()].concat();
    let everyone = [1u8, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    let entry = [&[0u8, 3, 20, 0][..], &0x001f_01ffu32.to_le_bytes(), &everyone].concat();
    let list = [&[2u8, 0, 28, 0, 1, 0, 0, 0][..], &entry].concat();
    let (owner, group) = (20 + list.len() as u32, 20 + (list.len() + sid.len()) as u32);
    let offsets = [owner, group, 0, 20].map(u32::to_le_bytes).concat();
    [&[1u8, 0, 0x04, 0x80][..], &offsets, &list, &sid, &sid].concat()
}

/// Reparse data of a junction to `\??\C:\folder`, with its header.
fn junction(target: &str) -> Vec<u8> {
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let (substitute, print) = (utf16(&format!("\\??\\{target}")), utf16(target));
    let lengths = [0, substitute.len(), substitute.len() + 2, print.len()];
    let mut data: Vec<u8> = lengths.iter().flat_map(|length| (*length as u16).to_le_bytes()).collect();
    data.extend([substitute, vec![0, 0], print, vec![0, 0]].concat());
    [&0xa000_0003u32.to_le_bytes()[..], &(data.len() as u16).to_le_bytes(), &[0, 0], &data].concat()
}

/// Everything that NTFS has and Linux has not.
pub(crate) fn fill(root: &Path) {
    let attributes = |path: &Path, bits: u32| set(path, c"system.ntfs_attrib_be", &bits.to_be_bytes());
    fs::create_dir_all(root.join("Program Files/App")).unwrap();
    fs::create_dir(root.join("compressed")).unwrap();
    for number in 0..20u32 {
        let path = root.join(format!("Program Files/App/Library number {number}.dll"));
        fs::write(&path, format!("content {number} ").repeat(1 + 300 * number as usize)).unwrap();
        set(&path, c"system.ntfs_acl", &descriptor(1000 + number % 3));
        set(&path, c"system.ntfs_dos_name", format!("LIBRAR~{number}.DLL").as_bytes());
    }
    set(&root.join("Program Files"), c"system.ntfs_dos_name", b"PROGRA~1");
    set(&root.join("Program Files"), c"system.ntfs_acl", &descriptor(500));
    // Streams: short, of 200 KB, empty, and of a folder.
    let streams = root.join("streams.txt");
    fs::write(&streams, "the unnamed one").unwrap();
    fs::write(root.join("streams.txt:Zone.Identifier"), "[ZoneTransfer]\r\nZoneId=3\r\n").unwrap();
    fs::write(root.join("streams.txt:large"), "0123456789abcdef".repeat(12_500)).unwrap();
    fs::write(root.join("streams.txt:empty"), "").unwrap();
    fs::write(root.join("Program Files:of the folder"), "x").unwrap();
    // Hidden, system, read-only.
    for (name, bits) in [("hidden.sys", 0x26), ("readonly.txt", 0x21)] {
        fs::write(root.join(name), name.repeat(40)).unwrap();
        attributes(&root.join(name), bits);
    }
    let sparse = fs::File::create(root.join("sparse.bin")).unwrap();
    sparse.write_all_at(b"at the end", 3_000_000).unwrap();
    drop(sparse);
    attributes(&root.join("compressed"), 0x810);
    fs::write(root.join("compressed/text.log"), "a line of a log\r\n".repeat(20_000)).unwrap();
    fs::write(root.join("compressed/short.log"), "short").unwrap();
    fs::hard_link(root.join("readonly.txt"), root.join("also readonly.txt")).unwrap();
    fs::create_dir(root.join("junction")).unwrap();
    set(&root.join("junction"), c"system.ntfs_reparse_data", &junction("C:\\Program Files"));
    set(&streams, c"system.ntfs_object_id", b"0123456789abcdef");
    let times = [0x01d0_1234_5678_9abcu64, 0x01d1_0000_0000_0001, 0x01d2_0000_0000_0002, 0x01d3_0000_0000_0003];
    set(&streams, c"system.ntfs_times_be", &times.map(u64::to_be_bytes).concat());
}

/// What wimlib sees of an image, by path: everything but the numbers that it gives inodes and descriptors.
pub(crate) fn seen(wim: &Path) -> BTreeMap<String, String> {
    let wim = Wim::open(wim, OnDamage::Stop).unwrap();
    let (tree, _) = wim.tree(1, OnDamage::Stop).unwrap();
    let facts = |place: usize| {
        let entry = &tree.entries[place];
        let mut streams: Vec<_> =
            entry.named_streams.iter().map(|stream| (String::from_utf16_lossy(&stream.name), stream.content)).collect();
        streams.sort();
        let descriptor = entry.descriptor.map(|place| remint::stdx::hex::emit(&tree.descriptors[place]));
        let facts = format!(
            "{:x} short {:?} times {:x} {:x} {:x} content {} {:?} streams {streams:?} id {:?} ea {:?} linked {} {descriptor:?}",
            entry.attributes,
            String::from_utf16_lossy(&entry.short_name),
            entry.created,
            entry.written,
            entry.accessed,
            entry.content,
            entry.reparse,
            entry.object_id,
            entry.xattrs,
            entry.link_group != 0,
        );
        (tree.path_text(place), facts)
    };
    (0..tree.entries.len()).map(facts).collect()
}

/// Has wimlib capture the volume in `image`.
pub(crate) fn capture(image: &Path, wim: &Path) {
    run("wimlib-imagex", &["capture", text(image), text(wim), "x"]).unwrap();
}

/// Paths of which the two differ, each with what it is on either side.
pub(crate) fn differences(expected: &BTreeMap<String, String>, found: &BTreeMap<String, String>) -> Vec<String> {
    let paths: std::collections::BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    let differ = paths.into_iter().filter(|path| expected.get(*path) != found.get(*path));
    differ.map(|path| format!("{path}: {:?} became {:?}", expected.get(path), found.get(path))).collect()
}
