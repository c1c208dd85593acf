//! Carries out a plan: fetch, unpack, choose, write, switch.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cpio::Archive;
use super::debian::{Package, Suite, run};
use super::error::Error;
use super::manifest::{self, FileEntry, Manifest};
use super::modules::{Flavour, Tables};
use super::plan::{Plan, Source, VIRTUAL_INITRAMFS_BYTES_MAX};
use super::tools::{self, Toolbox};
use crate::stdx::file::{sync_folder, write_whole};
use crate::stdx::time::Timestamp;

/// Name of the symbolic link in the output folder to the build that is served.
pub const CURRENT: &str = "current";

/// Level of zstd: beyond it the hardware flavour takes minutes for a few per cent.
const INITRAMFS_LEVEL: i32 = 15;

/// What GRUB needs to find and start a boot program on a disk.
const LOCAL_EFI_MODULES: &[&str] =
    &["part_gpt", "part_msdos", "fat", "search", "search_fs_file", "chain", "boot", "echo", "sleep", "reboot"];

/// Builds and switches `current`. Gives the manifest and the folder of the build. `say` is told of each stage; `now` decides
/// whether package lists in the cache are still fresh and touches nothing that is built.
pub fn build(plan: &Plan, now: Timestamp, say: &mut dyn FnMut(&str)) -> Result<(Manifest, PathBuf), Error> {
    let agent = read_agent(&plan.agent)?;
    fs::create_dir_all(&plan.cache).map_err(Error::file(&plan.cache))?;
    let scratch = Scratch::new(&plan.cache)?;
    let mut packages = Vec::new();
    let sources = [
        ("kernel", &plan.kernel),
        ("ipxe", &plan.ipxe),
        ("grub", &plan.grub),
        ("shim", &plan.shim),
        ("signed-grub", &plan.signed_grub),
    ];
    for (name, source) in sources {
        say(&format!("unpacking {source}"));
        let package = obtain(source, &plan.cache, now)?;
        package.unpack(&scratch.0.join(name))?;
        packages.push(package);
    }
    let kernel = Kernel::open(&scratch.0.join("kernel"), &packages[0])?;
    say(&format!("writing the initramfs for Linux {}", kernel.release));
    let toolbox = tools::collect(&plan.tools, plan.debug_shell, &scratch.0, &plan.cache, now)?;
    let (initramfs, modules) = initramfs(plan.flavour, &kernel, &agent, &toolbox)?;
    let mut files = vec![("vmlinuz", kernel.image.clone()), ("initrd.img", initramfs)];
    files.extend(boot_programs(&scratch.0, &packages[1..])?);
    let entries = files.iter().map(|(name, content)| FileEntry::of(name, content)).collect();
    packages.extend(toolbox.packages);
    let manifest = Manifest::new(plan.flavour, &kernel.release, &agent, &packages, modules, entries);
    let folder = publish(&plan.output, &manifest, &files)?;
    say(&format!("build {} is current", manifest.build));
    Ok((manifest, folder))
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
        Source::Archive { package, suite } => Suite::open(suite, cache, now)?.download(package),
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
    fn open(root: &Path, package: &Package) -> Result<Kernel, Error> {
        let missing = |what: &str| Error::NotInPackage { what: what.to_owned(), package: package.name.clone() };
        let image = entry_with_prefix(&root.join("boot"), "vmlinuz-").ok_or_else(|| missing("boot/vmlinuz-*"))?;
        let release = image.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("vmlinuz-"));
        let release = release.ok_or_else(|| missing("boot/vmlinuz-*"))?.to_owned();
        // Debian 13 moved the modules below usr/.
        let base = [root.to_owned(), root.join("usr")]
            .into_iter()
            .find(|base| base.join("lib/modules").join(&release).is_dir());
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

/// The compressed archive and how many modules it has.
fn initramfs(flavour: Flavour, kernel: &Kernel, agent: &[u8], toolbox: &Toolbox) -> Result<(Vec<u8>, usize), Error> {
    let chosen = kernel.tables.select(flavour.lines());
    let mut archive = Archive::default();
    for folder in ["dev", "etc", "mnt", "proc", "run", "sys", "tmp", "var/lib"] {
        archive.folder(folder);
    }
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.file("init", 0o755, agent.to_vec());
    for (path, (mode, content)) in &toolbox.files {
        archive.file(path, *mode, content.clone());
    }
    // The kernel calls it when it wants a file system or a protocol.
    archive.symlink("sbin/modprobe", "../init");
    let folder = format!("lib/modules/{}", kernel.release);
    for file in &chosen.files {
        let path = kernel.modules.join(file);
        archive.file(&format!("{folder}/{file}"), 0o644, fs::read(&path).map_err(Error::file(path))?);
    }
    archive.file(&format!("{folder}/modules.dep"), 0o644, chosen.modules_dep.into_bytes());
    archive.file(&format!("{folder}/modules.alias"), 0o644, chosen.modules_alias.into_bytes());
    archive.file(&format!("{folder}/modules.softdep"), 0o644, chosen.modules_softdep.into_bytes());
    let bytes = compress(&archive).map_err(Error::file("initrd.img"))?;
    if flavour == Flavour::Virtual && bytes.len() as u64 > VIRTUAL_INITRAMFS_BYTES_MAX {
        return Err(Error::TooLarge { bytes: bytes.len() as u64, limit_bytes: VIRTUAL_INITRAMFS_BYTES_MAX });
    }
    Ok((bytes, chosen.files.len()))
}

fn compress(archive: &Archive) -> std::io::Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(Vec::new(), INITRAMFS_LEVEL)?;
    encoder.include_checksum(true)?;
    archive.emit(&mut encoder)?;
    encoder.flush()?;
    encoder.finish()
}

/// Boot programs: the name that firmware asks for, the package it is in (as a folder of the scratch and by its place among
/// `packages`), and where it lies there. shim asks for GRUB by the name `grubx64.efi`.
const BOOT_PROGRAMS: &[(&str, &str, usize, &str)] = &[
    ("undionly.kpxe", "ipxe", 0, "usr/lib/ipxe/undionly.kpxe"),
    ("snponly.efi", "ipxe", 0, "usr/lib/ipxe/snponly.efi"),
    ("ipxe-arm64.efi", "ipxe", 0, "usr/lib/ipxe/ipxe-arm64.efi"),
    ("shimx64.efi", "shim", 2, "usr/lib/shim/shimx64.efi.signed"),
    ("grubx64.efi", "signed-grub", 3, "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"),
];

/// What firmware loads before the kernel, and what starts the local disk. `packages`: iPXE, GRUB, shim, signed GRUB.
fn boot_programs(scratch: &Path, packages: &[Package]) -> Result<Vec<(&'static str, Vec<u8>)>, Error> {
    let mut files = Vec::new();
    for (name, folder, package, path) in BOOT_PROGRAMS {
        let content = fs::read(scratch.join(folder).join(path));
        let missing = |_| Error::NotInPackage { what: (*path).to_owned(), package: packages[*package].name.clone() };
        files.push((*name, content.map_err(missing)?));
    }
    files.push(("local.efi", local_efi(scratch, &packages[1])?));
    Ok(files)
}

fn local_efi(scratch: &Path, grub: &Package) -> Result<Vec<u8>, Error> {
    let modules = scratch.join("grub/usr/lib/grub/x86_64-efi");
    if !modules.is_dir() {
        return Err(Error::NotInPackage { what: "usr/lib/grub/x86_64-efi".to_owned(), package: grub.name.clone() });
    }
    let (config, output) = (scratch.join("local.cfg"), scratch.join("local.efi"));
    fs::write(&config, include_str!("../../boot/local.cfg")).map_err(Error::file(&config))?;
    let mut command = Command::new("grub-mkimage");
    command.args(["-O", "x86_64-efi", "-p", "/EFI", "-d"]).arg(&modules);
    command.arg("-c").arg(&config).arg("-o").arg(&output).args(LOCAL_EFI_MODULES);
    run(&mut command)?;
    fs::read(&output).map_err(Error::file(output))
}

/// Writes the files into a folder of their own and then points `current` at it. A build that is there already (the same
/// bytes) is only pointed at.
fn publish(output: &Path, manifest: &Manifest, files: &[(&str, Vec<u8>)]) -> Result<PathBuf, Error> {
    let folder = output.join(&manifest.build);
    if !folder.join(manifest::FILE_NAME).exists() {
        let fresh = output.join(format!(".{}.new", manifest.build));
        let _ = fs::remove_dir_all(&fresh);
        fs::create_dir_all(&fresh).map_err(Error::file(&fresh))?;
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
        let ipxe: &[(&str, &[u8])] =
            &[(BOOT_PROGRAMS[0].3, b"bios"), (BOOT_PROGRAMS[1].3, b"uefi"), (BOOT_PROGRAMS[2].3, b"arm")];
        fs::write(folder.join("agent"), b"\x7fELF static").unwrap();
        Some(Plan::new(Request {
            flavour: Flavour::Virtual,
            agent: folder.join("agent"),
            output: folder.join("boot"),
            cache: folder.join("cache"),
            suite: None,
            kernel: None,
            kernel_deb: Some(package(folder, "linux-image-test", kernel)),
            ipxe_deb: Some(package(folder, "ipxe", ipxe)),
            grub_deb: Some(package(folder, "grub", &modules)),
            shim_deb: Some(package(folder, "shim-signed", &[(BOOT_PROGRAMS[3].3, b"shim")])),
            signed_grub_deb: Some(package(folder, "grub-signed", &[(BOOT_PROGRAMS[4].3, b"grub")])),
            tool_debs: Some(Vec::new()),
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
        assert_eq!(first.file("snponly.efi").map(|file| file.bytes), Some(4));

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
