//! Carries out a plan: fetch, unpack, choose, write, switch.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cpio::Archive;
use super::debian::{Package, Suite, run};
use super::error::Error;
use super::firmware;
use super::manifest::{self, FileEntry, Manifest, Second};
use super::modules::{Flavour, Tables};
use super::plan::{Arm64, Plan, Source, VIRTUAL_INITRAMFS_BYTES_MAX};
use super::programs::{self, Unpacked};
use super::tools;
use crate::stdx::file::{sync_folder, write_whole};
use crate::stdx::owner::adopt;
use crate::stdx::time::Timestamp;

/// Name of the symbolic link in the output folder to the build that is served.
pub const CURRENT: &str = "current";

/// Level of zstd: beyond it the hardware flavour takes minutes for a few per cent.
const INITRAMFS_LEVEL: i32 = 15;

/// Builds and switches `current`. Gives the manifest and the folder of the build. `say` is told of each stage; `now` decides
/// whether package lists in the cache are still fresh and touches nothing that is built.
pub fn build(plan: &Plan, now: Timestamp, say: &mut dyn FnMut(&str)) -> Result<(Manifest, PathBuf), Error> {
    let agent = read_agent(&plan.agent)?;
    fs::create_dir_all(&plan.cache).map_err(Error::file(&plan.cache))?;
    let scratch = Scratch::new(&plan.cache)?;
    let packages = unpack(plan, &scratch.0, now, say)?;
    let kernel = Kernel::open(&scratch.0, "kernel", &packages)?;
    say(&format!("writing the initramfs for Linux {}", kernel.release));
    let toolbox = tools::collect(&plan.tools, plan.debug_shell, &scratch.0, &plan.cache, now)?;
    let (archive, modules) = initramfs(plan.flavour, &kernel, &Init::Agent(agent.clone(), toolbox.files), &scratch.0)?;
    let mut files = vec![("vmlinuz", kernel.image.clone()), ("initrd.img", pack(plan.flavour, &archive)?)];
    files.extend(programs::read(&scratch.0, programs::AMD64, &packages)?);
    let local = ("x86_64-efi", "BOOTX64.EFI", "shimx64.efi");
    files.push(("local.efi", programs::local_efi(&scratch.0, "grub", local, &packages)?));
    let arm64 = match &plan.arm64 {
        Some(wanted) => Some(arm64(plan, wanted, &scratch.0, &packages, &mut files, say)?),
        None => None,
    };
    if plan.ia32.is_some() {
        files.extend(programs::read(&scratch.0, programs::IA32, &packages)?);
    }
    let entries = files.iter().map(|(name, content)| FileEntry::of(name, content)).collect();
    let ingredients: Vec<Package> = packages.into_values().chain(toolbox.packages).collect();
    let mut manifest = Manifest::new(plan.flavour, &kernel.release, &agent, &ingredients, modules, entries);
    manifest.arm64 = arm64;
    let folder = publish(&plan.output, &manifest, &files)?;
    say(&format!("build {} is current", manifest.build));
    Ok((manifest, folder))
}

/// Fetches and unpacks every package, each into a folder of its own.
fn unpack(plan: &Plan, scratch: &Path, now: Timestamp, say: &mut dyn FnMut(&str)) -> Result<Unpacked, Error> {
    let mut packages = Unpacked::new();
    for (name, source) in plan.sources() {
        say(&format!("unpacking {source}"));
        let package = obtain(source, &plan.cache, now)?;
        package.unpack(&scratch.join(name))?;
        packages.insert(name, package);
    }
    Ok(packages)
}

/// Adds the files for arm64 machines.
fn arm64(
    plan: &Plan,
    wanted: &Arm64,
    scratch: &Path,
    packages: &Unpacked,
    files: &mut Vec<(&'static str, Vec<u8>)>,
    say: &mut dyn FnMut(&str),
) -> Result<Second, Error> {
    let kernel = Kernel::open(scratch, "arm64-kernel", packages)?;
    say(&format!("writing the initramfs for Linux {}", kernel.release));
    let init = match &wanted.agent {
        // The programs that steps run are there for x86_64 only.
        Some(path) => Init::Agent(read_agent(path)?, BTreeMap::new()),
        None => {
            say("there is no agent for arm64: its boot environment will start and say so");
            let busybox = scratch.join("arm64-busybox/bin/busybox");
            Init::Words(fs::read(&busybox).map_err(Error::file(busybox))?)
        }
    };
    let (archive, modules) = initramfs(plan.flavour, &kernel, &init, scratch)?;
    files.push(("vmlinuz-arm64", kernel.image.clone()));
    files.push(("initrd-arm64.img", pack(plan.flavour, &archive)?));
    files.extend(programs::read(scratch, programs::ARM64, packages)?);
    let local = ("arm64-efi", "BOOTAA64.EFI", "shimaa64.efi");
    files.push(("local-arm64.efi", programs::local_efi(scratch, "arm64-grub", local, packages)?));
    Ok(Second { kernel_release: kernel.release, agent_sha256: init.agent_sha256(), modules })
}

/// The manifest of the build that is served, if there is one.
pub fn current(output: &Path) -> Option<Manifest> {
    let text = fs::read(output.join(CURRENT).join(manifest::FILE_NAME)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The agent must be one static file: there are no libraries where it runs.
fn read_agent(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = fs::read(path).map_err(|_| Error::NoAgent { path: path.to_owned() })?;
    let interpreter = b"/ld-linux";
    let dynamic = bytes.windows(interpreter.len()).any(|window| window == interpreter);
    if dynamic || !bytes.starts_with(b"\x7fELF") {
        return Err(Error::AgentNotStatic { path: path.to_owned() });
    }
    Ok(bytes)
}

fn obtain(source: &Source, cache: &Path, now: Timestamp) -> Result<Package, Error> {
    match source {
        Source::File(path) => Package::open(path),
        Source::Archive { package, suite, architecture } => {
            Suite::open(suite, architecture, cache, now)?.download(package)
        }
    }
}

/// A folder that is gone when the build is over, however it ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(cache: &Path) -> Result<Scratch, Error> {
        let folder = cache.join(format!("build-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
        Ok(Scratch(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An unpacked kernel package.
struct Kernel {
    release: String,
    image: Vec<u8>,
    /// `lib/modules/RELEASE`.
    modules: PathBuf,
    tables: Tables,
}

impl Kernel {
    /// The kernel package that was unpacked to `folder` of the scratch.
    fn open(scratch: &Path, folder: &str, packages: &Unpacked) -> Result<Kernel, Error> {
        let root = scratch.join(folder);
        let name = packages.get(folder).map_or_else(|| folder.to_owned(), |package| package.name.clone());
        let missing = |what: &str| Error::NotInPackage { what: what.to_owned(), package: name.clone() };
        let image = entry_with_prefix(&root.join("boot"), "vmlinuz-").ok_or_else(|| missing("boot/vmlinuz-*"))?;
        let release = image.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("vmlinuz-"));
        let release = release.ok_or_else(|| missing("boot/vmlinuz-*"))?.to_owned();
        // Debian 13 moved the modules below usr/.
        let base =
            [root.clone(), root.join("usr")].into_iter().find(|base| base.join("lib/modules").join(&release).is_dir());
        let base = base.ok_or_else(|| missing("lib/modules"))?;
        run(Command::new(depmod()).arg("-b").arg(&base).arg(&release))?;
        let modules = base.join("lib/modules").join(&release);
        let table = |name: &str| fs::read_to_string(modules.join(name)).map_err(Error::file(modules.join(name)));
        let tables = Tables::parse(&table("modules.dep")?, &table("modules.alias")?, &table("modules.softdep")?);
        let image = fs::read(&image).map_err(Error::file(image))?;
        Ok(Kernel { release, image, modules, tables })
    }
}

/// An ordinary user's search path often lacks the folder where it is.
fn depmod() -> &'static str {
    let place = "/sbin/depmod";
    if Path::new(place).exists() { place } else { "depmod" }
}

fn entry_with_prefix(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let names = fs::read_dir(folder).ok()?.flatten();
    names
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)))
}

/// What becomes `/init`.
enum Init {
    /// With the programs that steps run.
    Agent(Vec<u8>, BTreeMap<String, (u32, Vec<u8>)>),
    /// A shell that says what is missing.
    Words(Vec<u8>),
}

impl Init {
    fn agent_sha256(&self) -> Option<String> {
        match self {
            Init::Agent(agent, _) => Some(manifest::sha256(agent)),
            Init::Words(_) => None,
        }
    }
}

/// The archive and how many modules it has.
fn initramfs(flavour: Flavour, kernel: &Kernel, init: &Init, scratch: &Path) -> Result<(Archive, usize), Error> {
    let chosen = kernel.tables.select(flavour.lines());
    let mut archive = Archive::default();
    for folder in ["dev", "etc", "mnt", "proc", "run", "sys", "tmp", "var/lib"] {
        archive.folder(folder);
    }
    archive.character_device("dev/console", 0o600, 5, 1);
    match init {
        Init::Agent(agent, tools) => {
            archive.file("init", 0o755, agent.clone());
            for (path, (mode, content)) in tools {
                archive.file(path, *mode, content.clone());
            }
            // The kernel calls it when it wants a file system or a protocol.
            archive.symlink("sbin/modprobe", "../init");
        }
        Init::Words(busybox) => {
            archive.file("bin/busybox", 0o755, busybox.clone());
            archive.file("init", 0o755, include_bytes!("../../boot/no-agent.sh").to_vec());
        }
    }
    let folder = format!("lib/modules/{}", kernel.release);
    for file in &chosen.files {
        let path = kernel.modules.join(file);
        archive.file(&format!("{folder}/{file}"), 0o644, fs::read(&path).map_err(Error::file(path))?);
    }
    let modules: Vec<PathBuf> = chosen.files.iter().map(|file| kernel.modules.join(file)).collect();
    for (name, content) in firmware::wanted(scratch, &modules)? {
        archive.file(&format!("lib/firmware/{name}"), 0o644, content);
    }
    archive.file(&format!("{folder}/modules.dep"), 0o644, chosen.modules_dep.into_bytes());
    archive.file(&format!("{folder}/modules.alias"), 0o644, chosen.modules_alias.into_bytes());
    archive.file(&format!("{folder}/modules.softdep"), 0o644, chosen.modules_softdep.into_bytes());
    Ok((archive, chosen.files.len()))
}

fn pack(flavour: Flavour, archive: &Archive) -> Result<Vec<u8>, Error> {
    let bytes = compress(archive).map_err(Error::file("initrd.img"))?;
    if flavour == Flavour::Virtual && bytes.len() as u64 > VIRTUAL_INITRAMFS_BYTES_MAX {
        return Err(Error::TooLarge { bytes: bytes.len() as u64, limit_bytes: VIRTUAL_INITRAMFS_BYTES_MAX });
    }
    Ok(bytes)
}

fn compress(archive: &Archive) -> std::io::Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(Vec::new(), INITRAMFS_LEVEL)?;
    encoder.include_checksum(true)?;
    archive.emit(&mut encoder)?;
    encoder.flush()?;
    encoder.finish()
}

/// Writes the files into a folder of their own and then points `current` at it. A build that is there already (the same
/// bytes) is only pointed at.
fn publish(output: &Path, manifest: &Manifest, files: &[(&str, Vec<u8>)]) -> Result<PathBuf, Error> {
    let folder = output.join(&manifest.build);
    if !folder.join(manifest::FILE_NAME).exists() {
        let fresh = output.join(format!(".{}.new", manifest.build));
        let _ = fs::remove_dir_all(&fresh);
        fs::create_dir_all(&fresh).and_then(|()| adopt(&fresh)).map_err(Error::file(&fresh))?;
        for (name, content) in files {
            write_whole(&fresh.join(name), content).map_err(Error::file(fresh.join(name)))?;
        }
        let text = serde_json::to_vec_pretty(manifest).map_err(|error| error.into());
        let path = fresh.join(manifest::FILE_NAME);
        text.and_then(|text| write_whole(&path, &text)).map_err(Error::file(path))?;
        fs::rename(&fresh, &folder).map_err(Error::file(&folder))?;
    }
    switch(output, &manifest.build).map_err(Error::file(output.join(CURRENT)))?;
    Ok(folder)
}

fn switch(output: &Path, build: &str) -> std::io::Result<()> {
    let fresh = output.join(format!(".{CURRENT}.new"));
    let _ = fs::remove_file(&fresh);
    symlink(build, &fresh)?;
    adopt(&fresh)?;
    fs::rename(&fresh, output.join(CURRENT))?;
    sync_folder(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootenv::plan::Request;

    /// A package with the given files; dpkg-deb makes it.
    fn package(folder: &Path, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let tree = folder.join(name);
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        let control = format!("Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: s\n");
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        for (path, content) in files {
            fs::create_dir_all(tree.join(path).parent().unwrap()).unwrap();
            fs::write(tree.join(path), content).unwrap();
        }
        let file = folder.join(format!("{name}.deb"));
        run(Command::new("dpkg-deb").args(["-b", "--root-owner-group"]).arg(&tree).arg(&file)).unwrap();
        file
    }

    /// A plan of packages in miniature; the GRUB package is this machine's own, when it has one.
    fn plan(folder: &Path) -> Option<Plan> {
        let grub = Path::new("/usr/lib/grub/x86_64-efi");
        if !grub.is_dir() || !Path::new("/sbin/depmod").exists() {
            println!("skipped: grub-efi-amd64-bin or kmod is not installed");
            return None;
        }
        let parts = fs::read_dir(grub).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_file());
        let modules: Vec<(String, Vec<u8>)> = parts
            .map(|path| (path.strip_prefix("/").unwrap().display().to_string(), fs::read(path).unwrap()))
            .collect();
        let modules: Vec<(&str, &[u8])> =
            modules.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect();
        let kernel: &[(&str, &[u8])] = &[
            ("boot/vmlinuz-6.1.0-test", b"kernel"),
            ("lib/modules/6.1.0-test/modules.order", b""),
            ("lib/modules/6.1.0-test/modules.builtin", b""),
        ];
        let of = |name: &str| -> Vec<(&str, &[u8])> {
            let own = programs::AMD64.iter().filter(|program| program.package == name);
            own.map(|program| (program.path, program.name.as_bytes())).collect()
        };
        fs::write(folder.join("agent"), b"\x7fELF static").unwrap();
        Some(Plan::new(Request {
            flavour: Flavour::Virtual,
            agent: folder.join("agent"),
            output: folder.join("boot"),
            cache: folder.join("cache"),
            suite: None,
            kernel: None,
            kernel_deb: Some(package(folder, "linux-image-test", kernel)),
            ipxe_deb: Some(package(folder, "ipxe", &of("ipxe"))),
            grub_deb: Some(package(folder, "grub", &modules)),
            shim_deb: Some(package(folder, "shim-signed", &of("shim"))),
            signed_grub_deb: Some(package(folder, "grub-signed", &of("signed-grub"))),
            tool_debs: Some(Vec::new()),
            memtest_deb: Some(package(folder, "memtest86+", &of("memtest"))),
            firmware: false,
            arm64: false,
            agent_arm64: None,
            ia32: false,
            debug_shell: false,
        }))
    }

    #[test]
    fn the_same_ingredients_give_the_same_build_and_another_agent_another() {
        let folder = tempfile::tempdir().unwrap();
        let Some(plan) = plan(folder.path()) else { return };
        let (first, place) = build(&plan, Timestamp::default(), &mut |_| {}).unwrap();
        let bytes = fs::read(place.join("initrd.img")).unwrap();
        fs::remove_dir_all(&plan.output).unwrap();
        let (second, _) = build(&plan, Timestamp::default(), &mut |_| {}).unwrap();
        assert_eq!(first, second);
        assert_eq!(bytes, fs::read(place.join("initrd.img")).unwrap());
        assert_eq!(current(&plan.output), Some(first.clone()));
        assert_eq!(first.file("snponly.efi").map(|file| file.bytes), Some(11));

        fs::write(&plan.agent, b"\x7fELF static, newer").unwrap();
        let (third, _) = build(&plan, Timestamp::default(), &mut |_| {}).unwrap();
        assert_ne!(third.build, first.build);
        assert_eq!(current(&plan.output), Some(third));
        assert!(fs::read_dir(&plan.cache).unwrap().next().is_none(), "nothing is left of the unpacked packages");
    }

    #[test]
    fn an_agent_with_libraries_and_a_package_without_a_kernel_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let Some(mut plan) = plan(folder.path()) else { return };
        fs::write(&plan.agent, b"\x7fELF /lib64/ld-linux-x86-64.so.2").unwrap();
        assert!(matches!(build(&plan, Timestamp::default(), &mut |_| {}), Err(Error::AgentNotStatic { .. })));
        fs::write(&plan.agent, b"\x7fELF").unwrap();
        plan.kernel = plan.ipxe.clone();
        let error = build(&plan, Timestamp::default(), &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("vmlinuz"), "{error}");
        assert!(!plan.output.exists(), "nothing is half-published");
    }
}
