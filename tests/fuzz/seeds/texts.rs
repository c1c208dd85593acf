//! Documents as people and machines write them.

use std::path::Path;

use super::{Seeds, behind};

pub fn seeds(target: &str) -> Seeds {
    match target {
        "link" => {
            let message = |(index, (which, json)): (usize, &(u8, &str))| {
                (format!("message-{index}"), [&[*which], json.as_bytes()].concat())
            };
            MESSAGES.iter().enumerate().map(message).chain(behind(7, words("package", &PACKAGES))).collect()
        }
        "menu" => [behind(0, words("query", &QUERIES)), behind(1, words("entry", &ENTRIES))].concat(),
        _ => {
            let versions = behind(1, words("versions", &VERSIONS));
            let answers = behind(3, words("answers", &ANSWERS));
            [behind(0, sequences()), versions, behind(2, words("drivers", &DRIVERS)), answers].concat()
        }
    }
}

fn words(name: &str, all: &[&str]) -> Seeds {
    all.iter().enumerate().map(|(index, text)| (format!("{name}-{index}"), text.as_bytes().to_vec())).collect()
}

/// Of the URL of a boot script, as iPXE fills it in.
const QUERIES: [&str; 4] = [
    "mac=52:54:00:aa:00:01&uuid=00112233-4455-6677-8899-aabbccddeeff&arch=i386&platform=pcbios",
    "mac=52:54:00:aa:00:01&uuid=&arch=x86_64&platform=efi&entry=memory-test&password=sesame",
    "mac=&uuid=&arch=arm64&platform=efi&entry=local-disk&password=%73esame%0a",
    "mac=52:54:00:aa:00:01&uuid=&arch=i386&platform=efi&entry=shell&password=",
];

/// Of the configuration: title, arguments, kernel, initrd, EFI program.
const ENTRIES: [&str; 4] = [
    "Rescue system\0quiet rescue=1\0rescue/linux\0rescue/initrd.gz",
    "UEFI shell\0\0\0\0shell.efi",
    "a && reboot\0a; reboot\0k\0i/",
    "a\" {\nreboot\n#\0$net_default_mac\0../k",
];

/// The documents of the guide and of the examples.
fn sequences() -> Seeds {
    let mut seeds = Seeds::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    for folder in ["guide/sequences", "examples/first-site"] {
        for entry in std::fs::read_dir(root.join(folder)).into_iter().flatten().filter_map(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".yaml") {
                seeds.extend(std::fs::read(entry.path()).ok().map(|bytes| (name, bytes)));
            }
        }
    }
    seeds.extend(words("sequence", &SEQUENCES));
    seeds
}

const SEQUENCES: [&str; 4] = [
    "name: a\nsteps:\n- name: wait\n  pause: {message: x}\n",
    "name: a\nvariables:\n  x: {type: number, default: 3, choices: [3, 4]}\nsteps:\n- group: g\n  when: vars.x > 2\n  steps:\n  - run-command: {arguments: [a, '{{ vars.x }}']}\n    retry: {attempts: 3}\n    timeout: 5m\n",
    "a: &a [*a]\n",
    "name: \"\\u0000\"\nsteps: [[[[[[]]]]]]\n",
];

const VERSIONS: [&str; 3] = ["1.2.3-1\n1.2.3-1~bpo12+1\n1:0\n", "1.0~rc1\n1.0\n1.0+b1\n", "0\n00\n0-0\n"];

const PACKAGES: [&str; 2] = [
    r#"{"name":"hello","version":"2.10-3","payload":"hello.deb","install":"deb","detect":[{"deb":{"name":"hello"}}]}"#,
    r#"{"name":"tool","version":"1","payload":"tool.tar.gz","install":{"archive":{"run":["./install","--quiet"]}},"detect":[{"file":"/opt/tool/bin"}],"requires":["hello"],"timeout-seconds":60}"#,
];

const DRIVERS: [&str; 2] = [
    "alias pci:v00001AF4d00001000sv*sd*bc*sc*i* virtio_pci\nalias virtio:d00000001v* virtio_net\n\0kernel/drivers/virtio/virtio_pci.ko.xz: kernel/drivers/virtio/virtio.ko.xz\nkernel/drivers/net/virtio_net.ko.xz:\n\0softdep virtio_net pre: failover post: x\n\0virtio:d00000001v00001AF4",
    "alias usb:v[0-9]*p????d* usbhid\n\0\0\0usb:v1234p5678d0",
];

/// Which message, and its JSON.
const MESSAGES: [(u8, &str); 9] = [
    (
        0,
        r#"{"stage":"boot-environment","identity":{"uuid":"4c4c4544-0000-0000-0000-000000000001","macs":["52:54:00:aa:00:01"]},"arrived_by":"52:54:00:aa:00:01","request_pem":"-","hardware":{"a":[1,2.5,null]},"agent":"0.1.0"}"#,
    ),
    (0, r#"{"verdict":"waiting","machine":"m-1","name":"lab-1","pairing_code":"AB-12","retry_seconds":5}"#),
    (0, r#"{"verdict":"of a newer release"}"#),
    (1, r#"{"certificate_pem":"-----BEGIN"}"#),
    (2, r#"{"at":1800000000000,"hardware":{},"software":{"packages":[]}}"#),
    (3, r#"{"place":"boot-environment"}"#),
    (4, r#"{"run":"r-1","journal_from":0,"journal":[],"boot":"b","lines_from":0,"lines":[],"sent_at":1800000000000}"#),
    (5, r#"{"packages":[],"again_seconds":900}"#),
    (6, r#"{"at":1800000000000,"findings":[]}"#),
];

const ANSWERS: [&str; 3] = [
    "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<unattend xmlns=\"urn:schemas-microsoft-com:unattend\" xmlns:wcm=\"urn:w\">\n  <settings pass=\"specialize\">\n    <!-- c -->\n    <component name='a' wcm:action=\"add\">R&amp;D &#x41;<![CDATA[<&]]></component>\n  </settings>\n</unattend>\n",
    "<u:a xmlns:u='urn:x'><u:b xmlns:u=''/><c xmlns='urn:y' d='&lt;'/><?pi x?></u:a>",
    "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>",
];
