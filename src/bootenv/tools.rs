//! Programs that steps run in the boot environment, with the libraries that they need.
//!
//! They are those of Debian packages (boot/tools.list), found without a package manager: what a program needs is read out
//! of it, and looked for in the packages that its own package depends on, until nothing is missing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use super::debian::{Package, Suite};
use super::elf;
use super::error::Error;
use super::plan::Tools;
use crate::stdx::time::Timestamp;

const LIST: &str = include_str!("../../boot/tools.list");
/// One program with a shell and all that one types into it.
const SHELL: (&str, &str) = ("busybox-static", "bin/busybox");
/// Where Debian keeps the libraries of amd64; a loader looks there by itself.
const LIBRARIES: &str = "lib/x86_64-linux-gnu";
const LIBRARY_FOLDERS: [&str; 4] = [LIBRARIES, "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib64"];
const PROGRAMS: &str = "usr/sbin";

/// What goes into the initramfs, by its path there.
#[derive(Debug, Default)]
pub struct Toolbox {
    pub files: BTreeMap<String, (u32, Vec<u8>)>,
    pub packages: Vec<Package>,
}

/// Lines of the list: a package and its files.
pub fn list() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    let lines = LIST.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(':')).map(|(package, files)| (package, files.split_whitespace().collect()))
}

/// Unpacks the packages below `scratch` and takes out of them what is needed.
pub fn collect(
    source: &Tools,
    debug_shell: bool,
    scratch: &Path,
    cache: &Path,
    now: Timestamp,
) -> Result<Toolbox, Error> {
    let mut shelf = Shelf {
        root: scratch.join("tools"),
        suite: None,
        given: Vec::new(),
        waiting: VecDeque::new(),
        taken: BTreeSet::new(),
    };
    match source {
        Tools::Archive { suite } => shelf.suite = Some(Suite::open(suite, "amd64", cache, now)?),
        Tools::Files(files) if files.is_empty() => return Ok(Toolbox::default()),
        Tools::Files(files) => shelf.given = files.iter().map(|file| Package::open(file)).collect::<Result<_, _>>()?,
    }
    let mut toolbox = Toolbox::default();
    for (package, files) in list().chain(debug_shell.then(|| (SHELL.0, vec![SHELL.1]))) {
        let package = shelf.unpack(package)?.ok_or_else(|| Error::NoTool { package: package.to_owned() })?;
        for file in files {
            let missing = || Error::NotInPackage { what: file.to_owned(), package: package.name.clone() };
            let place = shelf.find(file).ok_or_else(missing)?;
            let content = fs::read(&place).map_err(Error::file(&place))?;
            match elf::needs(&content) {
                Some(_) => shelf.add_program(&mut toolbox, file, content)?,
                None => drop(toolbox.files.insert(file.to_owned(), (0o644, content))),
            }
        }
        toolbox.packages.push(package);
    }
    Ok(toolbox)
}

/// Packages at hand, unpacked into one folder as they are needed.
struct Shelf {
    root: PathBuf,
    suite: Option<Suite>,
    given: Vec<Package>,
    /// Packages that something here depends on and that were not looked into yet.
    waiting: VecDeque<String>,
    taken: BTreeSet<String>,
}

impl Shelf {
    /// `None` when the package is not at hand.
    fn unpack(&mut self, name: &str) -> Result<Option<Package>, Error> {
        let package = match &self.suite {
            Some(suite) => Some(suite.download(name)?),
            None => self.given.iter().find(|package| package.name == name).cloned(),
        };
        let Some(package) = package else { return Ok(None) };
        if self.taken.insert(package.name.clone()) {
            fs::create_dir_all(&self.root).map_err(Error::file(&self.root))?;
            package.unpack(&self.root)?;
            self.waiting.extend(package.depends()?.into_iter().filter(|name| name.starts_with("lib")));
        }
        Ok(Some(package))
    }

    /// A file of the unpacked packages; programs move between these folders from one release of Debian to the next.
    fn find(&self, file: &str) -> Option<PathBuf> {
        let name = file.rsplit('/').next().unwrap_or(file);
        let folders = ["sbin", "bin", "usr/sbin", "usr/bin"];
        let places = folders.iter().map(|folder| self.root.join(folder).join(name));
        std::iter::once(self.root.join(file)).chain(places).find(|path| path.exists())
    }

    fn add_program(&mut self, toolbox: &mut Toolbox, file: &str, content: Vec<u8>) -> Result<(), Error> {
        let name = file.rsplit('/').next().unwrap_or(file);
        let mut todo = vec![(file.to_owned(), elf::needs(&content).unwrap_or_default())];
        toolbox.files.insert(format!("{PROGRAMS}/{name}"), (0o755, content));
        while let Some((who, needs)) = todo.pop() {
            let loader = needs.loader.map(|path| path.trim_start_matches('/').to_owned());
            let libraries = needs.libraries.into_iter().map(|name| format!("{LIBRARIES}/{name}"));
            for path in loader.into_iter().chain(libraries).collect::<Vec<_>>() {
                // A library that names the loader among what it needs means the program that the kernel has started already.
                if toolbox.files.contains_key(&path) || path.contains("/ld-linux") && path.starts_with(LIBRARIES) {
                    continue;
                }
                let name = path.rsplit('/').next().unwrap_or_default();
                let content = self.shared_object(name, &who)?;
                todo.push((name.to_owned(), elf::needs(&content).unwrap_or_default()));
                toolbox.files.insert(path, (0o755, content));
            }
        }
        Ok(())
    }

    /// The library of that name, from the packages that are unpacked or from the next ones that they depend on.
    fn shared_object(&mut self, name: &str, who: &str) -> Result<Vec<u8>, Error> {
        loop {
            let places = LIBRARY_FOLDERS.iter().map(|folder| self.root.join(folder).join(name));
            if let Some(content) = places.into_iter().find_map(|path| fs::read(path).ok()) {
                return Ok(content);
            }
            let Some(next) = self.waiting.pop_front() else {
                return Err(Error::NoLibrary { library: name.to_owned(), program: who.to_owned() });
            };
            self.unpack(&next)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_a_program_for_every_file_system() {
        let files: Vec<&str> = list().flat_map(|(_, files)| files).collect();
        for program in ["mke2fs", "mkfs.xfs", "mkfs.btrfs", "mkfs.fat", "mkntfs", "ntfs-3g", "mkswap"] {
            assert!(files.iter().any(|file| file.ends_with(&format!("/{program}"))), "{program}");
        }
    }

    #[test]
    fn a_package_that_is_not_at_hand_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree/DEBIAN");
        fs::create_dir_all(&tree).unwrap();
        let control = "Package: other\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: s\n";
        fs::write(tree.join("control"), control).unwrap();
        let file = folder.path().join("other.deb");
        let mut build = std::process::Command::new("dpkg-deb");
        super::super::debian::run(build.args(["-b", "--root-owner-group"]).arg(folder.path().join("tree")).arg(&file))
            .unwrap();
        let source = Tools::Files(vec![file]);
        let error = collect(&source, false, folder.path(), folder.path(), Timestamp::default()).unwrap_err();
        assert_eq!(error.to_string(), "find the package `e2fsprogs`, whose programs steps need");
    }
}
