//! A site's folder: database, keys, content store, boot files.
//!
//! ```text
//! remint.toml      configuration (optional)
//! remint.sqlite    database
//! keys/            authority.key authority.pem signing.pk8 vault.key; readable by the site's user alone
//! audit.head       where the audit log ended a minute ago, signed
//! store/           content store: packs, versions, tags
//! boot/            boot environments, `current` is served
//! control.sock     entrance for commands on this host while the appliance runs
//! ```

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::access::authority::Authority;
use crate::access::signing::SigningKey;
use crate::access::vault::{self, Vault};
use crate::access::{self, authority, signing};
use crate::config::Written;
use crate::db::{self, Db};
use crate::dhcp;
use crate::fleet;
use crate::imaging;
use crate::imaging::store::local::LocalStore;
use crate::inventory;
use crate::software;
use crate::stdx::hint::Hint;
use crate::stdx::time::{Clock, SystemClock};
use crate::tasksequence;

/// Every subject's tables, oldest subject first.
const MIGRATIONS: &[&[db::Migration]] = &[
    access::db::MIGRATIONS,
    fleet::db::MIGRATIONS,
    fleet::room::db::MIGRATIONS,
    dhcp::db::MIGRATIONS,
    tasksequence::db::MIGRATIONS,
    inventory::db::MIGRATIONS,
    software::db::MIGRATIONS,
];

pub struct Site {
    pub folder: PathBuf,
    pub db: Arc<Db>,
    pub store: Arc<LocalStore>,
    pub authority: Arc<Authority>,
    pub signing: Arc<SigningKey>,
    /// Opens what is sealed in the database.
    pub vault: Arc<Vault>,
    pub written: Written,
    pub clock: Arc<dyn Clock>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} is a site already")]
    Exists(PathBuf),
    #[error("{0} is not a site: it has no remint.sqlite")]
    NotASite(PathBuf),
    #[error("{path}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path}: {detail}")]
    Configuration { path: PathBuf, detail: String },
    #[error(transparent)]
    Db(#[from] db::Error),
    #[error(transparent)]
    Authority(#[from] authority::Error),
    #[error(transparent)]
    Store(#[from] imaging::error::Error),
    #[error(transparent)]
    Signing(#[from] signing::Error),
    #[error(transparent)]
    Vault(#[from] vault::Error),
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Error::Exists(_) => {
                Some("`remint serve` runs it; give another folder with --data to make another site".into())
            }
            Error::NotASite(_) => Some("`remint init` makes one; --data or REMINT_DATA names its folder".into()),
            Error::Configuration { .. } => {
                Some("docs/reference/configuration.md lists every key with its default".into())
            }
            Error::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run it as the user who owns the site's folder, or as root".into())
            }
            Error::Db(error) => error.hint(),
            Error::Store(error) => error.hint(),
            Error::Vault(error) => error.hint(),
            _ => None,
        }
    }
}

impl Site {
    /// Makes the folder, the keys and the database. What it made is removed again when it fails half-way.
    pub fn create(folder: &Path, name: &str) -> Result<Site, Error> {
        if folder.join("remint.sqlite").exists() || folder.join("keys").exists() {
            return Err(Error::Exists(folder.to_owned()));
        }
        let clock = SystemClock;
        let make = |path: PathBuf| {
            DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(|source| Error::File { path, source })
        };
        let fill = || -> Result<(), Error> {
            let keys = folder.join("keys");
            make(keys.clone())?;
            make(folder.join("boot"))?;
            LocalStore::create(&folder.join("store"))?;
            Authority::create(&keys, name, clock.now())?;
            SigningKey::create(&keys.join("signing.pk8"))?;
            Vault::open(&keys.join("vault.key"))?;
            Db::open(&folder.join("remint.sqlite"), MIGRATIONS, clock.now())?;
            Ok(())
        };
        make(folder.to_owned())?;
        if let Err(error) = fill() {
            let _ = fs::remove_dir_all(folder.join("keys"));
            let _ = fs::remove_dir_all(folder.join("store"));
            let _ = fs::remove_file(folder.join("remint.sqlite"));
            return Err(error);
        }
        Site::open(folder, None)
    }

    /// Opens a site; `configuration` names another file than its `remint.toml`.
    pub fn open(folder: &Path, configuration: Option<&Path>) -> Result<Site, Error> {
        let folder = folder.canonicalize().map_err(|_| Error::NotASite(folder.to_owned()))?;
        if !folder.join("remint.sqlite").is_file() {
            return Err(Error::NotASite(folder));
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let keys = folder.join("keys");
        let written = configuration_file(&folder, configuration)?;
        Ok(Site {
            db: Arc::new(Db::open(&folder.join("remint.sqlite"), MIGRATIONS, clock.now())?),
            store: Arc::new(super::store::open(&folder, &written.store)?),
            authority: Arc::new(Authority::open(&keys)?),
            signing: Arc::new(SigningKey::open(&keys.join("signing.pk8"))?),
            vault: Arc::new(Vault::open(&keys.join("vault.key"))?),
            written,
            folder,
            clock,
        })
    }

    pub fn control_socket(&self) -> PathBuf {
        control_socket(&self.folder)
    }

    pub fn boot_folder(&self) -> PathBuf {
        self.folder.join("boot")
    }
}

pub fn control_socket(folder: &Path) -> PathBuf {
    folder.join("control.sock")
}

fn configuration_file(folder: &Path, given: Option<&Path>) -> Result<Written, Error> {
    let path = given.map_or_else(|| folder.join("remint.toml"), Path::to_owned);
    match fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text)
            .map_err(|error| Error::Configuration { path, detail: error.to_string().trim_end().to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound && given.is_none() => Ok(Written::default()),
        Err(source) => Err(Error::File { path, source }),
    }
}
