//! A whole site, copied while it runs, and put back.
//!
//! ```text
//! BACKUP/format                   "remint backup 1\n"
//! BACKUP/store/                   a content store with packs alone: every snapshot shares them
//! BACKUP/2026-11-26T22-10-03Z/    a snapshot: the site's folder without packs, and
//!     snapshot.json               which packs it needs
//!     remint.sqlite               the database as it was at one instant
//! ```
//!
//! Packs never change, so a second backup into the same folder copies only what is new. The store is held as an upload holds
//! it: versions may be published meanwhile, nothing that the snapshot needs can go. A snapshot appears under its name when
//! everything in it is durable; a restored site likewise.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::site::{self, Site, control_socket};
use crate::db;
use crate::imaging;
use crate::imaging::store::format::PackId;
use crate::imaging::store::local::LocalStore;
use crate::imaging::store::verify::faults_of_pack;
use crate::stdx::file::{sync_folder, write_whole};
use crate::stdx::hint::{Hint, chain};
use crate::stdx::monitor::Progress;
use crate::stdx::owner::adopt;
use crate::stdx::time::Timestamp;

const FORMAT: &str = "remint backup 1\n";
const SNAPSHOT_FILE: &str = "snapshot.json";
const DATABASE: &str = "remint.sqlite";
/// Of the site's folder, what a snapshot has in another form or must not have.
const NOT_COPIED: &[&str] = &["remint.sqlite", "remint.sqlite-wal", "remint.sqlite-shm", "control.sock"];
/// Of the store's folder: packs are shared, the rest lives as long as the process that made it.
const NOT_COPIED_OF_STORE: &[&str] = &["packs", "tmp", "lock"];

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}")]
    File { path: PathBuf, source: io::Error },
    #[error("{0} holds something else than backups")]
    NotABackup(PathBuf),
    #[error("{0} lies in the folder of the site")]
    Inside(PathBuf),
    #[error("there is no whole snapshot in {0}")]
    NoSnapshot(PathBuf),
    #[error("{0} is there already")]
    Exists(PathBuf),
    #[error("the snapshot needs pack {0}, which is not in the backup")]
    MissingPack(PackId),
    #[error(transparent)]
    Db(#[from] db::Error),
    #[error(transparent)]
    Store(#[from] imaging::error::Error),
    #[error(transparent)]
    Site(#[from] site::Error),
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Error::NotABackup(_) => Some("name an empty folder, or one that `remint backup` has filled before".into()),
            Error::Inside(_) => Some("keep backups on another disk, at least in another folder".into()),
            Error::NoSnapshot(_) => {
                Some("name the folder that was given to `remint backup`, or one snapshot in it".into())
            }
            Error::Exists(_) => Some("name a folder with --data that does not exist yet".into()),
            Error::MissingPack(_) => Some("restore another snapshot, or bring the pack back from elsewhere".into()),
            Error::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("the disk is full: make room and start again; earlier snapshots are whole".into())
            }
            Error::File { .. } => None,
            Error::Db(error) => error.hint(),
            Error::Store(error) => error.hint(),
            Error::Site(error) => error.hint(),
        }
    }
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}

/// What a snapshot says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    pub made_at: Timestamp,
    /// Version of the program that made it.
    pub remint: String,
    pub packs: Vec<PackId>,
}

/// What a backup came to.
#[derive(Debug, Serialize)]
pub struct Made {
    pub snapshot: PathBuf,
    pub packs: u64,
    pub copied_packs: u64,
    pub copied_bytes: u64,
    pub removed_snapshots: u64,
    /// Damage of the site's own store that was found while copying; the snapshot has what is sound.
    pub damaged: Vec<String>,
}

/// Copies `site` to a new snapshot under `folder` and removes the oldest so that `keep` remain (0 keeps all).
pub fn backup(site: &Site, folder: &Path, keep: usize, progress: &Progress) -> Result<Made, Error> {
    let pool = open_folder(folder)?;
    if folder.canonicalize().map_err(file(folder))?.starts_with(&site.folder) {
        return Err(Error::Inside(folder.to_owned()));
    }
    let name = stamp(site.clock.now());
    let place = folder.join(&name);
    if place.exists() {
        return Err(Error::Exists(place));
    }
    let _held = site.store.lock_shared()?;
    let fresh = folder.join(format!(".{name}.new"));
    let _ = fs::remove_dir_all(&fresh);
    copy_tree(&site.folder, &fresh, NOT_COPIED)?;
    let database = fresh.join(DATABASE);
    site.db.backup(&database)?;
    adopt(&database).and_then(|()| File::open(&database)?.sync_all()).map_err(file(&database))?;
    let packs = site.store.packs()?;
    let (copied, damaged) = copy_packs(&site.store, &pool, &packs, progress)?;
    let snapshot = Snapshot { made_at: site.clock.now(), remint: env!("CARGO_PKG_VERSION").to_owned(), packs };
    let text = serde_json::to_vec_pretty(&snapshot).map_err(|error| file(&fresh)(error.into()))?;
    write_whole(&fresh.join(SNAPSHOT_FILE), &text).map_err(file(&fresh))?;
    fs::rename(&fresh, &place).and_then(|()| sync_folder(folder)).map_err(file(&place))?;
    let removed_snapshots = prune(folder, &pool, keep)?;
    let copied_bytes = Progress::get(&progress.done_bytes);
    Ok(Made {
        snapshot: place,
        packs: snapshot.packs.len() as u64,
        copied_packs: copied,
        copied_bytes,
        removed_snapshots,
        damaged,
    })
}

/// Makes the site in `data`, which must not exist, from a backup's folder (its newest snapshot) or from one snapshot.
pub fn restore(from: &Path, data: &Path, progress: &Progress) -> Result<Snapshot, Error> {
    if data.exists() {
        return Err(Error::Exists(data.to_owned()));
    }
    let place = match from.join(SNAPSHOT_FILE).exists() {
        true => from.to_owned(),
        false => snapshots(from)?.pop().ok_or_else(|| Error::NoSnapshot(from.to_owned()))?,
    };
    let place = place.canonicalize().map_err(file(&place))?;
    let snapshot = read_snapshot(&place)?;
    let pool = place.parent().ok_or_else(|| Error::NoSnapshot(place.clone()))?.join("store");
    let pool = LocalStore::open(&pool)?;
    let name = data.file_name().ok_or_else(|| Error::Exists(data.to_owned()))?.to_string_lossy().into_owned();
    let fresh = data.with_file_name(format!(".{name}.new"));
    let _ = fs::remove_dir_all(&fresh);
    copy_tree(&place, &fresh, &[SNAPSHOT_FILE])?;
    for name in ["packs", "tmp"] {
        let folder = fresh.join("store").join(name);
        fs::create_dir_all(&folder).and_then(|()| adopt(&folder)).map_err(file(&folder))?;
    }
    let store = LocalStore::open(&fresh.join("store"))?;
    let missing = |pack: &&PackId| !pool.pack_path(**pack).exists();
    if let Some(pack) = snapshot.packs.iter().find(missing) {
        return Err(Error::MissingPack(*pack));
    }
    copy_packs(&pool, &store, &snapshot.packs, progress)?;
    let folder = data.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::rename(&fresh, data).and_then(|()| sync_folder(folder)).map_err(file(data))?;
    let _ = fs::remove_file(control_socket(data));
    Ok(snapshot)
}

/// The folder of backups as a store of packs; made when it is empty or absent.
fn open_folder(folder: &Path) -> Result<LocalStore, Error> {
    use std::os::unix::fs::DirBuilderExt;
    let format = folder.join("format");
    if !format.exists() {
        let empty = match fs::read_dir(folder) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(file(folder)(error)),
        };
        if !empty {
            return Err(Error::NotABackup(folder.to_owned()));
        }
        // A backup holds the site's keys: nobody else may look.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(file(folder))?;
        LocalStore::create(&folder.join("store"))?;
        write_whole(&format, FORMAT.as_bytes()).map_err(file(&format))?;
    }
    match fs::read_to_string(&format).map_err(file(&format))? == FORMAT {
        true => Ok(LocalStore::open(&folder.join("store"))?),
        false => Err(Error::NotABackup(folder.to_owned())),
    }
}

/// Copies the packs that `to` lacks and reads each copy back; how many were copied, and what of them is damaged.
fn copy_packs(
    from: &LocalStore,
    to: &LocalStore,
    packs: &[PackId],
    progress: &Progress,
) -> Result<(u64, Vec<String>), Error> {
    let bytes = |store: &LocalStore, pack: PackId| fs::metadata(store.pack_path(pack)).map(|found| found.len()).ok();
    let wanted = packs.iter().filter(|pack| bytes(to, **pack).is_none() || bytes(to, **pack) != bytes(from, **pack));
    let wanted: Vec<PackId> = wanted.copied().collect();
    let total: u64 = wanted.iter().filter_map(|pack| bytes(from, *pack)).sum();
    Progress::add(&progress.total_bytes, total);
    let mut damaged = Vec::new();
    for pack in &wanted {
        let place = to.pack_path(*pack);
        let copied = copy_durably(&from.pack_path(*pack), &place)?;
        Progress::add(&progress.done_bytes, copied);
        damaged.extend(faults_of_pack(to, *pack).iter().map(|fault| chain(fault)));
    }
    Ok((wanted.len() as u64, damaged))
}

fn copy_durably(from: &Path, to: &Path) -> Result<u64, Error> {
    let folder = to.parent().unwrap_or(Path::new("."));
    if !folder.is_dir() {
        fs::create_dir_all(folder).and_then(|()| adopt(folder)).map_err(file(folder))?;
    }
    let fresh = to.with_extension("new");
    let copy = || -> io::Result<u64> {
        let bytes = fs::copy(from, &fresh)?;
        adopt(&fresh)?;
        File::open(&fresh)?.sync_all()?;
        fs::rename(&fresh, to)?;
        sync_folder(folder)?;
        Ok(bytes)
    };
    copy().map_err(file(to))
}

/// Copies folders, files and links, with their permissions, but for the names in `without` at the top and the store's packs.
fn copy_tree(from: &Path, to: &Path, without: &[&str]) -> Result<(), Error> {
    let permissions = fs::metadata(from).map_err(file(from))?.permissions();
    fs::create_dir_all(to).and_then(|()| adopt(to)).map_err(file(to))?;
    for entry in fs::read_dir(from).map_err(file(from))? {
        let entry = entry.map_err(file(from))?;
        let name = entry.file_name();
        if without.iter().any(|other| name == *other) || name.to_string_lossy().starts_with('.') {
            continue;
        }
        let (source, target) = (entry.path(), to.join(&name));
        let kind = entry.file_type().map_err(file(&source))?;
        if kind.is_symlink() {
            let link = fs::read_link(&source).map_err(file(&source))?;
            std::os::unix::fs::symlink(link, &target).map_err(file(&target))?;
        } else if kind.is_dir() {
            let deeper: &[&str] = if name == "store" { NOT_COPIED_OF_STORE } else { &[] };
            copy_tree(&source, &target, deeper)?;
        } else if kind.is_file() {
            copy_durably(&source, &target)?;
        }
    }
    fs::set_permissions(to, permissions).and_then(|()| sync_folder(to)).map_err(file(to))
}

/// The whole snapshots of a folder, oldest first.
fn snapshots(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(folder).map_err(file(folder))?;
    let places = entries.flatten().map(|entry| entry.path()).filter(|path| path.join(SNAPSHOT_FILE).is_file());
    let hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let mut places: Vec<PathBuf> = places.filter(|path| !hidden(path)).collect();
    places.sort();
    Ok(places)
}

fn read_snapshot(place: &Path) -> Result<Snapshot, Error> {
    let path = place.join(SNAPSHOT_FILE);
    let text = fs::read(&path).map_err(file(&path))?;
    serde_json::from_slice(&text).map_err(|error| file(&path)(error.into()))
}

/// Removes all but the newest `keep` snapshots, then the packs that none of those needs.
fn prune(folder: &Path, pool: &LocalStore, keep: usize) -> Result<u64, Error> {
    let places = snapshots(folder)?;
    let old = if keep == 0 { 0 } else { places.len().saturating_sub(keep) };
    for place in &places[..old] {
        fs::remove_dir_all(place).map_err(file(place))?;
    }
    if old > 0 {
        let mut needed = std::collections::HashSet::new();
        for place in &places[old..] {
            needed.extend(read_snapshot(place)?.packs);
        }
        for pack in pool.packs()?.into_iter().filter(|pack| !needed.contains(pack)) {
            let path = pool.pack_path(pack);
            fs::remove_file(&path).map_err(file(&path))?;
        }
    }
    Ok(old as u64)
}

/// `2026-11-26T22-10-03Z`: sorts by time, and is a plain file name everywhere.
/// `2026-11-26T22-10-03Z`: sorts by time, and any file system takes it.
pub(super) fn stamp(now: Timestamp) -> String {
    const FORMAT: &[time::format_description::FormatItem<'static>] =
        time::macros::format_description!("[year]-[month]-[day]T[hour]-[minute]-[second]Z");
    let instant = time::OffsetDateTime::from_unix_timestamp(now.milliseconds() / 1000).ok();
    instant.and_then(|instant| instant.format(FORMAT).ok()).unwrap_or_else(|| now.milliseconds().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imaging::import::{Importer, Source};
    use crate::imaging::store::versions::{Reference, Version};

    fn import(site: &Site, seed: u32) -> Version {
        let disk = site.folder.with_file_name(format!("disk-{seed}"));
        let bytes: Vec<u8> = (0..200_000u32).flat_map(|n| n.wrapping_mul(n ^ seed).to_le_bytes()).collect();
        fs::write(&disk, bytes).unwrap();
        let progress = Progress::default();
        let importer = Importer { store: &site.store, key: &site.signing, now: site.clock.now(), progress: &progress };
        importer.file("payload", Source::raw(&disk).unwrap()).unwrap().version
    }

    fn verified(site: &Site, version: &str) -> usize {
        let version = site.store.resolve(&Reference::parse(version).unwrap()).unwrap();
        let manifest = site.store.manifest(&version).unwrap().verify(&site.signing.public()).unwrap();
        let faults = imaging::store::verify::verify(&site.store, &manifest, &Progress::default()).unwrap();
        assert!(faults.is_empty(), "{faults:?}");
        manifest.extents.len()
    }

    #[test]
    fn a_site_is_restored_as_it_was_and_a_second_backup_copies_only_what_is_new() {
        let folder = tempfile::tempdir().unwrap();
        let (data, backups) = (folder.path().join("site"), folder.path().join("backups"));
        let site = Site::create(&data, "lab").unwrap();
        import(&site, 1);
        site.store.tag(&site.store.resolve(&Reference::parse("payload").unwrap()).unwrap(), "prod").unwrap();
        let first = backup(&site, &backups, 0, &Progress::default()).unwrap();
        assert_eq!((first.copied_packs, first.damaged.len()), (first.packs, 0));
        // Two snapshots within a second would have one name.
        fs::rename(&first.snapshot, backups.join("2020-01-01T00-00-00Z")).unwrap();
        import(&site, 2);
        let second = backup(&site, &backups, 0, &Progress::default()).unwrap();
        assert!(second.copied_packs < second.packs && second.copied_packs > 0, "{second:?}");

        let old = folder.path().join("old");
        restore(&backups.join("2020-01-01T00-00-00Z"), &old, &Progress::default()).unwrap();
        let old = Site::open(&old, None).unwrap();
        assert!(verified(&old, "payload@prod") > 0);
        assert!(old.store.resolve(&Reference::parse("payload@2").unwrap()).is_err());
        assert_eq!(old.authority.certificate_pem(), site.authority.certificate_pem());
        let new = folder.path().join("new");
        restore(&backups, &new, &Progress::default()).unwrap();
        assert!(verified(&Site::open(&new, None).unwrap(), "payload@2") > 0);
        assert!(matches!(restore(&backups, &new, &Progress::default()), Err(Error::Exists(_))));
    }

    #[test]
    fn old_snapshots_go_with_the_packs_that_only_they_needed() {
        let folder = tempfile::tempdir().unwrap();
        let (data, backups) = (folder.path().join("site"), folder.path().join("backups"));
        let site = Site::create(&data, "lab").unwrap();
        let version = import(&site, 1);
        let first = backup(&site, &backups, 0, &Progress::default()).unwrap();
        fs::rename(&first.snapshot, backups.join("2020-01-01T00-00-00Z")).unwrap();
        site.store.remove_version(&version).unwrap();
        import(&site, 2);
        imaging::store::gc::gc(&site.store, &site.signing.public(), site.clock.now(), 0).unwrap();
        let second = backup(&site, &backups, 1, &Progress::default()).unwrap();
        assert_eq!(second.removed_snapshots, 1);
        let pool = LocalStore::open(&backups.join("store")).unwrap();
        assert_eq!(pool.packs().unwrap(), site.store.packs().unwrap());
        restore(&backups, &folder.path().join("new"), &Progress::default()).unwrap();
    }

    #[test]
    fn what_would_not_be_a_backup_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::create(&folder.path().join("site"), "lab").unwrap();
        let inside = backup(&site, &folder.path().join("site/backups"), 0, &Progress::default());
        assert!(matches!(inside, Err(Error::Inside(_))), "{inside:?}");
        let foreign = backup(&site, folder.path(), 0, &Progress::default());
        assert!(matches!(foreign, Err(Error::NotABackup(_))), "{foreign:?}");
        let nothing = restore(folder.path(), &folder.path().join("new"), &Progress::default());
        assert!(matches!(nothing, Err(Error::NoSnapshot(_))), "{nothing:?}");
    }
}
