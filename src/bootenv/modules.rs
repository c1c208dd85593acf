//! Which modules of a kernel package go into the initramfs.
//!
//! depmod(8) has written `modules.dep`, `modules.alias` and `modules.softdep` over the whole package; a selection is the
//! lists' modules with everything they need, and the same three files cut down to it.

use std::collections::{BTreeMap, BTreeSet};

/// The lists of boot/modules, one line a module or a folder.
const VIRTUAL: &str = include_str!("../../boot/modules/virtual.list");
const HARDWARE: &str = include_str!("../../boot/modules/hardware.list");

/// For which machines a boot environment is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flavour {
    /// Virtual machines: few drivers, starts fast.
    Virtual,
    /// Real machines: all wired network cards and all local storage, and what virtual machines need.
    Hardware,
}

impl Flavour {
    /// The lines of its lists that name something.
    pub fn lines(self) -> impl Iterator<Item = &'static str> {
        let more = if self == Flavour::Hardware { HARDWARE } else { "" };
        VIRTUAL.lines().chain(more.lines()).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    }
}

/// The chosen modules and the tables over them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Paths below `lib/modules/RELEASE/`.
    pub files: BTreeSet<String>,
    pub modules_dep: String,
    pub modules_alias: String,
    pub modules_softdep: String,
}

/// The tables of a whole kernel package, as depmod wrote them.
pub struct Tables {
    dep: BTreeMap<String, Vec<String>>,
    alias: String,
    softdep: String,
}

impl Tables {
    /// modules.dep(5): `path: path path ...`, relative to the folder of the release.
    pub fn parse(dep: &str, alias: &str, softdep: &str) -> Tables {
        let lines = dep.lines().filter_map(|line| line.split_once(':'));
        let dep = lines.map(|(file, needs)| {
            (file.to_owned(), needs.split_ascii_whitespace().map(str::to_owned).collect::<Vec<String>>())
        });
        Tables { dep: dep.collect(), alias: alias.to_owned(), softdep: softdep.to_owned() }
    }

    /// The modules that `lines` name, with all they need.
    pub fn select<'a>(&self, lines: impl Iterator<Item = &'a str>) -> Selection {
        let files = self.close(self.named(lines));
        let names: BTreeSet<String> = files.iter().map(|file| name_of(file)).collect();
        let mut modules_dep = String::new();
        for file in &files {
            let needs = self.dep.get(file).map(|needs| needs.join(" ")).unwrap_or_default();
            modules_dep.push_str(format!("{file}: {needs}").trim_end());
            modules_dep.push('\n');
        }
        let modules_alias =
            keep_lines(&self.alias, |words| words.last().is_some_and(|m| names.contains(&canonical(m))));
        let modules_softdep =
            keep_lines(&self.softdep, |words| words.get(1).is_some_and(|m| names.contains(&canonical(m))));
        Selection { files, modules_dep, modules_alias, modules_softdep }
    }

    fn named<'a>(&self, lines: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
        let by_name = self.by_name();
        let mut files = BTreeSet::new();
        for line in lines {
            if line.ends_with('/') {
                files.extend(self.dep.keys().filter(|file| file.starts_with(line)).cloned());
            } else if let Some(file) = by_name.get(&canonical(line)) {
                files.insert((*file).to_owned());
            }
        }
        files
    }

    /// Adds what is needed, and what a soft dependency wants, until nothing is added any more.
    fn close(&self, mut files: BTreeSet<String>) -> BTreeSet<String> {
        let by_name = self.by_name();
        let soft = self.soft_dependencies();
        let mut todo: Vec<String> = files.iter().cloned().collect();
        while let Some(file) = todo.pop() {
            let wanted = soft.get(&name_of(&file)).into_iter().flatten().filter_map(|name| by_name.get(name).copied());
            let needs = self.dep.get(&file).into_iter().flatten().map(String::as_str);
            for other in needs.chain(wanted) {
                if files.insert(other.to_owned()) {
                    todo.push(other.to_owned());
                }
            }
        }
        files
    }

    fn by_name(&self) -> BTreeMap<String, &str> {
        self.dep.keys().map(|file| (name_of(file), file.as_str())).collect()
    }

    /// modprobe.d(5): `softdep NAME pre: A B post: C`.
    fn soft_dependencies(&self) -> BTreeMap<String, Vec<String>> {
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in self.softdep.lines() {
            let mut words = line.strip_prefix("softdep ").unwrap_or_default().split_ascii_whitespace();
            let Some(name) = words.next() else { continue };
            let wanted = words.filter(|word| !word.ends_with(':')).map(canonical);
            found.entry(canonical(name)).or_default().extend(wanted);
        }
        found
    }
}

/// The lines of `table` whose words satisfy `keep`; comments go.
fn keep_lines(table: &str, keep: impl Fn(&[&str]) -> bool) -> String {
    let mut kept = String::new();
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        if keep(&line.split_ascii_whitespace().collect::<Vec<_>>()) {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// `kernel/fs/nls/nls_iso8859-1.ko.xz` -> `nls_iso8859_1`.
fn name_of(file: &str) -> String {
    let last = file.rsplit('/').next().unwrap_or(file);
    canonical(last.split_once(".ko").map_or(last, |(name, _)| name))
}

/// The kernel takes `-` and `_` in module names for the same.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/drivers/net/virtio_net.ko: kernel/net/core/failover.ko kernel/drivers/virtio/virtio.ko\n\
        kernel/net/core/failover.ko:\nkernel/drivers/virtio/virtio.ko:\n\
        kernel/drivers/net/ethernet/intel/e1000e.ko.xz: kernel/drivers/ptp/ptp.ko.xz\n\
        kernel/drivers/ptp/ptp.ko.xz: kernel/drivers/pps/pps_core.ko.xz\nkernel/drivers/pps/pps_core.ko.xz:\n\
        kernel/fs/nls/nls_iso8859-1.ko:\nkernel/fs/ext4/ext4.ko:\nkernel/crypto/crc32c_generic.ko:\n\
        kernel/sound/noise.ko:\n";
    const ALIAS: &str =
        "# Aliases\nalias virtio:d00000001v* virtio_net\nalias pci:v00008086d* e1000e\nalias snd noise\n";
    const SOFTDEP: &str = "# Soft\nsoftdep ext4 pre: crc32c_generic\nsoftdep noise pre: ext4\n";

    fn select(lines: &[&str]) -> Selection {
        Tables::parse(DEP, ALIAS, SOFTDEP).select(lines.iter().copied())
    }

    #[test]
    fn a_module_brings_what_it_needs_and_its_lines_of_the_tables() {
        let chosen = select(&["virtio_net", "not-in-this-kernel"]);
        assert_eq!(chosen.files.len(), 3);
        assert_eq!(chosen.modules_alias, "alias virtio:d00000001v* virtio_net\n");
        assert!(chosen.modules_dep.contains("kernel/net/core/failover.ko:\n"), "{}", chosen.modules_dep);
    }

    #[test]
    fn a_folder_names_all_below_it() {
        let chosen = select(&["kernel/drivers/net/ethernet/"]);
        assert!(chosen.files.contains("kernel/drivers/pps/pps_core.ko.xz"), "{chosen:?}");
        assert_eq!(chosen.files.len(), 3);
    }

    #[test]
    fn dashes_and_soft_dependencies_are_understood() {
        assert_eq!(select(&["nls_iso8859_1"]).files.len(), 1);
        let chosen = select(&["ext4"]);
        assert!(chosen.files.contains("kernel/crypto/crc32c_generic.ko"), "{chosen:?}");
        assert_eq!(chosen.modules_softdep, "softdep ext4 pre: crc32c_generic\n");
    }

    #[test]
    fn the_flavours_lists_name_the_devices_of_a_virtual_machine() {
        for name in ["virtio_net", "virtio_blk", "e1000e", "nvme", "ahci", "vfat"] {
            assert!(Flavour::Virtual.lines().any(|line| line == name), "{name}");
            assert!(Flavour::Hardware.lines().any(|line| line == name), "{name}");
        }
        assert!(Flavour::Hardware.lines().any(|line| line == "kernel/drivers/net/ethernet/"));
    }
}
