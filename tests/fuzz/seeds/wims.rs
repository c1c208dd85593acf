//! WIM files of a small tree, made by wimlib, and what is inside of them.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use remint::imaging::wim::codec::Compression;
use remint::imaging::wim::reader::{OnDamage, Wim};
use remint::imaging::wim::{metadata, reparse};
use remint::stdx::io::ReadAt;

use super::tools::{Bench, run};
use super::{Seeds, behind};

/// Name, options of `wimlib-imagex capture`.
const CAPTURED: &[(&str, &str)] = &[
    ("none", "--compress=none --unix-data"),
    ("xpress", "--compress=XPRESS --chunk-size=4K --unix-data --check"),
    ("lzx", "--compress=LZX --unix-data"),
    ("lzms", "--compress=LZMS --chunk-size=64K --unix-data"),
    ("solid", "--solid --solid-compress=LZMS --solid-chunk-size=64K"),
    ("solid-lzx", "--solid --solid-compress=LZX --solid-chunk-size=32K --unix-data"),
    ("pipable", "--pipable --compress=XPRESS --unix-data"),
    ("boot", "--compress=LZX --boot --config=/dev/null"),
];

pub fn seeds(target: &str) -> Seeds {
    let bench = Bench::new();
    let tree = make_tree(&bench);
    let mut seeds = match target {
        "wim-parts" => behind(2, links()),
        "xpress" => vec![("text".to_owned(), std::fs::read(tree.join("text")).expect("it was just written"))],
        _ => Seeds::new(),
    };
    for (name, options) in CAPTURED {
        let file = bench.path(&format!("{name}.wim"));
        if run(&format!("wimlib-imagex capture {} {{}} name {options}", tree.display()), &file).is_none() {
            continue;
        }
        match target {
            "wim" => seeds.push(((*name).to_owned(), std::fs::read(&file).expect("what a tool made can be read"))),
            "wim-parts" => {
                seeds.extend(behind(0, metadata_of(name, &file)));
                seeds.extend(behind(1, xml_of(name, &file)));
            }
            _ => seeds.extend(chunks_of(name, &file, target)),
        }
    }
    seeds
}

/// Files that compress in different ways, links of both kinds, a folder, an attribute.
fn make_tree(bench: &Bench) -> PathBuf {
    let tree = bench.path("tree");
    std::fs::create_dir_all(tree.join("folder/deeper")).expect("a folder is made");
    let write = |name: &str, bytes: &[u8]| std::fs::write(tree.join(name), bytes).expect("a file is written");
    let text: String = (0..900).map(|line| format!("line {} of a text that repeats itself\n", line % 83)).collect();
    write("text", text.as_bytes());
    write("folder/short", b"x");
    write("folder/deeper/empty", b"");
    // Calls of x86 code, which LZX and LZMS translate.
    let code: Vec<u8> = (0..600u32).flat_map(|at| [0xE8, (at * 5) as u8, (at >> 3) as u8, 0, 0, 0x90, 0x8B]).collect();
    write("code", &code);
    let noise: Vec<u8> = (0..3000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    write("noise", &noise);
    symlink("../text", tree.join("folder/link")).expect("a link is made");
    std::fs::hard_link(tree.join("text"), tree.join("folder/again")).expect("a link is made");
    tree
}

fn links() -> Seeds {
    let all = ["/etc/passwd", "../../x/y", "a"];
    all.iter().filter_map(|link| Some((format!("link-{}", link.len()), reparse::link_data(link.as_bytes())?))).collect()
}

fn xml_of(name: &str, file: &Path) -> Seeds {
    let xml = file.with_extension("xml");
    run(&format!("wimlib-imagex info {} --extract-xml {{}}", file.display()), &xml);
    std::fs::read(xml).map(|bytes| (format!("xml-{name}"), bytes)).into_iter().collect()
}

fn metadata_of(name: &str, file: &Path) -> Seeds {
    let wim = Wim::open(file, OnDamage::Stop).expect("what wimlib made opens");
    let (tree, _) = wim.tree(1, OnDamage::Stop).expect("what wimlib made has an image");
    vec![(format!("metadata-{name}"), metadata::emit(&tree))]
}

/// Compressed chunks of the file, as the targets of the codecs take them.
fn chunks_of(name: &str, file: &Path, target: &str) -> Seeds {
    let wim = Wim::open(file, OnDamage::Stop).expect("what wimlib made opens");
    let wanted = match target {
        "xpress" => Compression::Xpress,
        "lzx" => Compression::Lzx,
        _ => Compression::Lzms,
    };
    let resources = wim.resources.iter().chain(wim.metadata.iter().map(|(resource, _)| resource));
    let mut seeds = Seeds::new();
    for resource in resources.filter(|resource| resource.compression == wanted) {
        let source = &wim.parts[resource.part].source;
        let Ok(table) = resource.chunks(source) else { continue };
        let shift = (resource.chunk_bytes.trailing_zeros() as u8).saturating_sub(11);
        for chunk in table.chunks().iter().filter(|chunk| chunk.stored_bytes < chunk.plain_bytes) {
            let plain = chunk.plain_bytes.to_le_bytes();
            let stored =
                source.read_vec_at(chunk.offset, chunk.stored_bytes as usize).expect("a chunk lies in its file");
            seeds.push((format!("{name}-{}", seeds.len()), [&[shift], &plain[..3], &stored[..]].concat()));
        }
    }
    seeds
}
