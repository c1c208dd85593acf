//! LVM2 physical volumes: label, metadata areas, the text that describes the volume group (lvm2, lib/format_text). Each
//! plain logical volume is looked into as if it were a partition; extents that belong to none are free.

use super::ranges::Ranges;
use super::{Fault, Map, probe};
use crate::stdx::bytes::Fields;
use crate::stdx::crc32;
use crate::stdx::io::ReadAt;
use std::io;
use std::ops::Range;

/// LVM makes areas of 1 MiB, administrators some larger ones.
const METADATA_BYTES_MAX: u64 = 16 << 20;
const AREAS_MAX: usize = 16;
/// Sections lie in each other five deep; the text of an attacker deeper.
const DEPTH_MAX: usize = 8;
/// Segments of a logical volume: more than a life of growing makes.
const PIECES_MAX: usize = 4096;
const SECTOR: u64 = 512;
const MDA_HEADER_BYTES: u64 = 512;
const MDA_MAGIC: &[u8; 16] = b" LVM2 x[5A%r0N*>";
/// LVM's CRC-32 starts with this and is not inverted.
const CRC_START: u32 = 0xF597_A6CF;

/// The used ranges of a physical volume: its metadata, and what its logical volumes use.
pub fn map(source: &dyn ReadAt) -> Result<Map, Fault> {
    let volume = PhysicalVolume::read(source)?;
    let text = volume.metadata(source)?;
    let group = Section::parse(&text).ok_or_else(|| Fault::damaged("the text of its volume group cannot be parsed"))?;
    let group = group.sections().next().ok_or_else(|| Fault::damaged("it belongs to no volume group"))?.1;
    let layout = Layout::of(group, &volume, source.size())?;
    let mut used = Ranges::new(source.size());
    used.add(0, layout.extents_at);
    volume.areas.iter().for_each(|area| used.add(area.start, area.end - area.start));
    let mut warnings = Vec::new();
    for (name, logical) in group.section("logical_volumes").into_iter().flat_map(Section::sections) {
        add_logical(source, &layout, name, logical, &mut used, &mut warnings)?;
    }
    let used = used.finish();
    let free_bytes = source.size() - super::ranges::total(&used);
    Ok(Map { remarks: warnings, ..Map::new(used, free_bytes) })
}

/// What the label says: who it is, and where its metadata lies.
struct PhysicalVolume {
    id: String,
    areas: Vec<Range<u64>>,
}

impl PhysicalVolume {
    /// Label in one of the first four sectors: offset of the header 20. Header: identifier 0, size 32, then places of
    /// 16 bytes (offset, size): data areas, a zero, metadata areas, a zero.
    fn read(source: &dyn ReadAt) -> Result<PhysicalVolume, Fault> {
        let head = source.read_vec_at(0, source.size().min(4096) as usize).map_err(Fault::unreadable("label"))?;
        let head = Fields(&head);
        let label = (0..4).map(|sector| sector * 512).find(|at| head.slice(*at, 8) == b"LABELONE");
        let label = label.ok_or_else(|| Fault::damaged("it has no label"))?;
        let header = Fields(head.slice(label + head.le32(label + 20) as usize, 472));
        let places = (40..472).step_by(16).map(|at| (header.le64(at), header.le64(at + 8)));
        let mut areas = Vec::new();
        for (at, len) in places.skip_while(|(at, _)| *at != 0).skip(1).take(AREAS_MAX).take_while(|(at, _)| *at != 0) {
            let end = at.checked_add(len).filter(|end| *end <= source.size() && len > MDA_HEADER_BYTES);
            areas.push(at..end.ok_or_else(|| Fault::damaged("its metadata lies outside of it"))?);
        }
        Ok(PhysicalVolume { id: header.text(0, 32), areas })
    }

    /// The text of the first metadata area that is sound.
    fn metadata(&self, source: &dyn ReadAt) -> Result<String, Fault> {
        let mut texts = self.areas.iter().filter_map(|area| area_text(source, area));
        texts.next().ok_or_else(|| Fault::damaged("it has no sound copy of its metadata"))
    }
}

/// Header of an area: CRC 0, magic 4, then at 40 the place of the text: offset, size, CRC, flags (1: not in use). Behind the
/// header the area is a ring.
fn area_text(source: &dyn ReadAt, area: &Range<u64>) -> Option<String> {
    let header = source.read_vec_at(area.start, MDA_HEADER_BYTES as usize).ok()?;
    let fields = Fields(&header);
    let (offset, size) = (fields.le64(40), fields.le64(48));
    let ring = area.end - area.start;
    let sound = crc32::ieee_raw(CRC_START, &header[4..]) == fields.le32(0) && fields.slice(4, 16) == MDA_MAGIC;
    if !sound
        || fields.le32(60) & 1 == 1
        || !(MDA_HEADER_BYTES..ring).contains(&offset)
        || size > ring.min(METADATA_BYTES_MAX)
    {
        return None;
    }
    let first = size.min(ring - offset);
    let mut text = source.read_vec_at(area.start + offset, first as usize).ok()?;
    text.extend(source.read_vec_at(area.start + MDA_HEADER_BYTES, (size - first) as usize).ok()?);
    (crc32::ieee_raw(CRC_START, &text) == fields.le32(56)).then(|| Fields(&text).text(0, text.len()))
}

/// Where the extents of this physical volume lie, in bytes.
struct Layout {
    /// What the text calls it: `pv0`.
    name: String,
    extents_at: u64,
    extent_bytes: u64,
    extents: u64,
}

impl Layout {
    fn of(group: &Section, volume: &PhysicalVolume, size: u64) -> Result<Layout, Fault> {
        let own =
            |(_, physical): &(&str, &Section)| physical.text("id").is_some_and(|id| id.replace('-', "") == volume.id);
        let found = group.section("physical_volumes").and_then(|all| all.sections().find(own));
        let (name, physical) = found.ok_or_else(|| Fault::damaged("its volume group does not name it"))?;
        let layout = Layout::read(name, physical, group).filter(|layout| layout.fits(size));
        layout.ok_or_else(|| Fault::damaged("its extents lie outside of it"))
    }

    fn read(name: &str, physical: &Section, group: &Section) -> Option<Layout> {
        let number = |section: &Section, key| section.number(key).filter(|number| *number < 1 << 50);
        Some(Layout {
            name: name.to_owned(),
            extents_at: number(physical, "pe_start")? * SECTOR,
            extent_bytes: number(group, "extent_size").filter(|sectors| *sectors > 0)? * SECTOR,
            extents: number(physical, "pe_count")?,
        })
    }

    fn fits(&self, size: u64) -> bool {
        let end = self.extents.checked_mul(self.extent_bytes).and_then(|bytes| bytes.checked_add(self.extents_at));
        end.is_some_and(|end| end <= size)
    }
}

/// Adds one logical volume: as its file system says when it is plain and lies here as a whole, else all that lies here.
fn add_logical(
    source: &dyn ReadAt,
    layout: &Layout,
    name: &str,
    logical: &Section,
    used: &mut Ranges,
    warnings: &mut Vec<String>,
) -> Result<(), Fault> {
    let (here, is_plain) = pieces(layout, logical)?;
    let linear = Linear { source, pieces: here };
    let bytes = linear.size();
    let all = Range { start: 0, end: bytes };
    let mapped = match is_plain {
        true => probe(&linear).map_err(Fault::unreadable("logical volumes")).and_then(|probed| match probed.kind {
            super::Kind::Swap => Ok(vec![Range { end: probe::swap_header_bytes(&linear).min(bytes), ..all.clone() }]),
            super::Kind::Lvm => Err(Fault::Closed("it holds another volume group")),
            kind => super::map(&linear, kind).map(|map| map.used),
        }),
        false => Err(Fault::Closed("it is not plain, or lies on several disks")),
    };
    let mapped = mapped.unwrap_or_else(|fault| {
        if bytes > 0 {
            warnings.push(format!("holds the logical volume {name}, which is taken whole: {fault}"));
        }
        vec![all]
    });
    mapped.iter().for_each(|range| linear.add(range, used));
    Ok(())
}

/// The parts of a logical volume that lie on this physical volume, in its own order, and whether that is all of it, visible
/// and without stripes.
fn pieces(layout: &Layout, logical: &Section) -> Result<(Vec<Range<u64>>, bool), Fault> {
    let mut plain = logical.list("status").is_some_and(|status| status.iter().any(|word| word == "VISIBLE"));
    let (mut pieces, mut next) = (Vec::new(), 0);
    let segments = logical.sections().filter(|(name, _)| name.starts_with("segment"));
    for (_, segment) in segments {
        let count = segment.number("extent_count").filter(|count| *count <= 1 << 40);
        let count = count.ok_or_else(|| Fault::damaged("a segment of a logical volume has no length"))?;
        let stripes = segment.list("stripes").unwrap_or_default();
        let in_order = segment.number("start_extent") == Some(next);
        plain &= segment.text("type") == Some("striped") && stripes.len() == 2 && in_order;
        next += count;
        let per_stripe = count / (stripes.len() as u64 / 2).max(1);
        if pieces.len() + stripes.len() > PIECES_MAX {
            return Err(Fault::damaged("a logical volume is in too many pieces"));
        }
        for stripe in stripes.chunks_exact(2) {
            if stripe[0] != layout.name {
                plain = false;
                continue;
            }
            let first = stripe[1].parse::<u64>().ok();
            let end = first.and_then(|first| first.checked_add(per_stripe)).filter(|end| *end <= layout.extents);
            let (Some(first), Some(end)) = (first, end) else {
                return Err(Fault::damaged("a logical volume lies outside of it"));
            };
            let byte = |extent: u64| layout.extents_at + extent * layout.extent_bytes;
            pieces.push(byte(first)..byte(end));
        }
    }
    Ok((pieces, plain))
}

/// A logical volume as its parts one after the other.
struct Linear<'a> {
    source: &'a dyn ReadAt,
    pieces: Vec<Range<u64>>,
}

impl Linear<'_> {
    /// Calls `each` with the place of every part of `range` on the physical volume.
    fn places(&self, range: &Range<u64>, mut each: impl FnMut(Range<u64>) -> io::Result<()>) -> io::Result<()> {
        let mut start = 0;
        for piece in &self.pieces {
            let end = start + (piece.end - piece.start);
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from < to {
                each(piece.start + (from - start)..piece.start + (to - start))?;
            }
            start = end;
        }
        Ok(())
    }

    fn add(&self, range: &Range<u64>, used: &mut Ranges) {
        let added = self.places(range, |place| {
            used.add(place.start, place.end - place.start);
            Ok(())
        });
        debug_assert!(added.is_ok(), "adding a range cannot fail");
    }
}

impl ReadAt for Linear<'_> {
    fn size(&self) -> u64 {
        self.pieces.iter().fold(0, |sum, piece| sum.saturating_add(piece.end - piece.start))
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.size());
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut done = 0;
        self.places(&(offset..end), |place| {
            let len = (place.end - place.start) as usize;
            self.source.read_exact_at(&mut buffer[done..done + len], place.start)?;
            done += len;
            Ok(())
        })
    }
}

/// A section of the text: `name { key = value ... }`, values being numbers, "texts" and [lists] of them.
#[derive(Default)]
struct Section {
    values: Vec<(String, Vec<String>)>,
    inner: Vec<(String, Section)>,
}

impl Section {
    fn parse(text: &str) -> Option<Section> {
        let mut words = words(text).into_iter();
        Section::body(&mut words, 0)
    }

    fn body(words: &mut std::vec::IntoIter<String>, depth: usize) -> Option<Section> {
        let mut section = Section::default();
        while let Some(name) = words.next() {
            if name == "}" {
                return (depth > 0).then_some(section);
            }
            match words.next()?.as_str() {
                "{" if depth < DEPTH_MAX => section.inner.push((name, Section::body(words, depth + 1)?)),
                "=" => section.values.push((name, value(words)?)),
                _ => return None,
            }
        }
        (depth == 0).then_some(section)
    }

    fn sections(&self) -> impl Iterator<Item = (&str, &Section)> {
        self.inner.iter().map(|(name, section)| (name.as_str(), section))
    }

    fn section(&self, wanted: &str) -> Option<&Section> {
        self.sections().find(|(name, _)| *name == wanted).map(|(_, section)| section)
    }

    fn list(&self, key: &str) -> Option<&[String]> {
        self.values.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_slice())
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.list(key)?.first().map(String::as_str)
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.text(key)?.parse().ok()
    }
}

/// One value, or all of a list.
fn value(words: &mut std::vec::IntoIter<String>) -> Option<Vec<String>> {
    let first = words.next()?;
    if first != "[" {
        return Some(vec![first]);
    }
    let mut values = Vec::new();
    loop {
        match words.next()?.as_str() {
            "]" => return Some(values),
            "," => {}
            word => values.push(word.to_owned()),
        }
    }
}

/// Words, texts without their quotes, and signs; comments left out.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for line in text.lines() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next().filter(|first| *first != '#') {
            let len = match first {
                '"' => quoted_len(rest),
                '{' | '}' | '[' | ']' | '=' | ',' => 1,
                _ => rest.find(|c: char| c.is_whitespace() || "{}[]=,#\"".contains(c)).unwrap_or(rest.len()),
            };
            let (word, after) = rest.split_at(len.max(first.len_utf8()).min(rest.len()));
            words.push(word.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(word).to_owned());
            rest = after.trim_start();
        }
    }
    words
}

/// Length of a text with its quotes; a backslash keeps the next character from ending it.
fn quoted_len(text: &str) -> usize {
    let mut kept = true;
    let end = text.char_indices().skip(1).find(|(_, c)| {
        let ends = *c == '"' && kept;
        kept = *c != '\\' || !kept;
        ends
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_text_of_a_volume_group_is_a_tree() {
        let text = "vg {\nid = \"a#b\" # comment\nflags = []\nlv { status = [\"READ\", \"VISIBLE\"]\nstart=7 }\n}\ncontents = \"say \\\"x\\\"\"\nversion = 1\n";
        let tree = Section::parse(text).unwrap();
        let group = tree.section("vg").unwrap();
        assert_eq!(tree.number("version"), Some(1));
        assert_eq!((group.text("id"), group.list("flags")), (Some("a#b"), Some(&[][..])));
        let logical = group.section("lv").unwrap();
        assert_eq!(logical.list("status").unwrap(), ["READ", "VISIBLE"]);
        assert_eq!(logical.number("start"), Some(7));
        for wrong in ["vg {", "}", "a b", "a = [", &"a {".repeat(20)] {
            assert!(Section::parse(wrong).is_none(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-z0-9 {}=\\[\\],\"#\né]{0,200}") {
            let _ = Section::parse(&text);
        }
    }
}
