//! Whose files: what root makes in somebody's folder belongs to that somebody.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// Gives what was just made at `path` to the owner of the folder that holds it. Does nothing unless root runs this: only
/// root can leave behind what the folder's owner may not touch.
pub fn adopt(path: &Path) -> io::Result<()> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (own, above) = (fs::symlink_metadata(path)?, fs::metadata(folder)?);
    if own.uid() == above.uid() || above.uid() == 0 {
        return Ok(());
    }
    lchown(path, Some(above.uid()), Some(above.gid()))
}

/// Makes root into the owner of `folder`, in every thread and for good: no groups, no capability, no way back.
/// Returns the user's number; `None` when there was nothing to give up.
pub fn become_owner_of(folder: &Path) -> io::Result<Option<u32>> {
    let owner = fs::metadata(folder)?;
    if !Uid::effective().is_root() || owner.uid() == 0 {
        return Ok(None);
    }
    let (user, group) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    nix::sys::prctl::set_no_new_privs()?;
    Ok(Some(owner.uid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_root_makes_belongs_to_the_owner_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pack");
        fs::write(&file, b"x").unwrap();
        if !Uid::effective().is_root() {
            adopt(&file).unwrap();
            return println!("skipped: only root gives files away");
        }
        adopt(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().uid(), 0, "the folder is root's");
        lchown(folder.path(), Some(4242), Some(4243)).unwrap();
        adopt(&file).unwrap();
        let given = fs::metadata(&file).unwrap();
        assert_eq!((given.uid(), given.gid()), (4242, 4243));
    }
}
