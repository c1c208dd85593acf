//! The inventory of a machine against what the system's own tools say of the same one, field by field.
//!
//! | tool | fields |
//! |---|---|
//! | dmidecode, type 0 | firmware: vendor, version, date |
//! | type 1 | system: manufacturer, product, version, serial, uuid, sku, family |
//! | type 2 | board: manufacturer, product, version, serial, asset_tag |
//! | type 3 | chassis: manufacturer, kind, serial, asset_tag |
//! | type 4 | processor: sockets, cores |
//! | type 17 | memory modules: how many, slot, bytes, kind, mega_transfers, manufacturer, serial, part |
//! | lsblk | disks: which, bytes, sector_bytes, rotational, removable, model, serial, wwn, transport |
//! | lsblk | partitions: which, start, bytes, and where it says them filesystem, label, mounted_at |
//! | lspci | PCI devices: which, class, vendor, device, subsystem_vendor, subsystem_device, revision, kind, vendor_name, device_name |
//! | dpkg-query | packages: which, version, architecture |
//!
//! lsblk and dpkg-query run on the machine. dmidecode and lspci, which its small system does not have, run here on the
//! tables and configuration spaces that its kernel showed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use remint::lab::disk::Ext4;
use remint::stdx::hex;
use serde_json::{Value, json};

use crate::bench::remint;

/// Publishes the site's sequence anew, with the tools' step as its last.
pub(crate) fn ask_the_tools(site: &Path) {
    let folder = site.join("with-oracles");
    std::fs::create_dir(&folder).unwrap();
    let sequence = include_str!("../../docs/examples/first-site/debian.yaml");
    std::fs::write(folder.join("debian.yaml"), format!("{sequence}  - run-script:\n      script: oracles\n")).unwrap();
    std::fs::write(folder.join("oracles"), include_str!("oracles.sh")).unwrap();
    remint(site, &["sequence", "publish", folder.join("debian.yaml").to_str().unwrap()]);
}

/// Nothing in the machine's record differs from what the tools left on its disk, which is read with the machine off.
pub(crate) fn assert_as_the_tools_say(record: &Value, root: &Ext4, scratch: &Path) {
    let left = |name: &str| {
        let path = format!("/var/lib/oracles/{name}");
        root.read(&path).unwrap().unwrap_or_else(|| panic!("{path} is not on the disk"))
    };
    let hardware = &record["hardware"]["what"];
    let mut compared = Compared::default();
    match Dmidecode::of(&left("entry-point"), &left("table"), scratch) {
        None => println!("skipped: there is no dmidecode"),
        Some(dmidecode) => firmware_table(&mut compared, hardware, &dmidecode),
    }
    disks(&mut compared, hardware, &left("lsblk.json"));
    partitions(&mut compared, hardware, &left("partitions.json"));
    std::fs::write(scratch.join("pci"), left("pci")).unwrap();
    match output("lspci", &["-F", scratch.join("pci").to_str().unwrap(), "-D", "-nn", "-vmm"]) {
        None => println!("skipped: there is no lspci"),
        Some(text) => pci(&mut compared, hardware, &text),
    }
    packages(&mut compared, &record["software"]["what"], &left("dpkg"));
    println!("  the tools' words for {} fields of the inventory are compared", compared.fields);
    assert!(compared.differences.is_empty(), "{}", compared.differences.join("\n"));
}

#[derive(Default)]
struct Compared {
    fields: usize,
    differences: Vec<String>,
}

impl Compared {
    fn same(&mut self, what: &str, ours: &Value, theirs: &Value) {
        self.fields += 1;
        if ours != theirs {
            self.differences.push(format!("{what}: the inventory says {ours}, the tool {theirs}"));
        }
    }

    /// Each `(our name, the tool's)`; `theirs` reads the tool's.
    fn all(&mut self, what: &str, ours: &Value, names: &[(&str, &str)], theirs: impl Fn(&str) -> Value) {
        names.iter().for_each(|(our, their)| self.same(&format!("{what} {our}"), &ours[our], &theirs(their)));
    }
}

/// `None` where there is no such program.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// The structures of one machine as dmidecode reads them.
struct Dmidecode {
    dump: PathBuf,
}

impl Dmidecode {
    /// As `dmidecode --dump-bin` lays it: the entry point at 0, which says that the table is at 32 (DSP0134 5.2).
    fn of(entry_point: &str, table: &str, scratch: &Path) -> Option<Dmidecode> {
        let mut dump = hex::parse(entry_point).unwrap();
        let (address, sum) = match dump.starts_with(b"_SM3_") {
            true => (0x10..0x18, 0x05),
            false => (0x18..0x1C, 0x15),
        };
        dump.resize(32, 0);
        // A sum of all bytes stays zero when the byte for it takes what the others lose.
        let before: u8 = dump[address.clone()].iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
        dump[address.clone()].fill(0);
        dump[address.start] = 32;
        dump[sum] = dump[sum].wrapping_add(before).wrapping_sub(32);
        dump.extend(hex::parse(table).unwrap());
        let path = scratch.join("smbios");
        std::fs::write(&path, dump).unwrap();
        Path::new(DMIDECODE).exists().then_some(Dmidecode { dump: path })
    }

    /// Names and values of each structure of a type; `Not Specified` and `Unknown` are null.
    fn structures(&self, kind: u8) -> Vec<BTreeMap<String, Value>> {
        let text = output(DMIDECODE, &["--from-dump", self.dump.to_str().unwrap(), "--type", &kind.to_string()]);
        let told = |value: &str| match value.trim() {
            "Not Specified" | "Unknown" => Value::Null,
            value => value.into(),
        };
        let structure = |block: &str| {
            let lines = block.lines().filter_map(|line| line.strip_prefix('\t')?.split_once(": "));
            lines.map(|(name, value)| (name.to_owned(), told(value))).collect()
        };
        text.unwrap().split("\n\n").filter(|block| block.starts_with("Handle ")).map(structure).collect()
    }
}

const DMIDECODE: &str = "/usr/sbin/dmidecode";

fn firmware_table(compared: &mut Compared, hardware: &Value, dmidecode: &Dmidecode) {
    let one = |kind: u8| dmidecode.structures(kind).into_iter().next().unwrap_or_default();
    let field = |structure: &BTreeMap<String, Value>, name: &str| structure.get(name).cloned().unwrap_or_default();
    let (firmware, system, board, chassis) = (one(0), one(1), one(2), one(3));
    compared.all(
        "firmware",
        &hardware["firmware"],
        &[("vendor", "Vendor"), ("version", "Version"), ("date", "Release Date")],
        |name| field(&firmware, name),
    );
    let maker = [("manufacturer", "Manufacturer"), ("serial", "Serial Number")];
    let product = [("product", "Product Name"), ("version", "Version")];
    let names = [("uuid", "UUID"), ("sku", "SKU Number"), ("family", "Family")];
    let tag = [("asset_tag", "Asset Tag")];
    compared.all("system", &hardware["system"], &[&maker[..], &product, &names].concat(), |name| field(&system, name));
    compared.all("board", &hardware["board"], &[&maker[..], &product, &tag].concat(), |name| field(&board, name));
    compared.all("chassis", &hardware["chassis"], &[&maker[..], &tag].concat(), |name| field(&chassis, name));
    compared.same("chassis kind", &chassis_words(&hardware["chassis"]["kind"]), &field(&chassis, "Type"));

    let processors = dmidecode.structures(4);
    let cores = |one: &BTreeMap<String, Value>| field(one, "Core Count").as_str()?.parse::<u64>().ok();
    compared.same("sockets", &hardware["processor"]["sockets"], &json!(processors.len()));
    compared.same("cores", &hardware["processor"]["cores"], &json!(processors.iter().filter_map(cores).sum::<u64>()));
    modules(compared, &hardware["memory"]["modules"], &dmidecode.structures(17));
}

/// dmidecode's words for DSP0134 7.4.1, of what machines of a lab are.
fn chassis_words(kind: &Value) -> Value {
    let words = [(1, "Other"), (3, "Desktop"), (9, "Laptop"), (10, "Notebook"), (23, "Rack Mount Chassis")];
    words.iter().find(|(number, _)| kind == number).map_or(kind.clone(), |(_, words)| (*words).into())
}

fn modules(compared: &mut Compared, ours: &Value, theirs: &[BTreeMap<String, Value>]) {
    let is_there = |slot: &&BTreeMap<String, Value>| slot["Size"] != "No Module Installed";
    let theirs: Vec<_> = theirs.iter().filter(is_there).collect();
    compared.same("memory modules", &json!(ours.as_array().unwrap().len()), &json!(theirs.len()));
    for (ours, theirs) in ours.as_array().unwrap().iter().zip(theirs) {
        let texts = [
            ("slot", "Locator"),
            ("kind", "Type"),
            ("manufacturer", "Manufacturer"),
            ("serial", "Serial Number"),
            ("part", "Part Number"),
        ];
        compared.all("memory module", ours, &texts, |name| theirs[name].clone());
        let bytes = theirs["Size"].as_str().and_then(|size| {
            let (number, unit) = size.split_once(' ')?;
            let shift = 10 * (1 + ["kB", "MB", "GB", "TB"].iter().position(|one| *one == unit)?);
            Some(number.parse::<u64>().ok()? << shift)
        });
        compared.same("memory module bytes", &ours["bytes"], &json!(bytes));
        let speed = theirs["Speed"].as_str().map(|speed| speed.strip_suffix(" MT/s").unwrap().parse::<u32>().unwrap());
        compared.same("memory module mega_transfers", &ours["mega_transfers"], &json!(speed));
    }
}

fn disks(compared: &mut Compared, hardware: &Value, text: &str) {
    let all: Value = serde_json::from_str(text).unwrap();
    let listed: Vec<&Value> = all["blockdevices"].as_array().unwrap().iter().collect();
    let theirs: Vec<_> = listed.into_iter().filter(|device| device["type"] == "disk").collect();
    let ours = hardware["disks"].as_array().unwrap();
    compared.same("disks", &json!(ours.len()), &json!(theirs.len()));
    let names = [
        ("name", "name"),
        ("bytes", "size"),
        ("sector_bytes", "log-sec"),
        ("rotational", "rota"),
        ("removable", "rm"),
        ("model", "model"),
        ("serial", "serial"),
        ("wwn", "wwn"),
    ];
    for (ours, theirs) in ours.iter().zip(theirs) {
        compared.all("disk", ours, &names, |name| theirs[name].clone());
        // Not every lsblk knows virtio.
        if ours["transport"] != "virtio" || !theirs["tran"].is_null() {
            compared.same("disk transport", &ours["transport"], &theirs["tran"]);
        }
    }
}

/// In the order of the disk. lsblk counts starts in units of 512 bytes, and does not tell the kinds of FAT apart.
fn partitions(compared: &mut Compared, hardware: &Value, text: &str) {
    let all: Value = serde_json::from_str(text).unwrap();
    let mut theirs: Vec<&Value> =
        all["blockdevices"].as_array().unwrap().iter().filter(|device| device["type"] == "part").collect();
    theirs.sort_by_key(|device| device["start"].as_u64());
    let disks = hardware["disks"].as_array().unwrap();
    let mut ours: Vec<&Value> = disks.iter().flat_map(|disk| disk["partitions"].as_array().unwrap()).collect();
    ours.sort_by_key(|partition| partition["start"].as_u64());
    compared.same("partitions", &json!(ours.len()), &json!(theirs.len()));
    for (ours, theirs) in ours.into_iter().zip(theirs) {
        compared.same("partition bytes", &ours["bytes"], &theirs["size"]);
        compared.same("partition start", &ours["start"], &json!(theirs["start"].as_u64().unwrap() * 512));
        compared.same("partition mounted at", &ours["mounted_at"], &theirs["mountpoint"]);
        let kind = ours["filesystem"].as_str().map(|kind| if kind.starts_with("fat") { "vfat" } else { kind });
        if !theirs["fstype"].is_null() {
            compared.same("partition file system", &json!(kind), &theirs["fstype"]);
            compared.same("partition label", &ours["label"], &theirs["label"]);
        }
    }
}

/// `lspci -vmm -nn`: a record a device, `Vendor:<TAB>Intel Corporation [8086]`. What is zero is left out, and what `pci.ids`
/// does not name is called after its field.
fn pci(compared: &mut Compared, hardware: &Value, text: &str) {
    let theirs: Vec<&str> = text.split("\n\n").filter(|record| record.contains("Slot:")).collect();
    let ours = hardware["pci"].as_array().unwrap();
    compared.same("PCI devices", &json!(ours.len()), &json!(theirs.len()));
    for (ours, theirs) in ours.iter().zip(theirs) {
        let field = |name: &str| {
            theirs.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")).unwrap_or_default().trim()
        };
        let number = |name: &str, digits: usize| {
            let value = field(name);
            let inner = value.rsplit_once('[').map_or(value, |(_, number)| number.trim_end_matches(']'));
            format!("{inner:0>digits$}")
        };
        let named = |name: &str| match field(name).rsplit_once(" [") {
            Some((words, _)) if words != name => json!(words),
            _ => Value::Null,
        };
        let address = field("Slot");
        compared.same("PCI address", &ours["address"], &json!(address));
        let class = number("Class", 4) + &number("ProgIf", 2);
        let subsystem = (number("SVendor", 4), number("SDevice", 4));
        for (name, theirs) in [
            ("class", json!(class)),
            ("vendor", json!(number("Vendor", 4))),
            ("device", json!(number("Device", 4))),
            ("subsystem_vendor", json!(subsystem.0)),
            ("subsystem_device", json!(subsystem.1)),
            ("revision", json!(number("Rev", 2))),
            ("kind", named("Class")),
            ("vendor_name", named("Vendor")),
            ("device_name", named("Device")),
        ] {
            compared.same(&format!("{address} {name}"), &ours[name], &theirs);
        }
    }
}

fn packages(compared: &mut Compared, software: &Value, text: &str) {
    let of_line = |line: &str| {
        let [name, version, architecture] =
            line.strip_prefix("installed\t")?.split('\t').collect::<Vec<_>>().try_into().ok()?;
        Some((format!("{name}:{architecture}"), json!(version)))
    };
    let word = |package: &Value, field: &str| package[field].as_str().unwrap().to_owned();
    let of_record =
        |one: &Value| (format!("{}:{}", word(one, "name"), word(one, "architecture")), one["version"].clone());
    let theirs: BTreeMap<String, Value> = text.lines().filter_map(of_line).collect();
    let ours: BTreeMap<String, Value> =
        software["packages"].as_array().unwrap().iter().filter(|one| one["manager"] == "deb").map(of_record).collect();
    compared.same("packages", &json!(ours.keys().collect::<Vec<_>>()), &json!(theirs.keys().collect::<Vec<_>>()));
    for (name, version) in &theirs {
        compared.same(name, ours.get(name).unwrap_or(&Value::Null), version);
    }
}
