//! `install-bootloader` with `loader: windows`: the files of Windows' boot manager onto the EFI system partition, as bcdboot
//! puts them there. Its store of boot entries (BCD) is copied, never made.

use sha2::{Digest, Sha256};

use crate::stdx::hex;
use crate::tasksequence::host::{FileContent, Root};
use crate::tasksequence::layout::Target;

use super::{Done, On, StepError};

/// Folders of the image, and where below EFI/Microsoft/Boot they go. The first must be there.
const FOLDERS: [(&str, &str); 3] =
    [("/Windows/Boot/EFI", ""), ("/Windows/Boot/Fonts", "/Fonts"), ("/Windows/Boot/Resources", "/Resources")];
const MANAGER: &str = "bootmgfw.efi";
/// What a machine in PE's header (`Machine`, 4 bytes in) is called in the name that firmware looks for (UEFI 2.10, 3.5.1.1).
const MACHINES: [(u16, &str, &str); 3] =
    [(0x8664, "x86_64", "bootx64.efi"), (0xAA64, "aarch64", "bootaa64.efi"), (0x014C, "x86", "bootia32.efi")];
/// First bytes of a registry hive, which the store is.
const HIVE: &[u8] = b"regf";
/// Windows' own have about 150 files; a folder of drivers for a model has some thousands.
const FILES_MAX: usize = 1 << 16;
const DEPTH_MAX: usize = 16;
const MISSING: &str = "missing: without EFI/Microsoft/Boot/BCD Windows' boot manager starts nothing";

/// Copies the files, and the store from `bcd` when it is given.
pub(super) fn install(on: &mut On, target: &Target, esp: &str, bcd: Option<&str>) -> Result<(), StepError> {
    if target.root().is_none_or(|root| root.kind != "ntfs") {
        return Err(StepError::new("the root of the system is not NTFS, so it is not Windows")
            .hint("`format` with `{ type: ntfs, at: / }` makes the volume that Windows' image goes onto"));
    }
    for (from, to) in copies(on, esp)? {
        copy(on, &from, &to)?;
    }
    let (manager, program, name) = manager(on)?;
    on.line(&format!("{manager} becomes EFI/Boot/{name}"));
    put(on, &format!("{esp}/EFI/Boot/{name}"), program)?;
    if let Some(bcd) = bcd {
        let store = store(on, bcd)?.ok_or_else(|| {
            StepError::new(format!("{bcd} is not there"))
                .hint("the image, or a step before this one, puts the store there")
        })?;
        put(on, &bcd_path(esp), store)?;
    }
    Ok(())
}

/// Reads both sides of every copy.
pub(super) fn verify(on: &mut On, esp: &str, bcd: Option<&str>, done: &mut Done) -> Result<(), StepError> {
    let (mut files, mut bytes) = (0u64, 0u64);
    for (from, to) in copies(on, esp)? {
        let wanted = content(on, &from)?;
        same(on, &to, &wanted)?;
        files += 1;
        bytes += wanted.len() as u64;
    }
    let (manager, program, name) = manager(on)?;
    let fallback = format!("{esp}/EFI/Boot/{name}");
    same(on, &fallback, &program)?;
    if let Some(bcd) = bcd {
        let wanted = content(on, bcd)?;
        same(on, &bcd_path(esp), &wanted)?;
    }
    let there = store(on, &bcd_path(esp))?.is_some();
    let store = match (there, bcd) {
        (true, Some(bcd)) => bcd.to_owned(),
        (true, None) => "the one that is there".to_owned(),
        (false, _) => MISSING.to_owned(),
    };
    on.line(&format!("the store of boot entries (BCD): {store}"));
    done.evidence("manager", manager);
    done.evidence("program", fallback);
    done.evidence("program_sha256", hex::emit(&Sha256::digest(&program)));
    done.evidence("files", files);
    done.evidence("bytes", bytes);
    done.evidence("bcd", store);
    Ok(())
}

/// What is copied where. A file that is there twice, in two cases, is not Windows'.
fn copies(on: &mut On, esp: &str) -> Result<Vec<(String, String)>, StepError> {
    let mut copies = Vec::new();
    for (from, to) in FOLDERS {
        let names = files_below(on, Root::Target, from)?;
        if names.is_empty() && to.is_empty() {
            return Err(StepError::new(format!("the system on the disk has no {from}"))
                .hint("is the image a Windows that starts by UEFI? Windows' setup media (boot.wim, index 1 or 2) have it elsewhere"));
        }
        let one = |name: String| (format!("{from}/{name}"), format!("{esp}/EFI/Microsoft/Boot{to}/{name}"));
        copies.extend(names.into_iter().map(one));
    }
    Ok(copies)
}

/// Windows' boot manager: where it is, what it is, and what firmware wants it to be called.
fn manager(on: &mut On) -> Result<(String, Vec<u8>, &'static str), StepError> {
    let folder = FOLDERS[0].0;
    let names = files_below(on, Root::Target, folder)?;
    let name = names.iter().find(|name| name.eq_ignore_ascii_case(MANAGER)).ok_or_else(|| {
        StepError::new(format!("{folder} of the system on the disk has no {MANAGER}"))
            .hint("is the image a Windows that starts by UEFI?")
    })?;
    let path = format!("{folder}/{name}");
    let program = content(on, &path)?;
    let machine = machine(&program).ok_or_else(|| StepError::new(format!("{path} is no EFI program")))?;
    let known = MACHINES.iter().find(|(number, ..)| *number == machine);
    let (_, processor, wanted) =
        known.ok_or_else(|| StepError::new(format!("{path} is for processors of the kind {machine:#06x}")))?;
    let own = on.host.hardware()?.architecture;
    if own != *processor {
        return Err(StepError::new(format!("the Windows on the disk is for {processor}, and this machine is {own}"))
            .hint("`when: machine.architecture == ...` keeps an image to the machines that it is for"));
    }
    Ok((path, program, wanted))
}

/// `Machine` of the header of a PE program: its place is at 0x3C, and it begins with `PE\0\0`.
fn machine(program: &[u8]) -> Option<u16> {
    let at = u32::from_le_bytes(program.get(0x3C..0x40)?.try_into().ok()?) as usize;
    let header = program.get(at..)?.strip_prefix(b"PE\0\0")?;
    (program.starts_with(b"MZ")).then(|| header.first_chunk().map(|bytes| u16::from_le_bytes(*bytes)))?
}

fn bcd_path(esp: &str) -> String {
    format!("{esp}/EFI/Microsoft/Boot/BCD")
}

fn store(on: &mut On, path: &str) -> Result<Option<Vec<u8>>, StepError> {
    let Some(found) = on.host.read(Root::Target, path)? else { return Ok(None) };
    match found.bytes.starts_with(HIVE) {
        true => Ok(Some(found.bytes)),
        false => Err(StepError::new(format!("{path} is no store of boot entries: it is not a registry hive"))
            .hint("`bcdedit /export FILE` on Windows gives one")),
    }
}

fn content(on: &mut On, path: &str) -> Result<Vec<u8>, StepError> {
    let found = on.host.read(Root::Target, path)?;
    Ok(found.ok_or_else(|| StepError::new(format!("{path} is not there any more")))?.bytes)
}

fn copy(on: &mut On, from: &str, to: &str) -> Result<(), StepError> {
    let bytes = content(on, from)?;
    put(on, to, bytes)
}

/// Writes what is not there already.
fn put(on: &mut On, path: &str, bytes: Vec<u8>) -> Result<(), StepError> {
    let wanted = FileContent { bytes, mode: 0o644 };
    if on.host.read(Root::Target, path)?.is_some_and(|found| found.bytes == wanted.bytes) {
        return Ok(());
    }
    Ok(on.host.write(Root::Target, path, &wanted)?)
}

fn same(on: &mut On, path: &str, wanted: &[u8]) -> Result<(), StepError> {
    let found = on.host.read(Root::Target, path)?;
    match found.is_some_and(|found| found.bytes == wanted) {
        true => Ok(()),
        false => Err(StepError::new(format!("{path} reads back otherwise than it was written"))
            .hint("is the EFI system partition large enough? Windows' own has 100 MB and more")),
    }
}

/// Paths of the files in a folder and all below it, by name.
pub(super) fn files_below(on: &mut On, root: Root, folder: &str) -> Result<Vec<String>, StepError> {
    let (mut files, mut todo) = (Vec::new(), vec![(String::new(), 0)]);
    while let Some((inner, depth)) = todo.pop() {
        for entry in on.host.list(root, format!("{folder}/{inner}").trim_end_matches('/'))?.unwrap_or_default() {
            let path = format!("{inner}{}", entry.name);
            match entry.is_folder {
                true if depth < DEPTH_MAX => todo.push((format!("{path}/"), depth + 1)),
                true => return Err(StepError::new(format!("{folder}/{path} lies more than {DEPTH_MAX} folders deep"))),
                false => files.push(path),
            }
        }
        if files.len() > FILES_MAX {
            return Err(StepError::new(format!("{folder} has more than {FILES_MAX} files")));
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasksequence::scripted::EFI_PROGRAM;

    #[test]
    fn the_processor_that_a_program_is_for_is_read_from_its_header() {
        assert_eq!(machine(EFI_PROGRAM), Some(0x8664));
        for cut in 0..EFI_PROGRAM.len() {
            assert_eq!(machine(&EFI_PROGRAM[..cut]), None, "{cut}");
        }
        let mut far = EFI_PROGRAM.to_vec();
        far[0x3C..0x40].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(machine(&far), None);
    }
}
