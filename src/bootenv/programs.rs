//! Boot programs: what firmware loads before a kernel, and where Debian's packages have it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::debian::{Package, run};
use super::error::Error;

/// The packages of a build, by the folder of the scratch that each was unpacked to.
pub(super) type Unpacked = BTreeMap<&'static str, Package>;

pub(super) struct Program {
    /// What firmware, shim, iPXE or GRUB asks for.
    pub(super) name: &'static str,
    /// Folder of the scratch.
    pub(super) package: &'static str,
    pub(super) path: &'static str,
}

const fn program(name: &'static str, package: &'static str, path: &'static str) -> Program {
    Program { name, package, path }
}

/// shim asks for GRUB by the name `grubx64.efi`.
pub(super) const AMD64: &[Program] = &[
    program("undionly.kpxe", "ipxe", "usr/lib/ipxe/undionly.kpxe"),
    program("snponly.efi", "ipxe", "usr/lib/ipxe/snponly.efi"),
    program("shimx64.efi", "shim", "usr/lib/shim/shimx64.efi.signed"),
    program("grubx64.efi", "signed-grub", "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"),
    program("memtest.bin", "memtest", "boot/memtest86+x64.bin"),
    program("memtest.efi", "memtest", "boot/memtest86+x64.efi"),
];

/// Debian's one `ipxe` package holds the program for arm64 too.
pub(super) const ARM64: &[Program] = &[
    program("ipxe-arm64.efi", "ipxe", "usr/lib/ipxe/ipxe-arm64.efi"),
    program("shimaa64.efi", "arm64-shim", "usr/lib/shim/shimaa64.efi.signed"),
    program("grubaa64.efi", "arm64-signed-grub", "usr/lib/grub/arm64-efi-signed/grubnetaa64.efi.signed"),
];

pub(super) const IA32: &[Program] = &[
    program("shimia32.efi", "ia32-shim", "usr/lib/shim/shimia32.efi.signed"),
    program("grubia32.efi", "ia32-signed-grub", "usr/lib/grub/i386-efi-signed/grubnetia32.efi.signed"),
    program("memtest-ia32.efi", "memtest", "boot/memtest86+ia32.efi"),
];

/// The programs' contents, out of the unpacked packages.
pub(super) fn read(
    scratch: &Path,
    programs: &[Program],
    packages: &Unpacked,
) -> Result<Vec<(&'static str, Vec<u8>)>, Error> {
    let one = |program: &Program| {
        let missing = |_| Error::NotInPackage {
            what: program.path.to_owned(),
            package: packages.get(program.package).map_or(program.package.to_owned(), |known| known.name.clone()),
        };
        let content = fs::read(scratch.join(program.package).join(program.path)).map_err(missing)?;
        Ok((program.name, content))
    };
    programs.iter().map(one).collect()
}

/// What GRUB needs to find and start a boot program on a disk.
const LOCAL_EFI_MODULES: &[&str] =
    &["part_gpt", "part_msdos", "fat", "search", "search_fs_file", "chain", "boot", "echo", "sleep", "reboot"];

/// A GRUB that does nothing but start the local disk. `platform` as GRUB calls it, `loader` as UEFI calls the
/// removable-media program of that processor, `shim` as Debian does.
pub(super) fn local_efi(
    scratch: &Path,
    folder: &'static str,
    (platform, loader, shim): (&str, &str, &str),
    packages: &Unpacked,
) -> Result<Vec<u8>, Error> {
    let place = format!("usr/lib/grub/{platform}");
    let modules = scratch.join(folder).join(&place);
    if !modules.is_dir() {
        let package = packages.get(folder).map_or(folder.to_owned(), |known| known.name.clone());
        return Err(Error::NotInPackage { what: place, package });
    }
    let (config, output) = (scratch.join("local.cfg"), scratch.join("local.efi"));
    let text = include_str!("../../boot/local.cfg").replace("@LOADER@", loader).replace("@SHIM@", shim);
    fs::write(&config, text).map_err(Error::file(&config))?;
    let mut command = Command::new("grub-mkimage");
    command.args(["-O", platform, "-p", "/EFI", "-d"]).arg(&modules);
    command.arg("-c").arg(&config).arg("-o").arg(&output).args(LOCAL_EFI_MODULES);
    run(&mut command)?;
    fs::read(&output).map_err(Error::file(output))
}
