//! Writes an image's files into a folder: folders first, contents as they come out of the WIM, then links, and folders'
//! own times last. What the target cannot hold is counted, never dropped silently.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::Error;
use super::extract::{self, Sink};
use super::format::Sha1;
use super::reader::{Blob, OnDamage, Wim};
use super::reparse;
use super::target::{Target, set_open_xattr};
use super::tree::{ATTRIBUTE_ENCRYPTED, Entry, Tree, name_bytes};
use crate::stdx::monitor::Progress;

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
/// Attributes that say nothing that a Linux file system does not: normal, archive, folder, reparse point.
const ATTRIBUTES_IMPLIED: u32 = 0x4b0;

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

/// Applies image `index` of `wim` to the folder `path`.
pub fn apply(
    wim: &Wim,
    index: u32,
    path: &Path,
    on_damage: OnDamage,
    workers: usize,
    progress: &Progress,
) -> Result<Report, Error> {
    let (tree, faults) = wim.tree(index, on_damage)?;
    let cannot = |source| Error::Target { action: "open the folder", path: path.display().to_string(), source };
    let target = Target::open(path, &tree).map_err(cannot)?;
    let apply = Apply {
        wim,
        tree: &tree,
        inodes: Inodes::new(&tree),
        clashes: clashes(&tree, target.folds_case),
        target,
        on_damage,
        report: Mutex::default(),
        open: Mutex::default(),
        link_data: Mutex::default(),
    };
    for fault in faults {
        let error = Error::Metadata { image: index, offset: fault.offset, len: 0, what: fault.what };
        apply.report().faults.push(error);
    }
    apply.check_room().map_err(cannot)?;
    apply.folders()?;
    apply.contents(workers, progress)?;
    apply.links()?;
    apply.folder_metadata()?;
    Ok(apply.report.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Entries that are names of one file. The first of a group stands for it.
struct Inodes {
    /// For each entry the first of its group.
    first: Vec<usize>,
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

    fn is_first(&self, place: usize) -> bool {
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
#[derive(Clone)]
enum Use {
    Content(usize),
    /// A stream of an entry, by its place among the named ones.
    Stream(usize, usize),
    LinkData,
}

/// Files with their places in the tree.
type OpenFiles = Arc<Vec<(usize, File)>>;

struct Apply<'a> {
    wim: &'a Wim,
    tree: &'a Tree,
    inodes: Inodes,
    clashes: HashSet<usize>,
    target: Target<'a>,
    on_damage: OnDamage,
    report: Mutex<Report>,
    /// Files of contents that come in pieces.
    open: Mutex<HashMap<Sha1, OpenFiles>>,
    link_data: Mutex<HashMap<Sha1, Vec<u8>>>,
}

impl Apply<'_> {
    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn not_held(&self, what: &'static str) {
        *self.report().not_held.entry(what).or_default() += 1;
    }

    /// Takes an error about an entry: it ends the work, or is kept and the work goes on without the entry.
    fn passed_over(&self, error: Error) -> Result<(), Error> {
        if self.on_damage == OnDamage::Stop {
            return Err(error);
        }
        self.report().faults.push(error);
        Ok(())
    }

    fn entry_done(&self, place: usize, action: &'static str, done: io::Result<()>) -> Result<bool, Error> {
        let Err(source) = done else { return Ok(true) };
        if matches!(source.raw_os_error(), Some(libc::ENAMETOOLONG | libc::EINVAL | libc::EILSEQ)) {
            self.not_held("names that the target cannot have");
            return Ok(false);
        }
        self.passed_over(Error::Target { action, path: self.tree.path_text(place), source })?;
        Ok(false)
    }

    fn check_room(&self) -> io::Result<()> {
        let contents: HashSet<usize> =
            (0..self.tree.entries.len()).filter(|place| self.inodes.is_first(*place)).collect();
        let bytes =
            |place: &usize| self.wim.blob(&self.tree.entries[*place].content).map_or(0, |blob| blob.plain_bytes);
        let needed: u64 = contents.iter().map(bytes).fold(0, u64::saturating_add);
        let free = self.target.free_bytes()?;
        if needed > free {
            let text = format!("the image needs {needed} bytes and the target has {free}");
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        Ok(())
    }

    /// Whether the entry is left out because another one has its name.
    fn clashes(&self, place: usize) -> bool {
        self.clashes.contains(&place)
    }

    fn folders(&self) -> Result<(), Error> {
        for (place, entry) in self.tree.entries.iter().enumerate().skip(1) {
            if self.clashes(place) {
                self.not_held("names that another file has there");
            } else if entry.is_folder() && (entry.reparse.is_none() || self.target.is_ntfs) {
                let made = self.target.create_folder(place);
                if self.entry_done(place, "make the folder", made)? {
                    self.report().folders += 1;
                }
            }
        }
        Ok(())
    }

    fn contents(&self, workers: usize, progress: &Progress) -> Result<(), Error> {
        let mut uses: HashMap<Sha1, Vec<Use>> = HashMap::new();
        for (place, entry) in self.tree.entries.iter().enumerate() {
            if self.clashes(place) || !self.inodes.is_first(place) {
                continue;
            }
            self.uses_of(place, entry, &mut uses)?;
        }
        let mut blobs = Vec::with_capacity(uses.len());
        for (hash, users) in &uses {
            match self.wim.blob_place(hash) {
                Some(place) => blobs.push(place),
                None => {
                    let place = users.iter().find_map(|user| match user {
                        Use::Content(place) | Use::Stream(place, _) => Some(*place),
                        Use::LinkData => None,
                    });
                    let path = place.map_or_else(|| "a link".to_owned(), |place| self.tree.path_text(place));
                    self.passed_over(Error::Missing { hash: *hash, path })?;
                }
            }
        }
        extract::extract(self.wim, &blobs, workers, &Writer { apply: self, uses }, progress)
    }

    fn uses_of(&self, place: usize, entry: &Entry, uses: &mut HashMap<Sha1, Vec<Use>>) -> Result<(), Error> {
        if let Some(reparse) = entry.reparse.filter(|reparse| reparse.data != Sha1::ZERO) {
            uses.entry(reparse.data).or_default().push(Use::LinkData);
        }
        for (stream, named) in entry.named_streams.iter().enumerate() {
            if !self.target.is_ntfs {
                self.not_held("alternate data streams");
            } else if named.content != Sha1::ZERO {
                uses.entry(named.content).or_default().push(Use::Stream(place, stream));
            }
        }
        if entry.attributes & ATTRIBUTE_ENCRYPTED != 0 && !entry.is_folder() {
            self.not_held("files encrypted by Windows");
        } else if is_regular(entry) {
            if entry.content == Sha1::ZERO {
                let made = self.target.create_file(place);
                if let Some(file) = self.opened(place, made)? {
                    self.finish_file(place, &file)?;
                }
            } else {
                uses.entry(entry.content).or_default().push(Use::Content(place));
            }
        }
        Ok(())
    }

    fn opened(&self, place: usize, made: io::Result<File>) -> Result<Option<File>, Error> {
        match made {
            Ok(file) => Ok(Some(file)),
            Err(error) => self.entry_done(place, "make the file", Err(error)).map(|_| None),
        }
    }

    /// All that is not content, while the file is still open.
    fn finish_file(&self, place: usize, file: &File) -> Result<(), Error> {
        for xattr in &self.tree.entries[place].xattrs {
            if set_open_xattr(file.as_fd(), &xattr.name, &xattr.value).is_err() {
                self.not_held("extended attributes");
            }
        }
        self.report().files += 1;
        self.metadata(place)
    }

    /// Owner, permissions, times and what is NTFS's own. Attributes of an open file have been set already.
    fn metadata(&self, place: usize) -> Result<(), Error> {
        let entry = &self.tree.entries[place];
        if let Some(unix) = entry.unix {
            if self.target.set_owner(place, unix.uid, unix.gid).is_err() {
                self.not_held("owners");
            }
            if unix.mode & S_IFMT != S_IFLNK && self.target.set_mode(place, unix.mode).is_err() {
                self.not_held("permissions");
            }
            // A new owner takes file capabilities away.
            for xattr in entry.xattrs.iter().filter(|xattr| xattr.name == b"security.capability") {
                if self.target.set_xattr(place, &xattr.name, &xattr.value).is_err() {
                    self.not_held("extended attributes");
                }
            }
        }
        if self.target.is_ntfs {
            self.ntfs_metadata(place, entry);
        } else {
            self.count_windows_metadata(entry);
        }
        let timed = self.target.set_times(place);
        self.entry_done(place, "set the times of", timed)?;
        if self.target.is_ntfs {
            let times = [entry.created, entry.written, entry.accessed, entry.written].map(u64::to_be_bytes).concat();
            self.ntfs_attribute(place, b"system.ntfs_times_be", &times, "creation times");
        }
        Ok(())
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

    /// Through ntfs-3g's attributes, see ntfs-3g(8), "system extended attributes".
    fn ntfs_metadata(&self, place: usize, entry: &Entry) {
        if let Some(descriptor) = entry.descriptor {
            self.ntfs_attribute(place, b"system.ntfs_acl", &self.tree.descriptors[descriptor], "security descriptors");
        }
        if !entry.short_name.is_empty() && place != 0 {
            self.ntfs_attribute(place, b"system.ntfs_dos_name", &name_bytes(&entry.short_name), "short names");
        }
        if !entry.object_id.is_empty() {
            self.ntfs_attribute(place, b"system.ntfs_object_id", &entry.object_id, "object ids");
        }
        self.ntfs_attribute(place, b"system.ntfs_attrib_be", &entry.attributes.to_be_bytes(), "Windows attributes");
    }

    fn ntfs_attribute(&self, place: usize, name: &[u8], value: &[u8], what: &'static str) {
        if self.target.set_xattr(place, name, value).is_err() {
            self.not_held(what);
        }
    }

    /// Links of both kinds and special files, once all contents are there.
    fn links(&self) -> Result<(), Error> {
        for (place, entry) in self.tree.entries.iter().enumerate().skip(1) {
            if self.clashes(place) || !self.inodes.is_first(place) {
                continue;
            }
            let made = match entry.unix.map(|unix| unix.mode & S_IFMT) {
                _ if entry.reparse.is_some() => self.reparse_point(place, entry)?,
                None | Some(0 | S_IFREG | S_IFLNK) => continue,
                Some(_) if entry.is_folder() => continue,
                Some(_) => {
                    let unix = entry.unix.unwrap_or_default();
                    let made = self.target.create_node(place, unix.mode, unix.device);
                    match made.as_ref().err().and_then(io::Error::raw_os_error) {
                        Some(libc::EPERM) => {
                            self.not_held("devices");
                            false
                        }
                        _ => self.entry_done(place, "make the device or pipe", made)?,
                    }
                }
            };
            if made {
                self.set_xattrs(place, entry);
                self.metadata(place)?;
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

    fn set_xattrs(&self, place: usize, entry: &Entry) {
        for xattr in &entry.xattrs {
            if self.target.set_xattr(place, &xattr.name, &xattr.value).is_err() {
                self.not_held("extended attributes");
            }
        }
    }

    fn reparse_point(&self, place: usize, entry: &Entry) -> Result<bool, Error> {
        let Some(reparse) = entry.reparse else { return Ok(false) };
        let link_data = self.link_data.lock().unwrap_or_else(PoisonError::into_inner);
        let data = link_data.get(&reparse.data).map_or(&[][..], Vec::as_slice);
        if self.target.is_ntfs {
            if !entry.is_folder() && entry.content == Sha1::ZERO {
                let made = self.target.create_file(place);
                self.opened(place, made)?;
            }
            let mut whole = reparse.tag.to_le_bytes().to_vec();
            whole.extend((data.len() as u16).to_le_bytes());
            whole.extend(reparse.reserved.to_le_bytes());
            whole.extend(data);
            self.ntfs_attribute(place, b"system.ntfs_reparse_data", &whole, "reparse points");
            return Ok(true);
        }
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
    fn folder_metadata(&self) -> Result<(), Error> {
        for place in (0..self.tree.entries.len()).rev() {
            let entry = &self.tree.entries[place];
            if entry.is_folder() && entry.reparse.is_none() && !self.clashes(place) {
                self.set_xattrs(place, entry);
                self.metadata(place)?;
            }
        }
        Ok(())
    }
}

/// A file with content, or an empty one.
fn is_regular(entry: &Entry) -> bool {
    let kind = entry.unix.map_or(S_IFREG, |unix| unix.mode & S_IFMT);
    !entry.is_folder() && (entry.reparse.is_none() || entry.content != Sha1::ZERO) && (kind == S_IFREG || kind == 0)
}

/// Puts contents where they belong.
struct Writer<'a, 'b> {
    apply: &'a Apply<'b>,
    uses: HashMap<Sha1, Vec<Use>>,
}

impl Writer<'_, '_> {
    fn uses(&self, blob: &Blob) -> &[Use] {
        self.uses.get(&blob.hash).map_or(&[], Vec::as_slice)
    }

    /// The files of a content that comes in pieces, made with its first piece.
    fn open(&self, blob: &Blob) -> Result<OpenFiles, Error> {
        let mut open = self.apply.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = open.get(&blob.hash) {
            return Ok(files.clone());
        }
        let mut files = Vec::new();
        for user in self.uses(blob) {
            match user {
                Use::Content(place) => {
                    let made = self.apply.target.create_file(*place);
                    files.extend(self.apply.opened(*place, made)?.map(|file| (*place, file)));
                }
                Use::Stream(..) => self.apply.not_held("alternate data streams over 64 KiB"),
                Use::LinkData => {}
            }
        }
        let files = Arc::new(files);
        open.insert(blob.hash, files.clone());
        Ok(files)
    }

    fn written(&self, place: usize, written: io::Result<()>) -> Result<(), Error> {
        let path = || self.apply.tree.path_text(place);
        written.map_err(|source| Error::Target { action: "write", path: path(), source })
    }
}

impl Sink for Writer<'_, '_> {
    fn whole(&self, blob: &Blob, content: &[u8]) -> Result<(), Error> {
        for user in self.uses(blob) {
            match user {
                Use::Content(place) => {
                    let made = self.apply.target.create_file(*place);
                    let Some(file) = self.apply.opened(*place, made)? else { continue };
                    self.written(*place, file.write_all_at(content, 0))?;
                    self.apply.finish_file(*place, &file)?;
                    self.apply.report().bytes += content.len() as u64;
                }
                Use::Stream(place, stream) => {
                    // ntfs-3g shows streams as attributes in the user namespace by default.
                    let mut name = b"user.".to_vec();
                    name.extend(name_bytes(&self.apply.tree.entries[*place].named_streams[*stream].name));
                    if self.apply.target.set_xattr(*place, &name, content).is_err() {
                        self.apply.not_held("alternate data streams");
                    }
                }
                Use::LinkData if blob.plain_bytes <= reparse::DATA_BYTES_MAX => {
                    let mut data = self.apply.link_data.lock().unwrap_or_else(PoisonError::into_inner);
                    data.insert(blob.hash, content.to_vec());
                }
                Use::LinkData => {}
            }
        }
        Ok(())
    }

    fn piece(&self, blob: &Blob, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        for (place, file) in self.open(blob)?.iter() {
            self.written(*place, file.write_all_at(bytes, offset))?;
        }
        Ok(())
    }

    fn checked(&self, blob: &Blob) -> Result<(), Error> {
        let files = self.open(blob)?;
        self.apply.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&blob.hash);
        for (place, file) in files.iter() {
            self.apply.finish_file(*place, file)?;
            self.apply.report().bytes += blob.plain_bytes;
        }
        Ok(())
    }

    fn damaged(&self, blob: &Blob, error: Error) -> Result<(), Error> {
        let files = self.apply.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&blob.hash);
        for (place, _) in files.iter().flat_map(|files| files.iter()) {
            // What is not what it should be must not look like a file of the image.
            let removed = self.apply.target.remove_file(*place);
            self.apply.entry_done(*place, "remove the damaged file", removed)?;
        }
        self.apply.passed_over(error)
    }
}
