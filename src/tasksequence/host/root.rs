//! Files of a system that does not run: its paths and symbolic links are its own and never lead out of it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::sys::statfs::{self, FsType};

use crate::stdx::file::write_whole_private;

use super::{FileContent, FoundFile, Listed};

/// As many as Linux follows in one path.
const LINKS_MAX: u32 = 40;
/// `EXFAT_SUPER_MAGIC` of linux/magic.h.
const EXFAT_SUPER_MAGIC: FsType = FsType(0x2011_bab0);
/// Largest file that a step reads.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Entries of a folder that a step lists: Windows' folders of fonts and drivers have some thousands.
const ENTRIES_MAX: usize = 1 << 16;

/// Where `path`, as the system in `root` sees it, really is. The last component need not exist. On a volume of Windows, names
/// are found in any case.
pub fn resolve(root: &Path, path: &str) -> io::Result<PathBuf> {
    let mut todo: Vec<PathBuf> = vec![PathBuf::from(path)];
    let mut at = root.to_owned();
    let mut links = 0;
    while let Some(next) = todo.pop() {
        let mut components = next.components();
        let Some(component) = components.next() else { continue };
        let rest = components.as_path();
        if !rest.as_os_str().is_empty() {
            todo.push(rest.to_owned());
        }
        match component {
            Component::RootDir | Component::Prefix(_) => at = root.to_owned(),
            Component::CurDir => {}
            Component::ParentDir => {
                if at != root {
                    at.pop();
                }
            }
            Component::Normal(name) => {
                let inner = spelled(&at, name);
                match fs::read_link(&inner) {
                    Ok(target) => {
                        links += 1;
                        if links > LINKS_MAX {
                            return Err(io::Error::other(format!("{path} goes through too many symbolic links")));
                        }
                        todo.push(target);
                    }
                    Err(_) => at = inner,
                }
            }
        }
    }
    Ok(at)
}

/// The path of `name` in the folder, as the folder spells it: ntfs-3g takes `a` and `A` for two names, and Windows for one.
fn spelled(folder: &Path, name: &OsStr) -> PathBuf {
    let exact = folder.join(name);
    let is_exact = exact.symlink_metadata().is_ok();
    let found = if is_exact || !is_ntfs_3g(folder) { None } else { in_any_case(folder, name) };
    found.unwrap_or(exact)
}

fn in_any_case(folder: &Path, name: &OsStr) -> Option<PathBuf> {
    let folded = |name: &OsStr| name.to_string_lossy().to_lowercase();
    let wanted = folded(name);
    fs::read_dir(folder).ok()?.flatten().find(|entry| folded(&entry.file_name()) == wanted).map(|entry| entry.path())
}

/// Nothing else that is mounted for a system that does not run is served by a program.
fn is_ntfs_3g(folder: &Path) -> bool {
    statfs::statfs(folder).is_ok_and(|found| found.filesystem_type() == statfs::FUSE_SUPER_MAGIC)
}

/// `None` when there is no such folder. Links are not followed.
pub fn list(root: &Path, path: &str) -> io::Result<Option<Vec<Listed>>> {
    let entries = match fs::read_dir(resolve(root, path)?) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        other => other?,
    };
    let mut listed = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().into_string();
        let name = name.map_err(|name| io::Error::other(format!("{path} holds {name:?}, which is no text")))?;
        listed.push(Listed { name, is_folder: entry.file_type()?.is_dir() });
        if listed.len() > ENTRIES_MAX {
            return Err(io::Error::other(format!("{path} has more than {ENTRIES_MAX} entries")));
        }
    }
    listed.sort();
    Ok(Some(listed))
}

/// `None` when there is no such file.
pub fn read(root: &Path, path: &str) -> io::Result<Option<FoundFile>> {
    let real = resolve(root, path)?;
    let found = match fs::metadata(&real) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        other => other?,
    };
    let mode = keeps_modes(&real)?.then(|| found.permissions().mode() & 0o7777);
    if !found.is_file() {
        // It is there, which is all that can be asked of a folder or a device.
        return Ok(Some(FoundFile { bytes: Vec::new(), mode }));
    }
    if found.len() > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("{path} has {} bytes, at most {FILE_BYTES_MAX} are read", found.len())));
    }
    Ok(Some(FoundFile { bytes: fs::read(&real)?, mode }))
}

/// FAT and exFAT, and ntfs-3g without its option `permissions`, show the same permission bits for every file, whatever was set.
fn keeps_modes(path: &Path) -> io::Result<bool> {
    let kind = statfs::statfs(path)?.filesystem_type();
    Ok(![statfs::MSDOS_SUPER_MAGIC, EXFAT_SUPER_MAGIC, statfs::FUSE_SUPER_MAGIC].contains(&kind))
}

/// Writes the file whole, for root alone at first and with its mode once all of it is there.
pub fn write(root: &Path, path: &str, content: &FileContent) -> io::Result<()> {
    let real = resolve(root, path)?;
    if let Some(folder) = real.parent() {
        fs::create_dir_all(folder)?;
    }
    write_whole_private(&real, &content.bytes)?;
    fs::set_permissions(&real, fs::Permissions::from_mode(content.mode))?;
    fs::File::open(&real)?.sync_all()
}

/// Removes a file, a link or a whole folder. False: there was nothing.
pub fn remove(root: &Path, path: &str) -> io::Result<bool> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    // The link itself goes, not what it leads to.
    let real = resolve(root, folder)?.join(name);
    if real == root {
        return Err(io::Error::other("the root itself is not removed"));
    }
    let removed = match fs::symlink_metadata(&real) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(&real),
        Ok(_) => fs::remove_file(&real),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => Err(error),
    };
    removed.map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_lead_about_within_the_root_and_never_out_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("etc/inner")).unwrap();
        fs::write(folder.path().join("secret"), "outside").unwrap();
        for (target, link) in [
            ("/etc/inner", "absolute"),
            ("../../../../etc/inner", "up"),
            ("../secret", "etc/out"),
            ("etc", "short"),
            ("loop", "loop"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        for (path, expect) in [
            ("/etc/hostname", "etc/hostname"),
            ("/absolute/a", "etc/inner/a"),
            ("/up/a", "etc/inner/a"),
            ("/short/../short/inner/a", "etc/inner/a"),
            ("/etc/out", "secret"),
            ("/../../secret", "secret"),
        ] {
            assert_eq!(resolve(&root, path).unwrap(), root.join(expect), "{path}");
        }
        assert!(resolve(&root, "/loop").is_err());
        assert_eq!(read(&root, "/etc/out").unwrap(), None);
    }

    #[test]
    fn a_folder_is_listed_by_name_and_names_are_found_in_any_case() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("Windows/Boot")).unwrap();
        fs::write(folder.path().join("Windows/a.txt"), "x").unwrap();
        let entry = |name: &str, is_folder| Listed { name: name.into(), is_folder };
        assert_eq!(list(folder.path(), "/Windows").unwrap().unwrap(), [entry("Boot", true), entry("a.txt", false)]);
        assert_eq!(list(folder.path(), "/Windows/a.txt").unwrap(), None);
        assert_eq!(list(folder.path(), "/nothing").unwrap(), None);
        assert_eq!(in_any_case(folder.path(), OsStr::new("wINDOWS")), Some(folder.path().join("Windows")));
        assert_eq!(in_any_case(folder.path(), OsStr::new("Window")), None);
    }

    #[test]
    fn a_file_is_written_with_its_folders_and_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let content = FileContent { bytes: b"x".to_vec(), mode: 0o640 };
        write(folder.path(), "/a/b/c", &content).unwrap();
        assert!(read(folder.path(), "/a/b/c").unwrap().unwrap().is(&content));
        assert_eq!(read(folder.path(), "/a/b/d").unwrap(), None);
        assert_eq!(read(folder.path(), "/a/b/c/d").unwrap(), None);
        symlink("/a", folder.path().join("link")).unwrap();
        assert_eq!((remove(folder.path(), "/link").unwrap(), remove(folder.path(), "/link").unwrap()), (true, false));
        assert_eq!((remove(folder.path(), "/a").unwrap(), read(folder.path(), "/a/b/c").unwrap()), (true, None));
        assert!(remove(folder.path(), "/").is_err());
    }
}
