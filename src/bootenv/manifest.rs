//! What a built boot environment consists of: `manifest.json` beside its files.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::debian::Package;
use super::modules::Flavour;
use crate::stdx::hex;

pub const FILE_NAME: &str = "manifest.json";
const VERSION: u32 = 1;

/// Written once, never edited. It holds no date: the same ingredients give the same manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format.
    pub version: u32,
    /// Name of the build: the first 16 digits of the SHA-256 over `files`.
    pub build: String,
    pub flavour: Flavour,
    /// What `uname -r` says in it.
    pub kernel_release: String,
    /// SHA-256 of `remint-agent`.
    pub agent_sha256: String,
    pub packages: Vec<Ingredient>,
    pub modules: usize,
    pub files: Vec<FileEntry>,
    /// What is different for arm64 machines, when there are files for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arm64: Option<Second>,
}

/// The boot environment of a second architecture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Second {
    pub kernel_release: String,
    /// None where no agent was at hand: then it starts and can do nothing.
    pub agent_sha256: Option<String>,
    pub modules: usize,
}

/// A Debian package that went into the build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingredient {
    pub name: String,
    pub version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    pub name: String,
    pub bytes: u64,
    pub sha256: String,
}

impl Ingredient {
    fn of(package: &Package) -> Ingredient {
        Ingredient { name: package.name.clone(), version: package.version.clone() }
    }
}

impl FileEntry {
    pub fn of(name: &str, content: &[u8]) -> FileEntry {
        FileEntry { name: name.to_owned(), bytes: content.len() as u64, sha256: sha256(content) }
    }
}

impl Manifest {
    /// A manifest over `files`, which are sorted by name here.
    pub fn new(
        flavour: Flavour,
        kernel_release: &str,
        agent: &[u8],
        packages: &[Package],
        modules: usize,
        mut files: Vec<FileEntry>,
    ) -> Manifest {
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let listing: String = files.iter().map(|file| format!("{} {}\n", file.sha256, file.name)).collect();
        let build = sha256(listing.as_bytes())[..16].to_owned();
        Manifest {
            version: VERSION,
            build,
            flavour,
            kernel_release: kernel_release.to_owned(),
            agent_sha256: sha256(agent),
            packages: packages.iter().map(Ingredient::of).collect(),
            modules,
            files,
            arm64: None,
        }
    }

    pub fn file(&self, name: &str) -> Option<&FileEntry> {
        self.files.iter().find(|file| file.name == name)
    }
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex::emit(&Sha256::digest(bytes))
}
