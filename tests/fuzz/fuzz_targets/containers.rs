//! `containers FORMAT SECONDS`: opening and reading damaged images, made by qemu-img or partclone.

mod driver;
#[path = "../../suite/formats/lies.rs"]
#[expect(dead_code, reason = "the file systems' half is the other target's")]
mod lies;

/// Name, what turns RAW into IMAGE, bytes from the start that are damaged.
const SEEDS: [(&str, &str, u64); 8] = [
    ("qcow2", "qemu-img convert -f raw -O qcow2 -o cluster_size=4096", 1 << 22),
    ("qcow2-subclusters", "qemu-img convert -f raw -c -O qcow2 -o extended_l2=on,compression_type=zstd", 1 << 22),
    ("vhd", "qemu-img convert -f raw -O vpc", 1 << 22),
    ("vhdx", "qemu-img convert -f raw -O vhdx", 1 << 22),
    ("vmdk", "qemu-img convert -f raw -O vmdk", 1 << 22),
    ("vmdk-stream", "qemu-img convert -f raw -O vmdk -o subformat=streamOptimized", 1 << 22),
    ("partclone", "partclone.ext4 -c -F -q -L /dev/null -s", 2048),
    ("partclone-blocks", "partclone.ext4 -c -F -q -k 3 -K -L /dev/null -s", 1 << 22),
];

fn main() {
    let (name, seconds) = driver::arguments();
    let (_, command, in_first) = SEEDS.into_iter().find(|seed| seed.0 == name).expect("a seed of that name");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (raw, image) = (folder.path().join("raw"), folder.path().join("image").display().to_string());
    std::fs::File::create(&raw).and_then(|file| file.set_len(8 << 20)).expect("a sparse file");
    driver::run(&format!("mke2fs -q -F -t ext4 -d /usr/share/doc/dpkg {}", raw.display()));
    let between = if command.starts_with("partclone") { "-o " } else { "" };
    driver::run(&format!("{command} {} {between}{image}", raw.display()));
    driver::rounds(&name, seconds, |rounds| lies::lie_about_container(&image, folder.path(), rounds, in_first));
}
