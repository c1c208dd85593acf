//! Whether a text is a well-formed document of XML 1.0 with namespaces, encoded in UTF-8.

use quick_xml::NsReader;
use quick_xml::escape::unescape;
use quick_xml::events::{BytesDecl, BytesRef, BytesStart, Event};
use quick_xml::name::{Namespace, QName, ResolveResult};

/// Elements within elements: more is not written by anybody.
const DEPTH_MAX: usize = 256;

/// The outermost element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Root {
    /// Without a prefix.
    pub name: String,
    /// Empty when it is in none.
    pub namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Fault {
    pub line: u32,
    pub what: String,
}

/// The root of the document, or why it is none. A document type is refused: it could bring entities of its own.
pub fn root(text: &str) -> Result<Root, Fault> {
    let fault = |at: u64, what: String| Fault { line: line_of(text, at), what };
    if let Some((at, bad)) = text.char_indices().find(|(_, character)| !is_character(*character)) {
        return Err(fault(at as u64, format!("U+{:04X} is no character of XML", u32::from(bad))));
    }
    let mut reader = NsReader::from_str(text);
    let (mut root, mut depth) = (None, 0usize);
    loop {
        let at = reader.buffer_position();
        let event = match reader.read_event() {
            Ok(event) => event,
            Err(error) => return Err(fault(reader.error_position(), error.to_string())),
        };
        let looked = match &event {
            Event::Eof if depth > 0 => Err("an element is not closed at the end".to_owned()),
            Event::Eof => return root.ok_or_else(|| fault(at, "there is no element".to_owned())),
            Event::Start(_) | Event::Empty(_) if depth == 0 && root.is_some() => {
                Err("there are two outermost elements".to_owned())
            }
            Event::Start(_) if depth >= DEPTH_MAX => Err(format!("elements are nested more than {DEPTH_MAX} deep")),
            Event::Start(tag) | Event::Empty(tag) => element(&reader, tag).map(|found| {
                root.get_or_insert(found);
            }),
            Event::Text(words) if depth == 0 && !words.trim_ascii().is_empty() => outside(),
            Event::Text(words) if words.contains("]]>") => Err("`]]>` stands outside of a CDATA section".to_owned()),
            Event::CData(_) | Event::GeneralRef(_) if depth == 0 => outside(),
            Event::GeneralRef(reference) => character(reference),
            Event::Decl(declaration) => declared(declaration, at),
            Event::DocType(_) => Err("it has a document type".to_owned()),
            _ => Ok(()),
        };
        looked.map_err(|what| fault(at, what))?;
        match event {
            Event::Start(_) => depth += 1,
            Event::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
}

fn outside() -> Result<(), String> {
    Err("there is text outside of the outermost element".to_owned())
}

fn element(reader: &NsReader<&[u8]>, tag: &BytesStart<'_>) -> Result<Root, String> {
    let (resolved, name) = reader.resolver().resolve_element(tag.name());
    let found = Root { name: name.into_inner().to_owned(), namespace: namespace(resolved)? };
    named(tag.name())?;
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|error| error.to_string())?;
        named(attribute.key)?;
        if attribute.key.as_namespace_binding().is_none() {
            namespace(reader.resolver().resolve_attribute(attribute.key).0)?;
        }
        if attribute.value.contains('<') {
            return Err(format!("the value of `{}` has a `<`, which is written `&lt;`", attribute.key.0));
        }
        let value = unescape(&attribute.value).map_err(|error| error.to_string())?;
        if !value.chars().all(is_character) {
            return Err(format!("the value of `{}` names what is no character of XML", attribute.key.0));
        }
    }
    Ok(found)
}

fn namespace(resolved: ResolveResult<'_>) -> Result<String, String> {
    match resolved {
        ResolveResult::Bound(Namespace(name)) => Ok(name.to_owned()),
        ResolveResult::Unbound => Ok(String::new()),
        ResolveResult::Unknown(prefix) => Err(format!("the prefix `{prefix}` is not declared")),
    }
}

/// XML 1.0, 2.3 `Name`; beyond ASCII everything is taken.
fn named(name: QName<'_>) -> Result<(), String> {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || !c.is_ascii();
    let next = |c: char| first(c) || c.is_ascii_digit() || "-.:".contains(c);
    match name.0.starts_with(first) && name.0.chars().all(next) {
        true => Ok(()),
        false => Err(format!("`{}` is no name", name.0)),
    }
}

fn character(reference: &BytesRef<'_>) -> Result<(), String> {
    let named = || ["lt", "gt", "amp", "apos", "quot"].contains(&&**reference);
    match reference.resolve_char_ref() {
        Ok(Some(found)) if is_character(found) => Ok(()),
        Ok(None) if named() => Ok(()),
        _ => Err(format!("`&{};` stands for nothing", &**reference)),
    }
}

fn declared(declaration: &BytesDecl<'_>, at: u64) -> Result<(), String> {
    if at != 0 {
        return Err("the XML declaration is not at the beginning".to_owned());
    }
    match declaration.encoding() {
        None => Ok(()),
        Some(Ok(encoding)) if encoding.eq_ignore_ascii_case("utf-8") => Ok(()),
        Some(_) => Err("the encoding is UTF-8, and the XML declaration says otherwise".to_owned()),
    }
}

/// XML 1.0, 2.2 `Char`.
fn is_character(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

fn line_of(text: &str, at: u64) -> u32 {
    let before = usize::try_from(at).unwrap_or(usize::MAX).min(text.len());
    1 + text.as_bytes()[..before].iter().filter(|byte| **byte == b'\n').count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_well_formed_document_is_refused_with_its_line() {
        for (text, expect) in [
            ("", "line 1: there is no element"),
            ("<a>\n<b></a>", "line 2: "),
            ("<a>\n", "line 2: an element is not closed at the end"),
            ("<a/>\n<b/>", "line 2: there are two outermost elements"),
            ("<a/>\nx", "line 1: there is text outside of the outermost element"),
            ("x<a/>", "line 1: there is text outside of the outermost element"),
            ("<a>\nR&D</a>", "line 2: "),
            ("<a>&nbsp;</a>", "line 1: `&nbsp;` stands for nothing"),
            ("<a>&#1;</a>", "line 1: `&#1;` stands for nothing"),
            ("<a>]]></a>", "line 1: `]]>` stands outside of a CDATA section"),
            ("<a b='<'/>", "line 1: the value of `b` has a `<`, which is written `&lt;`"),
            ("<a b='1' b='2'/>", "line 1: "),
            ("<a b=1/>", "line 1: "),
            ("<a b='&x;'/>", "line 1: "),
            ("<1a/>", "line 1: `1a` is no name"),
            ("<a wcm:action='add'/>", "line 1: the prefix `wcm` is not declared"),
            ("<!DOCTYPE a>\n<a/>", "line 1: it has a document type"),
            ("<?xml version='1.0' encoding='utf-16'?><a/>", "line 1: the encoding is UTF-8"),
            ("\n<?xml version='1.0'?><a/>", "line 2: the XML declaration is not at the beginning"),
            ("<a>\n\u{0}</a>", "line 2: U+0000 is no character of XML"),
        ] {
            let fault = root(text).unwrap_err().to_string();
            assert!(fault.starts_with(expect), "{text:?}: {fault}");
        }
    }

    #[test]
    fn a_well_formed_document_gives_its_root() {
        let text = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<!-- c -->\n<u:unattend xmlns:u='urn:x' xmlns:w='urn:w'>\n\
                    <u:a w:action=\"&lt;&#x41;\">&amp;&#65;<![CDATA[<]]></u:a>\n</u:unattend>\n";
        assert_eq!(root(text).unwrap(), Root { name: "unattend".into(), namespace: "urn:x".into() });
        assert_eq!(root("<a/>").unwrap(), Root { name: "a".into(), namespace: String::new() });
        assert!(root(&"<a>".repeat(70_000)).unwrap_err().to_string().contains("nested more than"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_in_an_element_is_well_formed_once_it_is_escaped(text in "\\PC*") {
            let document = format!("<a b=\"{0}\">{0}</a>", quick_xml::escape::escape(text.as_str()));
            proptest::prop_assert!(root(&document).is_ok() || !text.chars().all(is_character));
            let _ = root(&text);
        }
    }
}
