//! An image's files in a folder: names, links and all that is not content. What the target cannot hold is counted, never
//! dropped silently. Where contents come from is the business of those who use this: [`super::apply`] takes them from a
//! WIM, `imaging::tree` from the content store.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::Error;
use super::format::Sha1;
use super::reader::OnDamage;
use super::reparse;
use super::target::{Target, set_open_xattr};
use super::tree::{ATTRIBUTE_ENCRYPTED, Entry, Tree};

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
/// Attributes that say nothing that a Linux file system does not: normal, archive, folder, reparse point.
const ATTRIBUTES_IMPLIED: u32 = 0x4b0;

/// Attributes that belong to the target's file system, not to the file.
const KEPT_XATTRS: [&[u8]; 2] = [b"security.selinux", b"system."];

/// What was done, and what could not be.
#[derive(Debug, Default)]
pub struct Report {
    pub folders: u64,
    pub files: u64,
    pub links: u64,
    pub bytes: u64,
    /// What the target has no place for, and how often.
    pub not_held: BTreeMap<&'static str, u64>,
    /// Damage that was passed over, with what it cost.
    pub faults: Vec<Error>,
}

/// Entries that are names of one file. The first of a group stands for it.
pub(super) struct Inodes {
    /// For each entry the first of its group.
    pub(super) first: Vec<usize>,
}

impl Inodes {
    fn new(tree: &Tree) -> Inodes {
        let mut groups = HashMap::new();
        let first = tree.entries.iter().enumerate().map(|(place, entry)| match entry.link_group {
            0 => place,
            _ if entry.is_folder() => place,
            // A group whose members differ in content is not one.
            group => *groups.entry((group, entry.content)).or_insert(place),
        });
        Inodes { first: first.collect() }
    }

    pub(super) fn is_first(&self, place: usize) -> bool {
        self.first[place] == place
    }
}

/// Entries whose name is taken by an earlier one of the folder, in the eyes of the target; with all that is in them.
fn clashes(tree: &Tree, folds_case: bool) -> HashSet<usize> {
    let mut names = HashSet::new();
    let mut clashing = HashSet::new();
    for (place, entry) in tree.entries.iter().enumerate().skip(1) {
        let name = match folds_case {
            true => String::from_utf16_lossy(&entry.name).to_lowercase().encode_utf16().collect(),
            false => entry.name.clone(),
        };
        if clashing.contains(&entry.parent) || !names.insert((entry.parent, name)) {
            clashing.insert(place);
        }
    }
    clashing
}

/// What one blob is to become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    Content(usize),
    /// A stream of an entry, by its place among the named ones.
    Stream(usize, usize),
    LinkData,
}

impl Use {
    /// Of the entry in the tree; link data is nobody's own.
    pub fn place(&self) -> usize {
        match self {
            Use::Content(place) | Use::Stream(place, _) => *place,
            Use::LinkData => 0,
        }
    }
}

/// The files of `tree` under a folder.
pub struct Files<'a> {
    pub tree: &'a Tree,
    pub target: Target<'a>,
    pub(super) inodes: Inodes,
    clashes: HashSet<usize>,
    on_damage: OnDamage,
    report: Mutex<Report>,
    pub(super) link_data: Mutex<HashMap<Sha1, Vec<u8>>>,
}

impl<'a> Files<'a> {
    /// Opens the folder, making it when there is none.
    pub fn open(path: &Path, tree: &'a Tree, on_damage: OnDamage) -> Result<Files<'a>, Error> {
        Files::on(Target::open(path, tree), path, tree, on_damage)
    }

    /// To look at what is there; nothing is written.
    pub fn look(path: &Path, tree: &'a Tree) -> Result<Files<'a>, Error> {
        Files::on(Target::look(path, tree), path, tree, OnDamage::Stop)
    }

    fn on(
        target: io::Result<Target<'a>>,
        path: &Path,
        tree: &'a Tree,
        on_damage: OnDamage,
    ) -> Result<Files<'a>, Error> {
        let target = target.map_err(|source| Error::Target {
            action: "open the folder",
            path: path.display().to_string(),
            source,
        })?;
        Ok(Files {
            tree,
            inodes: Inodes::new(tree),
            clashes: clashes(tree, target.folds_case),
            target,
            on_damage,
            report: Mutex::default(),
            link_data: Mutex::default(),
        })
    }

    /// The place of the entry that stands for all names of this one's file.
    pub fn first_name(&self, place: usize) -> usize {
        self.inodes.first[place]
    }

    /// Has all of the target's file system on the medium.
    pub fn sync(&self) -> Result<(), Error> {
        let synced = self.target.sync();
        synced.map_err(|source| Error::Target { action: "sync", path: "the folder".to_owned(), source })
    }

    pub fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn into_report(self) -> Report {
        self.report.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn not_held(&self, what: &'static str) {
        *self.report().not_held.entry(what).or_default() += 1;
    }

    /// Takes an error about an entry: it ends the work, or is kept and the work goes on without the entry.
    pub fn passed_over(&self, error: Error) -> Result<(), Error> {
        if self.on_damage == OnDamage::Stop {
            return Err(error);
        }
        self.report().faults.push(error);
        Ok(())
    }

    pub(super) fn entry_done(&self, place: usize, action: &'static str, done: io::Result<()>) -> Result<bool, Error> {
        let Err(source) = done else { return Ok(true) };
        if matches!(source.raw_os_error(), Some(libc::ENAMETOOLONG | libc::EINVAL | libc::EILSEQ)) {
            self.not_held("names that the target cannot have");
            return Ok(false);
        }
        self.passed_over(Error::Target { action, path: self.tree.path_text(place), source })?;
        Ok(false)
    }

    pub fn written(&self, place: usize, written: io::Result<()>) -> Result<(), Error> {
        written.map_err(|source| Error::Target { action: "write", path: self.tree.path_text(place), source })
    }

    /// Refuses a target without room for all contents, whose lengths `bytes_of` knows.
    pub fn check_room(&self, bytes_of: impl Fn(&Sha1) -> u64) -> Result<(), Error> {
        let first = self.tree.entries.iter().enumerate().filter(|(place, _)| self.inodes.is_first(*place));
        self.check_free(first.map(|(_, entry)| bytes_of(&entry.content)).fold(0, u64::saturating_add))
    }

    /// Refuses a target that has not these bytes free.
    pub fn check_free(&self, needed: u64) -> Result<(), Error> {
        let cannot = |source| Error::Target { action: "write into", path: "the folder".to_owned(), source };
        let free = self.target.free_bytes().map_err(cannot)?;
        if needed > free {
            let text = format!("the image needs {needed} bytes and the target has {free}");
            return Err(cannot(io::Error::new(io::ErrorKind::StorageFull, text)));
        }
        Ok(())
    }

    /// Whether the entry is left out because another one has its name.
    pub(super) fn clashes(&self, place: usize) -> bool {
        self.clashes.contains(&place)
    }

    pub fn folders(&self) -> Result<(), Error> {
        for (place, entry) in self.tree.entries.iter().enumerate().skip(1) {
            if self.clashes(place) {
                self.not_held("names that another file has there");
            } else if entry.is_folder() && (entry.reparse.is_none() || self.target.is_ntfs) {
                let made = match entry.reparse {
                    Some(_) => self.target.create_reparse_folder(place),
                    None => self.target.create_folder(place),
                };
                if self.entry_done(place, "make the folder", made)? {
                    self.report().folders += 1;
                }
            }
        }
        if self.target.is_ntfs {
            self.empty_ntfs_files()?;
        }
        Ok(())
    }

    /// What each content is to become.
    pub fn uses(&self) -> HashMap<Sha1, Vec<Use>> {
        let mut uses: HashMap<Sha1, Vec<Use>> = HashMap::new();
        let mut add = |hash: Sha1, user: Use| match hash {
            Sha1::ZERO => {}
            hash => uses.entry(hash).or_default().push(user),
        };
        for (place, entry) in self.tree.entries.iter().enumerate() {
            if self.clashes(place) || !self.inodes.is_first(place) {
                continue;
            }
            entry.reparse.iter().for_each(|reparse| add(reparse.data, Use::LinkData));
            for (stream, named) in entry.named_streams.iter().enumerate().filter(|_| self.target.is_ntfs) {
                add(named.content, Use::Stream(place, stream));
            }
            if is_regular(entry) && !is_encrypted(entry) {
                add(entry.content, Use::Content(place));
            }
        }
        uses
    }

    /// Makes the files and streams that have no content, and counts the contents that the target has no place for.
    pub fn without_content(&self) -> Result<(), Error> {
        for (place, entry) in self.tree.entries.iter().enumerate() {
            if self.clashes(place) || !self.inodes.is_first(place) {
                continue;
            }
            for (stream, named) in entry.named_streams.iter().enumerate() {
                match self.target.is_ntfs {
                    false => self.not_held("alternate data streams"),
                    true if named.content == Sha1::ZERO => self.set_stream(place, stream, &[])?,
                    true => {}
                }
            }
            if is_encrypted(entry) {
                self.not_held("files encrypted by Windows");
            } else if is_regular(entry) && entry.content == Sha1::ZERO {
                let made = self.target.create_empty_file(place);
                if let Some(file) = self.opened(place, made)? {
                    self.finish_file(place, &file)?;
                }
            }
        }
        Ok(())
    }

    /// The path of the first of them that is a file's.
    pub fn path_of(&self, users: &[Use]) -> String {
        let place = users.iter().find_map(|user| match user {
            Use::Content(place) | Use::Stream(place, _) => Some(*place),
            Use::LinkData => None,
        });
        place.map_or_else(|| "a link".to_owned(), |place| self.tree.path_text(place))
    }

    /// Makes the file, which is to have `bytes` of content, anew and opens it. `None` when the target cannot have it, which
    /// was counted.
    pub fn create_file(&self, place: usize, bytes: u64) -> Result<Option<File>, Error> {
        let made = match self.target.is_ntfs {
            true => self.target.open_file(place),
            false => self.target.create_file(place),
        };
        let made = self.opened(place, made)?;
        if let Some(file) = made.iter().find(|_| self.is_sparse(place)) {
            self.written(place, file.set_len(bytes))?;
        }
        Ok(made)
    }

    /// Opens the file that is there, to be changed in part.
    pub fn open_file(&self, place: usize) -> Result<Option<File>, Error> {
        self.opened(place, self.target.open_file(place))
    }

    /// Gives the file that is there, whose content is right, all else that is its own.
    pub fn keep_file(&self, place: usize) -> Result<(), Error> {
        match self.opened(place, self.target.look_file(place))? {
            Some(file) => self.finish_file(place, &file),
            None => Ok(()),
        }
    }

    pub(super) fn opened(&self, place: usize, made: io::Result<File>) -> Result<Option<File>, Error> {
        match made {
            Ok(file) => Ok(Some(file)),
            Err(error) => self.entry_done(place, "make the file", Err(error)).map(|_| None),
        }
    }

    pub fn keep_link_data(&self, hash: Sha1, data: &[u8]) {
        if data.len() as u64 <= reparse::DATA_BYTES_MAX {
            self.link_data.lock().unwrap_or_else(PoisonError::into_inner).insert(hash, data.to_vec());
        }
    }

    /// All that is not content, while the file is still open. On NTFS that comes last, after the streams.
    pub fn finish_file(&self, place: usize, file: &File) -> Result<(), Error> {
        self.report().files += 1;
        if self.target.is_ntfs {
            return Ok(());
        }
        self.drop_other_xattrs(place);
        for xattr in &self.tree.entries[place].xattrs {
            if set_open_xattr(file.as_fd(), &xattr.name, &xattr.value).is_err() {
                self.not_held("extended attributes");
            }
        }
        self.metadata(place, Some(file))
    }

    /// Owner, permissions and times. Attributes of an open file have been set already.
    fn metadata(&self, place: usize, file: Option<&File>) -> Result<(), Error> {
        let entry = &self.tree.entries[place];
        if let Some(unix) = entry.unix {
            if self.target.set_owner(place, file, unix.uid, unix.gid).is_err() {
                self.not_held("owners");
            }
            if unix.mode & S_IFMT != S_IFLNK && self.target.set_mode(place, file, unix.mode).is_err() {
                self.not_held("permissions");
            }
            // A new owner takes file capabilities away.
            for xattr in entry.xattrs.iter().filter(|xattr| xattr.name == b"security.capability") {
                if self.target.set_xattr(place, &xattr.name, &xattr.value).is_err() {
                    self.not_held("extended attributes");
                }
            }
        }
        if !self.target.is_ntfs {
            self.count_windows_metadata(entry);
        }
        let timed = self.target.set_times(place, file);
        self.entry_done(place, "set the times of", timed).map(drop)
    }

    fn count_windows_metadata(&self, entry: &Entry) {
        let held = [
            (entry.descriptor.is_some(), "security descriptors"),
            (!entry.short_name.is_empty(), "short names"),
            (!entry.object_id.is_empty(), "object ids"),
            (entry.attributes & !ATTRIBUTES_IMPLIED != 0, "Windows attributes"),
        ];
        held.into_iter().filter(|(has, _)| *has).for_each(|(_, what)| self.not_held(what));
    }

    /// Links of both kinds and special files, once all contents are there.
    pub fn links(&self) -> Result<(), Error> {
        for (place, entry) in self.tree.entries.iter().enumerate().skip(1) {
            if !self.clashes(place) && self.inodes.is_first(place) && self.link_or_node(place, entry)? {
                self.set_xattrs(place, entry);
                self.metadata(place, None)?;
            }
        }
        for place in (1..self.tree.entries.len()).filter(|place| !self.inodes.is_first(*place) && !self.clashes(*place))
        {
            let made = self.target.create_hard_link(place, self.inodes.first[place]);
            if self.entry_done(place, "make the hard link", made)? {
                self.report().links += 1;
            }
        }
        Ok(())
    }

    /// Whether there was one to be made, and it was.
    fn link_or_node(&self, place: usize, entry: &Entry) -> Result<bool, Error> {
        match entry.unix.map(|unix| unix.mode & S_IFMT) {
            // A reparse point is made of a file when all else is there.
            _ if entry.reparse.is_some() && self.target.is_ntfs => Ok(false),
            _ if entry.reparse.is_some() => self.symbolic_link(place, entry),
            None | Some(0 | S_IFREG | S_IFLNK) => Ok(false),
            Some(_) if entry.is_folder() => Ok(false),
            Some(_) => {
                let unix = entry.unix.unwrap_or_default();
                let made = self.target.create_node(place, unix.mode, unix.device);
                if made.as_ref().err().and_then(io::Error::raw_os_error) == Some(libc::EPERM) {
                    self.not_held("devices");
                    return Ok(false);
                }
                self.entry_done(place, "make the device or pipe", made)
            }
        }
    }

    /// What was there before may have attributes that the image has not.
    fn drop_other_xattrs(&self, place: usize) {
        if self.target.is_fresh {
            return;
        }
        let own = &self.tree.entries[place].xattrs;
        for name in self.target.xattr_names(place).unwrap_or_default() {
            let is_own = own.iter().any(|xattr| xattr.name == name.as_bytes());
            let is_kept = KEPT_XATTRS.iter().any(|kept| name.as_bytes().starts_with(kept));
            if !is_own && !is_kept && self.target.remove_xattr(place, &name).is_err() {
                self.not_held("removal of extended attributes");
            }
        }
    }

    fn set_xattrs(&self, place: usize, entry: &Entry) {
        if !self.target.is_ntfs {
            self.drop_other_xattrs(place);
        }
        for xattr in entry.xattrs.iter().filter(|_| !self.target.is_ntfs) {
            if self.target.set_xattr(place, &xattr.name, &xattr.value).is_err() {
                self.not_held("extended attributes");
            }
        }
    }

    fn symbolic_link(&self, place: usize, entry: &Entry) -> Result<bool, Error> {
        let Some(reparse) = entry.reparse else { return Ok(false) };
        let link_data = self.link_data.lock().unwrap_or_else(PoisonError::into_inner);
        let data = link_data.get(&reparse.data).map_or(&[][..], Vec::as_slice);
        let Some(link) = reparse::link_target(reparse.tag, data) else {
            self.not_held("reparse points that are no links");
            return Ok(false);
        };
        let made = self.target.create_link(place, &link);
        let made = self.entry_done(place, "make the symbolic link", made)?;
        self.report().links += u64::from(made);
        Ok(made)
    }

    /// From the innermost outwards: making things in a folder changes its time.
    pub fn folder_metadata(&self) -> Result<(), Error> {
        for place in (0..self.tree.entries.len()).rev().filter(|place| !self.clashes(*place)) {
            let entry = &self.tree.entries[place];
            if entry.is_folder() && entry.reparse.is_none() {
                self.set_xattrs(place, entry);
                self.metadata(place, None)?;
            }
            if self.target.is_ntfs {
                self.ntfs_metadata(place);
            }
        }
        Ok(())
    }
}

fn is_encrypted(entry: &Entry) -> bool {
    entry.attributes & ATTRIBUTE_ENCRYPTED != 0 && !entry.is_folder()
}

/// A file with content, or an empty one.
pub(super) fn is_regular(entry: &Entry) -> bool {
    let kind = entry.unix.map_or(S_IFREG, |unix| unix.mode & S_IFMT);
    !entry.is_folder() && (entry.reparse.is_none() || entry.content != Sha1::ZERO) && (kind == S_IFREG || kind == 0)
}
