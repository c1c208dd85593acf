//! `remint package ...`

use std::fs;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::context::Context;
use super::{Failure, output};
use crate::imaging::import::{Importer, Source};
use crate::software::api::NewPackage;
use crate::software::db::Stored;
use crate::software::link::Payload;
use crate::software::model::{Package, faults};
use crate::stdx::digest::sha256_of_file;
use crate::stdx::monitor::Progress;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Add a package version: a YAML or TOML description with its payload beside it
    Add {
        /// The description; `payload` in it names the .deb or the archive
        file: PathBuf,
    },
    /// List packages
    List,
    /// Show a package: NAME or NAME@VERSION
    Show { package: String },
    /// Remove a package version: NAME@VERSION
    Remove { package: String },
}

pub(super) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Add { file } => add(&file, context),
        Command::List => list(context),
        Command::Show { package } => {
            let stored: Stored = context.api()?.get(&format!("/api/v1/packages/{package}"))?;
            output::json(&stored)
        }
        Command::Remove { package } => {
            context.api()?.delete(&format!("/api/v1/packages/{package}"))?;
            output::line(format!("removed {package}; `remint store gc` frees its payload"));
            Ok(())
        }
    }
}

/// Checks the description, puts the payload into the store, then records the package: a package is whole or absent.
fn add(file: &Path, context: &Context) -> Result<(), Failure> {
    let package: Package = document(file)?;
    let wrong = faults(&package);
    if !wrong.is_empty() {
        return Err(Failure::new(format!("{}: {}", file.display(), wrong.join("; "))));
    }
    let payload = file.parent().unwrap_or(Path::new(".")).join(&package.payload);
    let content = import(&package, &payload, context)?;
    let bytes = content.bytes;
    let stored: Stored = context.api()?.post("/api/v1/packages", &json!(NewPackage { package, content }))?;
    if context.json() {
        return output::json(&stored);
    }
    let (name, version) = (&stored.package.name, &stored.package.version);
    output::line(format!("added {name} {version} ({})", output::size(bytes)));
    Ok(())
}

fn import(package: &Package, path: &Path, context: &Context) -> Result<Payload, Failure> {
    let site = context.site()?;
    let bytes = fs::metadata(path).map_err(|error| {
        Failure::new(format!("read the payload {}: {error}", path.display()))
            .with_hint("`payload` is a path from the folder of the description")
    })?;
    let sha256 = sha256_of_file(path).map_err(|error| Failure::new(format!("read {}: {error}", path.display())))?;
    let progress = Progress::default();
    let importer = Importer { store: &site.store, key: &site.signing, now: site.clock.now(), progress: &progress };
    let image = format!("package-{}", package.name);
    let imported = importer.file(&image, Source::raw(path)?)?;
    Ok(Payload { image, version: imported.id.to_string(), bytes: bytes.len(), sha256 })
}

/// Reads a document that a person wrote, as TOML when it ends in `.toml` and as YAML otherwise.
pub(super) fn document<T: DeserializeOwned>(file: &Path) -> Result<T, Failure> {
    let text = fs::read_to_string(file).map_err(|error| Failure::new(format!("read {}: {error}", file.display())))?;
    let is_toml = file.extension().is_some_and(|extension| extension == "toml");
    let parsed = if is_toml {
        toml::from_str(&text).map_err(|error| error.to_string())
    } else {
        serde_saphyr::from_str(&text).map_err(|error| error.to_string())
    };
    parsed.map_err(|error| Failure::new(format!("{}: {}", file.display(), error.trim())))
}

fn list(context: &Context) -> Result<(), Failure> {
    let packages: Vec<Stored> = context.api()?.get("/api/v1/packages")?;
    if context.json() {
        return output::json(&packages);
    }
    let rows = packages.iter().map(|stored| {
        vec![
            stored.package.name.clone(),
            stored.package.version.clone(),
            output::size(stored.content.bytes),
            stored.package.title.clone(),
            output::time(stored.added_at),
        ]
    });
    let nothing = "There are no packages yet: `remint package add FILE` adds one.";
    output::table(&["NAME", "VERSION", "SIZE", "TITLE", "ADDED"], rows.collect(), nothing);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::software::model::{Baseline, Detection, Install, Mode};

    const YAML: &str = "name: hello\nversion: 2.10-3\npayload: hello.tar.gz\ninstall:\n  archive:\n    run: [./install.sh]\n\
        detect:\n  - dpkg: {name: hello, at-least: 2.10-3}\n  - file: {path: /usr/bin/hello}\n  \
        - command: {run: [hello, --version]}\n";

    #[test]
    fn a_description_reads_the_same_from_yaml_and_toml() {
        let folder = tempfile::tempdir().unwrap();
        let yaml = folder.path().join("hello.yaml");
        fs::write(&yaml, YAML).unwrap();
        let package: Package = document(&yaml).map_err(|failure| failure.message).unwrap();
        assert_eq!(package.install, Install::Archive { run: vec!["./install.sh".into()], upgrade: None });
        assert_eq!(package.detect.len(), 3);
        assert!(matches!(&package.detect[2], Detection::Command { exit: 0, .. }));
        assert!(faults(&package).is_empty());
        let toml_file = folder.path().join("hello.toml");
        fs::write(&toml_file, toml::to_string(&package).unwrap()).unwrap();
        assert_eq!(document::<Package>(&toml_file).map_err(|failure| failure.message).unwrap(), package);
    }

    #[test]
    fn a_baseline_needs_a_name_and_packages_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("base.yaml");
        fs::write(&file, "name: base\npackages: [hello]\n").unwrap();
        let baseline: Baseline = document(&file).map_err(|failure| failure.message).unwrap();
        assert_eq!((baseline.collection.as_str(), baseline.mode), ("all", Mode::Enforce));
        fs::write(&file, "name: base\npackages: [hello]\npackges: []\n").unwrap();
        assert!(document::<Baseline>(&file).is_err(), "a misspelt key is said");
    }
}
