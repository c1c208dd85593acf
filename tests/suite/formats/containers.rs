//! Containers as qemu-img and partclone write them, and a qcow2 as qemu-img reads it.

use super::{Bench, MIB, have, noise, run, through_store};
use remint::imaging::disk::container::{Error, Format, Opened, folder, open, qcow2_writer};
use remint::imaging::disk::table;
use remint::imaging::import::Source;
use remint::stdx::io::{FileAt, ReadAt};
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A raw disk with islands of data, zeros that are written, and holes, of a size that is no round number.
fn raw_disk(bench: &Bench) -> String {
    let disk = bench.blank("disk.raw", 40 * MIB + 3 * 512);
    let file = OpenOptions::new().write(true).open(&disk).unwrap();
    for (index, at) in [0, 70_000, 5 * MIB, 9 * MIB + 512, 33 * MIB, 40 * MIB].into_iter().enumerate() {
        file.write_all_at(&noise(index as u64 + 1, 1536), at).unwrap();
        file.write_all_at(&b"the same words over and over ".repeat(9000), at + 2048).unwrap_or_default();
    }
    file.write_all_at(&vec![0; 200_000], 20 * MIB).unwrap();
    file.set_len(40 * MIB + 3 * 512).unwrap();
    disk
}

/// The content is the raw disk, and what is not said to be stored is zero in it.
fn check_same(opened: &Opened, raw: &str) {
    let raw = std::fs::read(raw).unwrap();
    let content = &opened.content;
    assert!(content.size() >= raw.len() as u64 && content.size() < raw.len() as u64 + 8 * MIB, "{}", content.size());
    let bytes = content.read_vec_at(0, raw.len()).unwrap();
    assert!(bytes == raw, "differs first at {:?}", bytes.iter().zip(&raw).position(|(a, b)| a != b));
    for (at, len) in [(69_999u64, 3usize), (5 * MIB - 1, 4096), (65_535, 2), (9 * MIB + 511, 70_000)] {
        assert_eq!(content.read_vec_at(at, len).unwrap(), raw[at as usize..at as usize + len]);
    }
    assert!(content.read_vec_at(content.size() - 1, 2).is_err(), "reads past the end");
    if let Some(stored) = &opened.stored {
        assert!(stored.windows(2).all(|pair| pair[0].end < pair[1].start) && stored.iter().all(|r| r.start < r.end));
        let mut blank = raw.clone();
        stored.iter().for_each(|range| blank[clip(range, raw.len())].fill(0));
        assert!(blank.iter().all(|byte| *byte == 0), "something is stored that was not said to be");
    }
}

fn clip(range: &Range<u64>, len: usize) -> Range<usize> {
    (range.start as usize).min(len)..(range.end as usize).min(len)
}

fn converted(format: Format, options: &[&str]) {
    if !have(&["qemu-img"]) {
        return;
    }
    let bench = Bench::new();
    let (raw, image) = (raw_disk(&bench), bench.name("image"));
    run("qemu-img", &[&["convert", "-f", "raw"], options, &[raw.as_str(), image.as_str()]].concat());
    let opened = open(Path::new(&image), None, &bench.path("")).unwrap();
    assert_eq!(opened.format, format);
    check_same(&opened, &raw);
    let out = bench.name("out");
    through_store(Source::opened(opened, Path::new(&image)), &out);
    let name = options[options.iter().position(|option| *option == "-O").unwrap() + 1];
    run("qemu-img", &["compare", "-f", "raw", "-F", name, &out, &image]);
    let cut = File::open(&image).unwrap().metadata().unwrap().len() / 3;
    OpenOptions::new().write(true).open(&image).unwrap().set_len(cut).unwrap();
    // A truncated image is refused, or at least never read beyond its end without saying so.
    if let Ok(opened) = open(Path::new(&image), Some(format), &bench.path("")) {
        let _ = opened.content.read_vec_at(0, 40 * MIB as usize);
    }
}

#[test]
fn qcow2_of_version_2_reads_as_its_disk() {
    converted(Format::Qcow2, &["-O", "qcow2", "-o", "compat=0.10"]);
}

#[test]
fn qcow2_of_version_3_reads_as_its_disk() {
    converted(Format::Qcow2, &["-O", "qcow2", "-o", "cluster_size=4096"]);
}

#[test]
fn qcow2_with_deflated_clusters_reads_as_its_disk() {
    converted(Format::Qcow2, &["-c", "-O", "qcow2"]);
}

#[test]
fn qcow2_with_zstd_clusters_reads_as_its_disk() {
    converted(Format::Qcow2, &["-c", "-O", "qcow2", "-o", "compression_type=zstd,cluster_size=2M"]);
}

#[test]
fn qcow2_with_subclusters_reads_as_its_disk() {
    converted(Format::Qcow2, &["-O", "qcow2", "-o", "extended_l2=on,cluster_size=128k"]);
}

#[test]
fn dynamic_vhd_reads_as_its_disk() {
    converted(Format::Vhd, &["-O", "vpc", "-o", "subformat=dynamic"]);
}

#[test]
fn fixed_vhd_reads_as_its_disk() {
    converted(Format::Vhd, &["-O", "vpc", "-o", "subformat=fixed"]);
}

#[test]
fn dynamic_vhdx_reads_as_its_disk() {
    converted(Format::Vhdx, &["-O", "vhdx", "-o", "block_size=1048576"]);
}

#[test]
fn fixed_vhdx_reads_as_its_disk() {
    converted(Format::Vhdx, &["-O", "vhdx", "-o", "subformat=fixed"]);
}

#[test]
fn sparse_vmdk_reads_as_its_disk() {
    converted(Format::Vmdk, &["-O", "vmdk", "-o", "subformat=monolithicSparse"]);
}

#[test]
fn stream_vmdk_reads_as_its_disk() {
    converted(Format::Vmdk, &["-O", "vmdk", "-o", "subformat=streamOptimized"]);
}

#[test]
fn flat_vmdk_reads_as_its_disk() {
    converted(Format::Vmdk, &["-O", "vmdk", "-o", "subformat=monolithicFlat"]);
}

#[test]
fn split_vmdk_reads_as_its_disk() {
    converted(Format::Vmdk, &["-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"]);
}

#[test]
fn raw_disk_reads_as_itself_without_its_holes() {
    let bench = Bench::new();
    let raw = raw_disk(&bench);
    let opened = open(Path::new(&raw), None, &bench.path("")).unwrap();
    assert_eq!(opened.format, Format::Raw);
    check_same(&opened, &raw);
}

#[test]
fn a_qcow2_written_here_is_the_disk_to_qemu() {
    if !have(&["qemu-img"]) {
        return;
    }
    let bench = Bench::new();
    let (raw, image) = (raw_disk(&bench), bench.name("image.qcow2"));
    let source = open(Path::new(&raw), None, &bench.path("")).unwrap();
    let target = File::create(&image).unwrap();
    let stored = source.stored.unwrap();
    qcow2_writer::write(&source.content, &stored, |bytes, at| target.write_all_at(bytes, at)).unwrap();
    run("qemu-img", &["check", &image]);
    run("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &raw, &image]);
    assert!(std::fs::metadata(&image).unwrap().len() < 8 * MIB);
    check_same(&open(Path::new(&image), None, &bench.path("")).unwrap(), &raw);
}

fn refused(path: &str, scratch: &Path) -> String {
    match open(Path::new(path), None, scratch) {
        Err(error @ Error::Refused { .. }) => error.to_string(),
        Err(error) => panic!("not refused but {error}"),
        Ok(_) => panic!("{path} was opened"),
    }
}

#[test]
fn what_refers_to_other_files_is_refused() {
    if !have(&["qemu-img"]) {
        return;
    }
    let bench = Bench::new();
    let (raw, image) = (raw_disk(&bench), bench.name("image"));
    let create = |format: &str, options: &[&str]| {
        run("qemu-img", &[&["create", "-f", format], options, &[image.as_str()]].concat());
        refused(&image, &bench.path(""))
    };
    assert!(create("qcow2", &["-b", &raw, "-F", "raw"]).contains("backing file"));
    let data = format!("data_file={},data_file_raw=on", bench.name("data"));
    assert!(create("qcow2", &["-o", &data, "-o", "size=1M"]).contains("another file"));
    std::fs::remove_file(&image).unwrap();
    let base = bench.name("base.vmdk");
    run("qemu-img", &["create", "-f", "vmdk", &base, "10M"]);
    assert!(create("vmdk", &["-b", &base, "-F", "vmdk"]).contains("parent"));
    let outside = "# Disk DescriptorFile\nparentCID=ffffffff\nRW 2048 FLAT \"../../etc/passwd\" 0\n";
    std::fs::write(&image, outside).unwrap();
    assert!(refused(&image, &bench.path("")).contains("another folder"));
    std::fs::write(&image, "# Disk DescriptorFile\nparentCID=0123abcd\n").unwrap();
    assert!(refused(&image, &bench.path("")).contains("parent"));
}

#[test]
fn an_encrypted_qcow2_is_refused() {
    let bench = Bench::new();
    let mut header = vec![0; 512];
    header[..8].copy_from_slice(b"QFI\xFB\0\0\0\x03");
    header[35] = 2;
    std::fs::write(bench.path("image"), header).unwrap();
    assert!(refused(&bench.name("image"), &bench.path("")).contains("encrypted"));
}

/// A FAT partition with files, and what partclone makes of it.
fn saved(bench: &Bench, options: &[&str]) -> (String, String) {
    let (source, image) = (bench.blank("part.raw", 64 * MIB), bench.name("image.pcl"));
    run("mkfs.ext4", &["-q", "-F", "-b", "4096", "-d", &bench.content(), &source]);
    let arguments =
        [&["-c", "-F", "-q", "-L", "/dev/null", "-s", source.as_str(), "-o", image.as_str()], options].concat();
    run("partclone.ext4", &arguments);
    (source, image)
}

fn check_unpacked(opened: &Opened, source: &str, bench: &Bench) {
    assert_eq!(opened.format, Format::Partclone);
    let original = FileAt::new(File::open(source).unwrap()).unwrap();
    assert_eq!(opened.content.size(), original.size());
    let mut bytes = 0;
    for range in opened.stored.as_ref().unwrap() {
        let len = (range.end - range.start) as usize;
        assert!(
            opened.content.read_vec_at(range.start, len).unwrap() == original.read_vec_at(range.start, len).unwrap()
        );
        bytes += len;
    }
    assert!(bytes > 3 << 20, "{bytes} bytes used");
    let copy = bench.name("unpacked.raw");
    std::fs::write(&copy, opened.content.read_vec_at(0, original.size() as usize).unwrap()).unwrap();
    run("e2fsck", &["-fn", &copy]);
}

fn partclone_round_trip(options: &[&str]) {
    if !have(&["partclone.ext4", "mkfs.ext4", "e2fsck", "gzip", "zstd"]) {
        return;
    }
    let bench = Bench::new();
    let (source, image) = saved(&bench, options);
    let opened = open(Path::new(&image), None, &bench.path("")).unwrap();
    assert_eq!(opened.warnings, Vec::<String>::new());
    check_unpacked(&opened, &source, &bench);
    for (tool, suffix) in [("gzip", "gz"), ("zstd", "zst")] {
        run(tool, &["-q", "-k", &image]);
        let packed = format!("{image}.{suffix}");
        check_unpacked(&open(Path::new(&packed), None, &bench.path("")).unwrap(), &source, &bench);
    }
    let at = File::open(&image).unwrap().metadata().unwrap().len() / 2;
    OpenOptions::new().write(true).open(&image).unwrap().write_all_at(b"flip", at).unwrap();
    let damaged = open(Path::new(&image), None, &bench.path("")).err().unwrap().to_string();
    assert_eq!(damaged, "read the partclone image: a block does not match its checksum");
}

#[test]
fn partclone_image_unpacks_to_its_partition() {
    partclone_round_trip(&[]);
}

#[test]
fn partclone_image_with_checksums_every_few_blocks_unpacks() {
    partclone_round_trip(&["-k", "7"]);
}

#[test]
fn partclone_image_without_reseeding_unpacks() {
    partclone_round_trip(&["-k", "16", "-K"]);
}

#[test]
fn partclone_image_without_checksums_unpacks_and_says_so() {
    if !have(&["partclone.ext4", "mkfs.ext4", "e2fsck"]) {
        return;
    }
    let bench = Bench::new();
    let (source, image) = saved(&bench, &["-a", "0"]);
    let opened = open(Path::new(&image), None, &bench.path("")).unwrap();
    assert!(opened.warnings[0].contains("no checksums"), "{:?}", opened.warnings);
    check_unpacked(&opened, &source, &bench);
}

/// The old format, made of a new image: both carry the same blocks.
fn as_version_1(bench: &Bench, source: &str, used: &[Range<u64>], gap: usize) -> String {
    let source = FileAt::new(File::open(source).unwrap()).unwrap();
    let (block, blocks) = (4096u64, source.size() / 4096);
    let is_used = |number: u64| used.iter().any(|range| range.contains(&(number * block)));
    let mut image = b"partclone-imageEXTFS\0\0\0\0\0\0\0\0\0\x000001\0\0".to_vec();
    image.extend((block as u32).to_le_bytes());
    for number in [source.size(), blocks, (0..blocks).filter(|number| is_used(*number)).count() as u64] {
        image.extend(number.to_le_bytes());
    }
    image.resize(image.len() + 4096, 0);
    image.extend((0..blocks).map(|number| u8::from(is_used(number))));
    image.extend(b"BiTmAgIc");
    let mut register = !0;
    for number in (0..blocks).filter(|number| is_used(*number)) {
        let bytes = source.read_vec_at(number * block, block as usize).unwrap();
        register = (0..block).fold(register, |register, _| remint::stdx::crc32::ieee_raw(register, &bytes[..1]));
        image.extend(&bytes);
        image.extend(u64::from(register).to_le_bytes().iter().take(gap));
    }
    let path = bench.name("old.pcl");
    std::fs::write(&path, image).unwrap();
    path
}

#[test]
fn partclone_image_of_the_old_format_unpacks_with_both_lengths_of_checksums() {
    if !have(&["partclone.ext4", "partclone.chkimg", "mkfs.ext4", "e2fsck"]) {
        return;
    }
    let bench = Bench::new();
    let (source, image) = saved(&bench, &[]);
    let used = open(Path::new(&image), None, &bench.path("")).unwrap().stored.unwrap();
    for gap in [4, 8] {
        let old = as_version_1(&bench, &source, &used, gap);
        if gap == 4 {
            run("partclone.chkimg", &["-q", "-L", "/dev/null", "-s", &old]);
        }
        check_unpacked(&open(Path::new(&old), None, &bench.path("")).unwrap(), &source, &bench);
    }
}

/// A GPT disk of two partitions with ext4 in the first.
fn small_disk(bench: &Bench) -> (String, String, String) {
    let (source, image) = saved(bench, &[]);
    let disk = bench.blank("sda", 100 * MIB);
    run("sgdisk", &["-n1:2048:+64M", "-n2:0:+8M", &disk]);
    (disk, source, image)
}

fn check_folder(opened: &Opened, format: Format, source: &str) {
    assert_eq!(opened.format, format);
    assert_eq!(opened.content.size(), 100 * MIB);
    let found = table::read(&opened.content, None).unwrap().unwrap();
    assert_eq!(found.warnings(), Vec::<String>::new());
    assert_eq!(found.partitions().len(), 2);
    assert_eq!(opened.warnings.len(), 1, "{:?}", opened.warnings);
    assert!(opened.warnings[0].ends_with("was not saved: it stays empty"));
    let used = remint::imaging::fs::used_ranges(&opened.content).unwrap();
    let original = FileAt::new(File::open(source).unwrap()).unwrap();
    assert_eq!(used.volumes[0].probed.kind, remint::imaging::fs::Kind::Ext4);
    for range in remint::imaging::fs::used_ranges(&original).unwrap().ranges {
        let len = (range.end - range.start) as usize;
        let there = opened.content.read_vec_at(MIB + range.start, len).unwrap();
        assert!(there == original.read_vec_at(range.start, len).unwrap());
    }
}

#[test]
fn a_folder_of_clonezilla_opens_as_its_disk() {
    if !have(&["partclone.ext4", "mkfs.ext4", "sgdisk", "gzip", "split"]) {
        return;
    }
    let bench = Bench::new();
    let (disk, source, image) = small_disk(&bench);
    let folder = bench.path("saved");
    std::fs::create_dir(&folder).unwrap();
    let bytes = std::fs::read(&disk).unwrap();
    std::fs::write(folder.join("disk"), "sda\n").unwrap();
    std::fs::write(folder.join("parts"), "sda1\n").unwrap();
    std::fs::write(folder.join("sda-gpt-1st"), &bytes[..34 * 512]).unwrap();
    std::fs::write(folder.join("sda-gpt-2nd"), &bytes[bytes.len() - 33 * 512..]).unwrap();
    run("gzip", &["-q", "-k", &image]);
    let stem = format!("{}/sda1.ext4-ptcl-img.gz.", folder.display());
    run("split", &["-b", "1M", &format!("{image}.gz"), &stem]);
    check_folder(&folder::open(&folder, &bench.path("")).unwrap(), Format::Clonezilla, &source);
}

#[test]
fn a_folder_of_fog_opens_as_its_disk() {
    if !have(&["partclone.ext4", "mkfs.ext4", "sgdisk", "zstd"]) {
        return;
    }
    let bench = Bench::new();
    let (disk, source, image) = small_disk(&bench);
    let folder = bench.path("saved");
    std::fs::create_dir(&folder).unwrap();
    run("sgdisk", &[&format!("--backup={}/d1.mbr", folder.display()), &disk]);
    run("zstd", &["-q", &image, "-o", &format!("{}/d1p1.img", folder.display())]);
    check_folder(&open(&folder, None, &bench.path("")).unwrap(), Format::Fog, &source);
}

#[test]
fn a_folder_of_something_else_is_refused() {
    let bench = Bench::new();
    assert!(refused(&bench.name(""), &bench.path("")).contains("neither a saved disk of Clonezilla nor one of FOG"));
}
