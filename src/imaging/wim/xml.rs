//! The XML of a WIM file: UTF-16 with a byte order mark, one `IMAGE` element for each image. What is not understood
//! here (Windows' edition, languages, ...) is kept as it stands and written back.

use std::fmt::Write;

use quick_xml::events::Event;
use quick_xml::{Reader, escape};

use super::error::Error;

/// Real ones have some tens of kilobytes.
pub const XML_BYTES_MAX: u64 = 16 << 20;

const BYTE_ORDER_MARK: u16 = 0xfeff;

/// Elements that this program writes itself; the others of an image are passed through.
const OWN_ELEMENTS: [&str; 9] = [
    "NAME",
    "DESCRIPTION",
    "DISPLAYNAME",
    "DIRCOUNT",
    "FILECOUNT",
    "TOTALBYTES",
    "HARDLINKBYTES",
    "CREATIONTIME",
    "LASTMODIFICATIONTIME",
];

/// What the XML says of an image.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct ImageInfo {
    pub index: u32,
    pub name: String,
    pub description: String,
    pub folders: u64,
    pub files: u64,
    pub bytes: u64,
    pub hard_link_bytes: u64,
    /// 100 ns units since 1601.
    pub created: u64,
    pub modified: u64,
    /// Windows' edition (`WINDOWS/EDITIONID`), empty for anything else.
    pub edition: String,
    /// XML of the elements that are not in the fields above (the edition is in there too).
    #[serde(skip)]
    pub other: String,
}

/// The images in the order of their indexes.
pub fn parse(bytes: &[u8]) -> Result<Vec<ImageInfo>, Error> {
    let text = decode(bytes)?;
    let mut reader = Reader::from_str(&text);
    let mut images: Vec<ImageInfo> = Vec::new();
    let mut path: Vec<String> = Vec::new();
    let mut other_from = None;
    loop {
        let before = reader.buffer_position() as usize;
        let event = reader.read_event().map_err(|error| Error::Xml { what: error.to_string() })?;
        let after = reader.buffer_position() as usize;
        match event {
            Event::Eof => break,
            Event::Start(start) => {
                let name = start.name().0;
                path.push(name.to_ascii_uppercase());
                if path.len() == 2 && path[1] == "IMAGE" {
                    let index = start.attributes().flatten().find(|a| a.key.0.eq_ignore_ascii_case("INDEX"));
                    let index = index.and_then(|index| index.value.trim().parse().ok());
                    images.push(ImageInfo { index: index.unwrap_or(images.len() as u32 + 1), ..ImageInfo::default() });
                }
                if is_other(&path) && other_from.is_none() {
                    other_from = Some(before);
                }
            }
            Event::Empty(start) => {
                path.push(start.name().0.to_ascii_uppercase());
                if let Some(image) = images.last_mut().filter(|_| is_other(&path)) {
                    image.other.push_str(&text[before..after]);
                }
                path.pop();
            }
            Event::End(_) => {
                if path.len() == 3
                    && let (Some(from), Some(image)) = (other_from.take(), images.last_mut())
                {
                    image.other.push_str(&text[from..after]);
                }
                path.pop();
            }
            Event::Text(_) | Event::GeneralRef(_) | Event::CData(_) => {
                if let Some(image) = images.last_mut() {
                    take_text(image, &path, &text[before..after]);
                }
            }
            _ => {}
        }
    }
    images.sort_by_key(|image| image.index);
    Ok(images)
}

fn is_other(path: &[String]) -> bool {
    path.len() == 3 && path[1] == "IMAGE" && !OWN_ELEMENTS.contains(&path[2].as_str())
}

fn decode(bytes: &[u8]) -> Result<String, Error> {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    // All of them: the reader would pass over a second one without counting its bytes.
    let start = units.iter().take_while(|unit| **unit == BYTE_ORDER_MARK).count();
    let units = &units[start..];
    // Some writers leave a NUL at the end.
    let end = units.iter().rposition(|unit| *unit != 0).map_or(0, |last| last + 1);
    String::from_utf16(&units[..end]).map_err(|_| Error::Xml { what: "it is not UTF-16".to_owned() })
}

fn take_text(image: &mut ImageInfo, path: &[String], raw: &str) {
    let path: Vec<&str> = path.iter().skip(2).map(String::as_str).collect();
    let text = match raw.strip_prefix("<![CDATA[").and_then(|raw| raw.strip_suffix("]]>")) {
        Some(inner) => inner.to_owned(),
        None => escape::unescape(raw).map_or_else(|_| raw.to_owned(), |text| text.into_owned()),
    };
    let number = || text.trim().parse().unwrap_or(0);
    match path[..] {
        ["NAME"] => image.name.push_str(&text),
        ["DESCRIPTION"] => image.description.push_str(&text),
        ["DIRCOUNT"] => image.folders = number(),
        ["FILECOUNT"] => image.files = number(),
        ["TOTALBYTES"] => image.bytes = number(),
        ["HARDLINKBYTES"] => image.hard_link_bytes = number(),
        ["CREATIONTIME", "HIGHPART"] => image.created |= hexadecimal(&text) << 32,
        ["CREATIONTIME", "LOWPART"] => image.created |= hexadecimal(&text),
        ["LASTMODIFICATIONTIME", "HIGHPART"] => image.modified |= hexadecimal(&text) << 32,
        ["LASTMODIFICATIONTIME", "LOWPART"] => image.modified |= hexadecimal(&text),
        ["WINDOWS", "EDITIONID"] => image.edition.push_str(&text),
        _ => {}
    }
}

fn hexadecimal(text: &str) -> u64 {
    let text = text.trim();
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    u64::from(u32::from_str_radix(digits, 16).unwrap_or(0))
}

/// The XML for `images`; `stored_bytes` is what all resources take in the file, where that is known.
pub fn emit(images: &[ImageInfo], stored_bytes: Option<u64>) -> Vec<u8> {
    let mut text = String::from("\u{feff}<WIM>");
    for image in images {
        emit_image(&mut text, image).expect("writing to a string does not fail");
    }
    let stored = stored_bytes.map_or_else(String::new, |bytes| format!("<TOTALBYTES>{bytes}</TOTALBYTES>"));
    write!(text, "{stored}</WIM>").expect("writing to a string does not fail");
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn emit_image(text: &mut String, image: &ImageInfo) -> std::fmt::Result {
    write!(text, "<IMAGE INDEX=\"{}\">", image.index)?;
    write!(text, "<DIRCOUNT>{}</DIRCOUNT><FILECOUNT>{}</FILECOUNT>", image.folders, image.files)?;
    write!(text, "<TOTALBYTES>{}</TOTALBYTES><HARDLINKBYTES>{}</HARDLINKBYTES>", image.bytes, image.hard_link_bytes)?;
    for (element, time) in [("CREATIONTIME", image.created), ("LASTMODIFICATIONTIME", image.modified)] {
        let (high, low) = (time >> 32, time & 0xffff_ffff);
        write!(text, "<{element}><HIGHPART>0x{high:08X}</HIGHPART><LOWPART>0x{low:08X}</LOWPART></{element}>")?;
    }
    text.push_str(&image.other);
    for (element, value) in [("NAME", &image.name), ("DESCRIPTION", &image.description)] {
        if !value.is_empty() {
            // What XML cannot hold at all would make the file unreadable for others.
            let value: String = value.chars().filter(|c| !c.is_control()).collect();
            write!(text, "<{element}>{}</{element}>", escape::escape(value.as_str()))?;
        }
    }
    text.push_str("</IMAGE>");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn utf16(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn what_windows_writes_is_read_and_the_rest_is_kept() {
        let text = "\u{feff}<WIM><TOTALBYTES>1</TOTALBYTES><IMAGE INDEX=\"2\"><NAME>b &amp; &#xe4;</NAME></IMAGE>\
            <IMAGE INDEX=\"1\"><DIRCOUNT>7</DIRCOUNT><WINDOWS><ARCH>9</ARCH><EDITIONID>Professional</EDITIONID></WINDOWS>\
            <CREATIONTIME><HIGHPART>0x01D2</HIGHPART><LOWPART>0xFFFFFFFF</LOWPART></CREATIONTIME><FLAGS/>\
            <NAME>a</NAME></IMAGE></WIM>";
        let images = parse(&utf16(text)).unwrap();
        assert_eq!(images.len(), 2);
        assert_eq!((images[0].name.as_str(), images[0].folders, images[0].created), ("a", 7, 0x01d2_ffff_ffff));
        assert_eq!(images[0].edition, "Professional");
        assert_eq!(images[0].other, "<WINDOWS><ARCH>9</ARCH><EDITIONID>Professional</EDITIONID></WINDOWS><FLAGS/>");
        assert_eq!(images[1].name, "b & ä");
    }

    proptest! {
        #[test]
        fn what_is_emitted_parses_back(name in "\\PC*", description in "\\PC*", numbers: [u64; 6]) {
            let image = ImageInfo {
                index: 1, name, description, folders: numbers[0], files: numbers[1], bytes: numbers[2],
                hard_link_bytes: numbers[3], created: numbers[4], modified: numbers[5], edition: "Pro".to_owned(),
                other: "<WINDOWS><EDITIONID>Pro</EDITIONID></WINDOWS>".to_owned(),
            };
            prop_assert_eq!(parse(&emit(std::slice::from_ref(&image), Some(5))).unwrap(), vec![image]);
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>, text in "[<>/&;a-cIMAGE!\\[\\]=\"-]{0,60}") {
            let _ = parse(&bytes);
            let _ = parse(&utf16(&text));
            let _ = parse(&utf16(&format!("\u{feff}\u{feff}{text}ä<a>")));
            let _ = parse(&utf16(&format!("<WIM><IMAGE>{text}</IMAGE></WIM>")));
        }
    }
}
