//! Names of PCI and USB devices by their numbers: the files `pci.ids` and `usb.ids` of the system, as pciutils and usbutils
//! read them. Machines say numbers, and the appliance puts the names to them.
//!
//! ```text
//! 8086  Intel Corporation            vendor
//! <TAB>2922  82801IR/IO/IH ...       its device; subsystems are indented twice and left out
//! C 01  Mass storage controller      class
//! <TAB>06  SATA controller           its subclass; programming interfaces are left out
//! ```

use std::fs;
use std::path::Path;

use super::model::{Hardware, PciDevice, UsbDevice};

/// `pci.ids` has 1.5 MB.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Both lists. Without the files there are no names.
#[derive(Debug, Default)]
pub struct Names {
    pci: List,
    usb: List,
}

/// One file's text, and where in it the names are, in the order of their keys.
#[derive(Debug, Default)]
struct List {
    text: String,
    entries: Vec<(Key, u32, u16)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Vendor(u16),
    Device(u16, u16),
    Class(u8),
    Subclass(u8, u8),
}

impl Names {
    /// Reads what is there of `pci.ids` and `usb.ids` in the folders; the first found of each counts.
    pub fn open(folders: &[&Path]) -> Names {
        let read = |name: &str| folders.iter().find_map(|folder| text_of(&folder.join(name))).map(List::parse);
        Names { pci: read("pci.ids").unwrap_or_default(), usb: read("usb.ids").unwrap_or_default() }
    }

    /// From the files' texts.
    pub fn parse(pci: String, usb: String) -> Names {
        Names { pci: List::parse(pci), usb: List::parse(usb) }
    }

    /// Gives every device the name that its numbers have.
    pub fn fill(&self, hardware: &mut Hardware) {
        hardware.pci.iter_mut().for_each(|device| self.name_pci(device));
        hardware.usb.iter_mut().for_each(|device| self.name_usb(device));
    }

    fn name_pci(&self, device: &mut PciDevice) {
        let class = |at: usize| device.class.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
        let kind = class(0).and_then(|class| Some((class, self.pci.find(Key::Class(class))?)));
        let subclass = class(0).zip(class(2)).and_then(|(class, sub)| self.pci.find(Key::Subclass(class, sub)));
        device.kind = subclass.or(kind.map(|(_, name)| name)).map(str::to_owned);
        (device.vendor_name, device.device_name) = self.pci.names(&device.vendor, &device.device);
    }

    fn name_usb(&self, device: &mut UsbDevice) {
        (device.vendor_name, device.device_name) = self.usb.names(&device.vendor, &device.device);
    }
}

impl List {
    fn parse(text: String) -> List {
        let mut entries = Vec::new();
        let mut over: Option<Key> = None;
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            let start = at;
            at += line.len();
            let named = key_of(line, over);
            if !line.starts_with(['\t', '#', '\n']) {
                over = named;
            }
            let Some(key) = named else { continue };
            let name_at = line.find("  ").map_or(line.len(), |gap| gap + 2);
            let name = line[name_at..].trim();
            let place = (u32::try_from(start + name_at), u16::try_from(name.len()));
            if let (Ok(start), Ok(len)) = place
                && !name.is_empty()
            {
                entries.push((key, start, len));
            }
        }
        entries.sort_by_key(|(key, _, _)| *key);
        List { text, entries }
    }

    fn find(&self, key: Key) -> Option<&str> {
        let at = self.entries.binary_search_by_key(&key, |(key, _, _)| *key).ok()?;
        let (_, start, len) = self.entries[at];
        self.text.get(start as usize..start as usize + usize::from(len))
    }

    fn names(&self, vendor: &str, device: &str) -> (Option<String>, Option<String>) {
        let number = |text: &str| u16::from_str_radix(text, 16).ok();
        let Some(vendor) = number(vendor) else { return (None, None) };
        let named = |key| self.find(key).map(str::to_owned);
        (named(Key::Vendor(vendor)), number(device).and_then(|device| named(Key::Device(vendor, device))))
    }
}

/// What the line names; `over` is what the last line without indent named. A line of another
/// list of the file (`HID 01  ...`) names nothing, and nothing under it does.
fn key_of(line: &str, over: Option<Key>) -> Option<Key> {
    let indent = line.bytes().take_while(|byte| *byte == b'\t').count();
    let (number, _) = line[indent..].split_once("  ")?;
    let hex16 = |text: &str| (text.len() == 4).then(|| u16::from_str_radix(text, 16).ok()).flatten();
    let hex8 = |text: &str| (text.len() == 2).then(|| u8::from_str_radix(text, 16).ok()).flatten();
    Some(match (indent, over) {
        (0, _) => match number.strip_prefix("C ") {
            Some(class) => Key::Class(hex8(class)?),
            None => Key::Vendor(hex16(number)?),
        },
        (1, Some(Key::Vendor(vendor))) => Key::Device(vendor, hex16(number)?),
        (1, Some(Key::Class(class))) => Key::Subclass(class, hex8(number)?),
        _ => return None,
    })
}

fn text_of(path: &Path) -> Option<String> {
    let small = fs::metadata(path).is_ok_and(|metadata| metadata.len() <= FILE_BYTES_MAX);
    let bytes = small.then(|| fs::read(path).ok()).flatten()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PCI: &str = "# a comment\n\n8086  Intel Corporation\n\t2922  82801IR SATA Controller\n\t\t1af4 1100  QEMU\n\
        \tzzzz  no number\n1af4  Red Hat, Inc.\n\t1000  Virtio network device\nC 01  Mass storage controller\n\t06  SATA controller\n\t\t01  AHCI 1.0\n";
    const USB: &str = "1d6b  Linux Foundation\n\t0002  2.0 root hub\nHID 21  HID\n\t0003  of another list\n";

    #[test]
    fn devices_are_named_by_their_numbers() {
        let names = Names::parse(PCI.into(), USB.into());
        let pci = |class: &str, vendor: &str, device: &str| {
            let mut device =
                PciDevice { class: class.into(), vendor: vendor.into(), device: device.into(), ..PciDevice::default() };
            names.name_pci(&mut device);
            [device.kind, device.vendor_name, device.device_name].map(Option::unwrap_or_default).join(", ")
        };
        assert_eq!(pci("010601", "8086", "2922"), "SATA controller, Intel Corporation, 82801IR SATA Controller");
        assert_eq!(pci("010800", "1af4", "ffff"), "Mass storage controller, Red Hat, Inc., ");
        assert_eq!(pci("", "", "x"), ", , ");
        assert_eq!(names.usb.names("1d6b", "0002").1.as_deref(), Some("2.0 root hub"));
        assert_eq!(names.usb.names("1d6b", "0003").1, None);
    }

    proptest! {
        #[test]
        fn no_list_is_too_odd(text in "[0-9a-fC \t\n#ä]{0,400}") {
            let names = Names::parse(text.clone(), text);
            let _ = names.pci.names("0000", "0000");
        }
    }
}
