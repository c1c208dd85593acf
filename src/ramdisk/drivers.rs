//! Drivers by the hardware's own description: each device's `modalias` against the kernel package's `modules.alias`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The modules under one `/lib/modules/VERSION`, by name and by alias.
#[derive(Debug, Default)]
pub struct Catalog {
    /// (pattern, module), grouped by the bus that stands before the first `:` of the pattern.
    aliases: HashMap<String, Vec<(String, String)>>,
    /// Name -> file and the files it needs, relative to the folder, nearest first (modules.dep(5)).
    modules: BTreeMap<String, Module>,
    /// Name -> modules to load before it (modprobe.d(5), `softdep ... pre:`).
    wanted_before: HashMap<String, Vec<String>>,
}

#[derive(Debug)]
struct Module {
    file: String,
    needs: Vec<String>,
}

/// What one pass over the devices did.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Names of the modules that were loaded now.
    pub modules: Vec<String>,
    /// Modules that the kernel refused, with its reason.
    pub refused: Vec<(String, io::Error)>,
}

impl Catalog {
    /// Reads `modules.alias`, `modules.dep` and `modules.softdep` of `folder`; a missing file is an empty one, as in a
    /// kernel that has everything built in.
    pub fn open(folder: &Path) -> Catalog {
        let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
        Catalog::parse(&text("modules.alias"), &text("modules.dep"), &text("modules.softdep"))
    }

    pub fn parse(alias: &str, dep: &str, softdep: &str) -> Catalog {
        let mut catalog = Catalog::default();
        for line in alias.lines() {
            if let Some((pattern, module)) = line.strip_prefix("alias ").and_then(|rest| rest.rsplit_once(' ')) {
                let entry = (pattern.to_owned(), canonical(module));
                catalog.aliases.entry(bus_of(pattern)).or_default().push(entry);
            }
        }
        for line in dep.lines() {
            let Some((file, needs)) = line.split_once(':') else { continue };
            let needs = needs.split_ascii_whitespace().map(str::to_owned).collect();
            catalog.modules.insert(name_of(file), Module { file: file.to_owned(), needs });
        }
        for line in softdep.lines() {
            let mut words = line.strip_prefix("softdep ").unwrap_or_default().split_ascii_whitespace();
            let Some(name) = words.next() else { continue };
            let before = words.skip_while(|word| *word != "pre:").skip(1).take_while(|word| *word != "post:");
            catalog.wanted_before.entry(canonical(name)).or_default().extend(before.map(canonical));
        }
        catalog
    }

    /// The modules whose alias matches `modalias`; a module's own name counts as an alias.
    pub fn matching(&self, modalias: &str) -> BTreeSet<String> {
        let own = canonical(modalias);
        let of_bus = self.aliases.get(&bus_of(modalias)).into_iter().flatten();
        let any_bus = self.aliases.get("").into_iter().flatten();
        let mut found: BTreeSet<String> = of_bus
            .chain(any_bus)
            .filter(|(pattern, _)| matches(pattern.as_bytes(), modalias.as_bytes()))
            .map(|(_, module)| module.clone())
            .collect();
        if self.modules.contains_key(&own) {
            found.insert(own);
        }
        found
    }

    /// The files to load for `name`, what it needs first. Empty when the module is built in or not on board.
    pub fn load_order(&self, name: &str) -> Vec<String> {
        let mut order = Vec::new();
        for before in self.wanted_before.get(name).into_iter().flatten() {
            order.extend(self.files_of(before));
        }
        order.extend(self.files_of(name));
        let mut seen = BTreeSet::new();
        order.retain(|file| seen.insert(file.clone()));
        order
    }

    fn files_of(&self, name: &str) -> Vec<String> {
        let Some(module) = self.modules.get(name) else { return Vec::new() };
        module.needs.iter().rev().chain([&module.file]).cloned().collect()
    }
}

/// The bus that `pci:v00001AF4...` names: what stands before the first colon, when it holds no wildcard.
fn bus_of(alias: &str) -> String {
    alias.split_once(':').map(|(bus, _)| bus).filter(|bus| !bus.contains(['*', '?', '['])).unwrap_or("").to_owned()
}

/// `kernel/drivers/net/virtio_net.ko.xz` -> `virtio_net`.
fn name_of(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    canonical(name.split_once(".ko").map_or(name, |(stem, _)| stem))
}

/// The kernel takes `-` and `_` for the same in module names.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// Shell patterns as fnmatch(3) without flags: `*`, `?` and `[a-z]`. Linear in both but for `*`, which goes back once.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, t));
            p += 1;
        } else if t == text.len() {
            return p == pattern.len();
        } else if let Some(width) = matches_one(&pattern[p..], text[t]) {
            p += width;
            t += 1;
        } else if let Some((after, from)) = star {
            star = Some((after, from + 1));
            (p, t) = (after, from + 1);
        } else {
            return false;
        }
        if t > text.len() {
            return false;
        }
    }
}

/// How much of `pattern` stands for the one character `c`, or `None`.
fn matches_one(pattern: &[u8], c: u8) -> Option<usize> {
    match pattern.first()? {
        b'?' => Some(1),
        b'[' => {
            let close = 2 + pattern.get(2..)?.iter().position(|c| *c == b']')?;
            let set = &pattern[1..close];
            let mut at = 0;
            while at < set.len() {
                let range = (set.get(at + 1) == Some(&b'-')).then(|| set.get(at + 2)).flatten();
                if range.map_or(set[at] == c, |last| (set[at]..=*last).contains(&c)) {
                    return Some(close + 1);
                }
                at += if range.is_some() { 3 } else { 1 };
            }
            None
        }
        literal => (*literal == c).then_some(1),
    }
}

/// Loads what the devices under `sys` ask for, once through. `load` gets paths relative to the modules' folder.
/// A driver may bring devices of its own (a virtio bus, a USB hub): call again until nothing is loaded any more.
pub fn coldplug(
    sys: &Path,
    catalog: &Catalog,
    tried: &mut BTreeSet<String>,
    load: &mut dyn FnMut(&str) -> io::Result<()>,
) -> Loaded {
    let mut report = Loaded::default();
    for modalias in modaliases(&sys.join("devices")) {
        for module in catalog.matching(&modalias) {
            for file in catalog.load_order(&module) {
                if !tried.insert(file.clone()) {
                    continue;
                }
                match load(&file) {
                    Ok(()) => report.modules.push(name_of(&file)),
                    Err(error) => report.refused.push((name_of(&file), error)),
                }
            }
        }
    }
    report
}

/// The distinct `modalias` files below `folder`. Links are not followed, so the walk ends; sysfs is less than
/// `DEPTH_MAX` deep on any hardware.
fn modaliases(folder: &Path) -> BTreeSet<String> {
    const DEPTH_MAX: usize = 40;
    let mut found = BTreeSet::new();
    let mut todo: Vec<(PathBuf, usize)> = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = todo.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && depth < DEPTH_MAX {
                todo.push((entry.path(), depth + 1));
            } else if kind.is_file() && entry.file_name() == "modalias" {
                found.extend(fs::read_to_string(entry.path()).map(|text| text.trim_end().to_owned()));
            }
        }
    }
    found
}

/// Hands the file at `path` to the kernel; that it is loaded already is no error. The kernel unpacks `.xz` and `.zst`
/// itself (finit_module(2), MODULE_INIT_COMPRESSED_FILE, Linux 5.17).
pub fn load_module(path: &Path) -> io::Result<()> {
    use nix::kmod::{ModuleInitFlags, finit_module};
    const MODULE_INIT_COMPRESSED_FILE: u32 = 4;
    let compressed = path.extension().is_none_or(|extension| extension != "ko");
    let flags = ModuleInitFlags::from_bits_retain(if compressed { MODULE_INIT_COMPRESSED_FILE } else { 0 });
    match finit_module(fs::File::open(path)?, c"", flags) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The folder of the running kernel's modules.
pub fn modules_folder() -> PathBuf {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_owned()).unwrap_or_default();
    Path::new("/lib/modules").join(release)
}

/// What the kernel calls as `/sbin/modprobe -q -- ALIAS` when it wants a file system or a protocol.
pub fn modprobe(alias: &str) -> io::Result<()> {
    let folder = modules_folder();
    let catalog = Catalog::open(&folder);
    for module in catalog.matching(alias) {
        for file in catalog.load_order(&module) {
            load_module(&folder.join(file))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALIAS: &str = "# Aliases extracted from modules themselves.\n\
        alias virtio:d00000001v* virtio_net\n\
        alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci\n\
        alias pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e\n\
        alias pci:v*d*sv*sd*bc01sc06i01* ahci\n\
        alias fs-vfat vfat\n\
        alias cpu:type:x86,ven*fam*mod*:feature:*0081* crct10dif-pclmul\n";
    const DEP: &str = "kernel/drivers/net/virtio_net.ko.xz: kernel/net/failover.ko.xz kernel/lib/base.ko.xz\n\
        kernel/drivers/virtio/virtio_pci.ko:\n\
        kernel/fs/fat/vfat.ko: kernel/fs/fat/fat.ko\n\
        kernel/fs/nls/nls_ascii.ko:\n";

    fn catalog() -> Catalog {
        Catalog::parse(ALIAS, DEP, "softdep vfat pre: nls-ascii post: nothing\n")
    }

    #[test]
    fn patterns_match_as_fnmatch_does() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("a*c", "abbbc", true),
            ("a*c*", "acd", true),
            ("*b*c", "abdbc", true),
            ("a?c", "ac", false),
            ("v[0-9A-F]x", "vBx", true),
            ("v[0-9]x", "vBx", false),
            ("[]", "]", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_device_finds_its_driver_and_what_the_driver_needs_comes_first() {
        let catalog = catalog();
        let found = catalog.matching("virtio:d00000001v00001AF4");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["virtio_net"]);
        assert_eq!(
            catalog.load_order("virtio_net"),
            ["kernel/lib/base.ko.xz", "kernel/net/failover.ko.xz", "kernel/drivers/net/virtio_net.ko.xz"]
        );
        assert_eq!(
            catalog.load_order("vfat"),
            ["kernel/fs/nls/nls_ascii.ko", "kernel/fs/fat/fat.ko", "kernel/fs/fat/vfat.ko"]
        );
        assert!(catalog.load_order("ahci").is_empty(), "built in");
        assert_eq!(catalog.matching("fs-vfat").len(), 1);
    }

    #[test]
    fn coldplug_loads_each_module_once_and_reports_what_the_kernel_refused() {
        let sys = tempfile::tempdir().unwrap();
        for (device, modalias) in [
            ("pci0000:00/0000:00:02.0", "pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00\n"),
            ("pci0000:00/0000:00:02.0/virtio0", "virtio:d00000001v00001AF4\n"),
            ("platform/none", "platform:none\n"),
        ] {
            let folder = sys.path().join("devices").join(device);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("modalias"), modalias).unwrap();
        }
        let mut tried = BTreeSet::new();
        let mut load = |file: &str| match file.contains("failover") {
            true => Err(io::Error::from(io::ErrorKind::PermissionDenied)),
            false => Ok(()),
        };
        let first = coldplug(sys.path(), &catalog(), &mut tried, &mut load);
        assert_eq!(first.modules, ["virtio_pci", "base", "virtio_net"]);
        assert_eq!(first.refused.len(), 1);
        assert!(coldplug(sys.path(), &catalog(), &mut tried, &mut load).modules.is_empty());
    }
}
