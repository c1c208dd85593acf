//! What a program or library needs to be loaded (System V ABI, chapters 4 and 5; 64 bits, little-endian).

use crate::stdx::bytes::Fields;

/// A program of the lists has a dozen headers and a few hundred dynamic entries.
const HEADERS_MAX: usize = 256;
const ENTRIES_MAX: usize = 4096;
const NAME_BYTES_MAX: usize = 255;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;

/// Names of the libraries that are needed, and the loader's path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub libraries: Vec<String>,
    pub loader: Option<String>,
}

#[derive(Clone, Copy)]
struct Segment {
    kind: u32,
    offset: usize,
    address: u64,
    bytes: usize,
}

/// `None` when the file is no ELF file of 64 bits, or is damaged.
pub fn needs(file: &[u8]) -> Option<Needs> {
    if file.len() < 64 || !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let segments = segments(file)?;
    let text = |offset: usize| {
        let rest = file.get(offset..)?;
        let end = rest.iter().take(NAME_BYTES_MAX + 1).position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(&rest[..end]).into_owned())
    };
    let mut needs = Needs::default();
    if let Some(segment) = segments.iter().find(|segment| segment.kind == PT_INTERP) {
        needs.loader = Some(text(segment.offset)?);
    }
    let Some(dynamic) = segments.iter().find(|segment| segment.kind == PT_DYNAMIC) else { return Some(needs) };
    let table = file.get(dynamic.offset..dynamic.offset.checked_add(dynamic.bytes)?)?;
    let entries: Vec<(u64, u64)> = table
        .chunks_exact(16)
        .take(ENTRIES_MAX)
        .map(|entry| (Fields(entry).le64(0), Fields(entry).le64(8)))
        .take_while(|(tag, _)| *tag != 0)
        .collect();
    let strings = entries.iter().find(|(tag, _)| *tag == DT_STRTAB).and_then(|(_, at)| offset_of(&segments, *at));
    for (_, at) in entries.iter().filter(|(tag, _)| *tag == DT_NEEDED) {
        needs.libraries.push(text(strings?.checked_add(usize::try_from(*at).ok()?)?)?);
    }
    Some(needs)
}

/// Program headers: their place at 32, bytes of one at 54, number at 56.
fn segments(file: &[u8]) -> Option<Vec<Segment>> {
    let header = Fields(file);
    let place = usize::try_from(header.le64(32)).ok()?;
    let (each, count) = (usize::from(header.le16(54)), usize::from(header.le16(56)));
    if each < 56 || count > HEADERS_MAX {
        return None;
    }
    let table = file.get(place..place.checked_add(each * count)?)?;
    let segment = |entry: &[u8]| {
        let fields = Fields(entry);
        Some(Segment {
            kind: fields.le32(0),
            offset: usize::try_from(fields.le64(8)).ok()?,
            address: fields.le64(16),
            bytes: usize::try_from(fields.le64(32)).ok()?,
        })
    };
    table.chunks_exact(each).map(segment).collect()
}

/// Where the byte that is loaded at `address` lies in the file.
fn offset_of(segments: &[Segment], address: u64) -> Option<usize> {
    let loaded = segments.iter().filter(|segment| segment.kind == PT_LOAD);
    let inside = loaded.filter_map(|segment| {
        let within = usize::try_from(address.checked_sub(segment.address)?).ok()?;
        (within < segment.bytes).then(|| segment.offset.checked_add(within))?
    });
    inside.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_this_machine_needs_the_library_of_c_and_a_loader() {
        let Ok(program) = std::fs::read("/bin/ls") else {
            println!("skipped: /bin/ls cannot be read");
            return;
        };
        let needs = needs(&program).unwrap();
        assert!(needs.libraries.iter().any(|name| name.starts_with("libc.so")), "{needs:?}");
        assert!(needs.loader.unwrap().contains("ld-linux"));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_fail(mut bytes in proptest::collection::vec(0u8.., 0..400)) {
            needs(&bytes);
            if bytes.len() >= 64 {
                bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
                needs(&bytes);
            }
        }
    }
}
