//! Reparse data of symbolic links and junctions, to and from the targets of Linux links.
//!
//! Symbolic link: offset and length of the name that the system uses (2 + 2), of the one for people (2 + 2), flags (4,
//! bit 0: relative), names in UTF-16. A junction has no flags ([MS-FSCC] 2.1.2.4 and 2.1.2.5). A WIM keeps this without the
//! 8 bytes (tag, length) before it.

use nom::Parser;
use nom::number::complete::le_u16;

use super::tree::{REPARSE_TAG_JUNCTION, REPARSE_TAG_SYMLINK, name_bytes, name_units};

/// [MS-FSCC] 2.1.2: 16 KiB with the header.
pub const DATA_BYTES_MAX: u64 = 16 * 1024 - 8;

/// What a Linux link would hold: `\??\C:\a\b` is `/a/b`, `..\x` is `../x`. `None` for other kinds and malformed data.
pub fn link_target(tag: u32, data: &[u8]) -> Option<Vec<u8>> {
    let names_from = match tag {
        REPARSE_TAG_SYMLINK => 12,
        REPARSE_TAG_JUNCTION => 8,
        _ => return None,
    };
    let parsed: nom::IResult<&[u8], (u16, u16)> = (le_u16, le_u16).parse(data);
    let (_, (offset, length)) = parsed.ok()?;
    let start = names_from + usize::from(offset);
    let name = data.get(start..start + usize::from(length))?;
    let mut units: Vec<u16> = name.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    swap_slashes(&mut units);
    let mut target = name_bytes(&units);
    if let Some(absolute) = target.strip_prefix(b"/??/") {
        let path = match absolute {
            [drive, b':', path @ ..] if drive.is_ascii_alphabetic() => path,
            other => other,
        };
        target = path.to_vec();
        if target.is_empty() {
            target.push(b'/');
        }
    }
    (!target.is_empty() && !target.contains(&0)).then_some(target)
}

/// The data for a link to `target`, as wimlib writes it: absolute targets are on drive C. `None` when the target is no
/// UTF-8 or too long.
pub fn link_data(target: &[u8]) -> Option<Vec<u8>> {
    let mut print = name_units(target)?;
    swap_slashes(&mut print);
    let absolute = target.first() == Some(&b'/');
    let mut substitute = print.clone();
    if absolute {
        print.splice(0..0, "C:".encode_utf16());
        substitute.splice(0..0, "\\??\\C:".encode_utf16());
    }
    let lengths = [substitute.len() * 2, print.len() * 2].map(|bytes| u16::try_from(bytes).ok());
    let [Some(substitute_bytes), Some(print_bytes)] = lengths else { return None };
    let mut data = Vec::new();
    for field in [0, substitute_bytes, substitute_bytes.checked_add(2)?, print_bytes] {
        data.extend(field.to_le_bytes());
    }
    data.extend(u32::from(!absolute).to_le_bytes());
    for name in [substitute, print] {
        name.iter().chain(&[0]).for_each(|unit| data.extend(unit.to_le_bytes()));
    }
    (data.len() as u64 <= DATA_BYTES_MAX).then_some(data)
}

/// Linux' separator for Windows' and the other way round, so that a backslash in a Linux name comes back.
fn swap_slashes(units: &mut [u16]) {
    const SLASH: u16 = b'/' as u16;
    const BACKSLASH: u16 = b'\\' as u16;
    for unit in units {
        *unit = match *unit {
            SLASH => BACKSLASH,
            BACKSLASH => SLASH,
            other => other,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn windows_targets_become_paths() {
        for (target, data_len) in [("/etc/passwd", 76), ("a.txt", 36), ("../../x/y", 52)] {
            let data = link_data(target.as_bytes()).unwrap();
            assert_eq!(data.len(), data_len, "{target}");
            assert_eq!(link_target(REPARSE_TAG_SYMLINK, &data).unwrap(), target.as_bytes());
        }
        assert_eq!(link_target(0x8000_0017, &[0; 30]), None);
    }

    proptest! {
        #[test]
        fn targets_come_back_and_garbage_never_panics(target in "[a-zä./\\\\]{1,40}", garbage: Vec<u8>) {
            let data = link_data(target.as_bytes()).unwrap();
            prop_assert_eq!(link_target(REPARSE_TAG_SYMLINK, &data).unwrap(), target.as_bytes());
            link_target(REPARSE_TAG_SYMLINK, &garbage);
            link_target(REPARSE_TAG_JUNCTION, &garbage);
        }
    }
}
