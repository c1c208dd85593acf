//! TFTP clients.

use remint::pxe::tftp::socket::TransferPorts;

use crate::appliance::{self, Appliance, Setup};
use crate::lan::{Lan, run};

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 509) as u8).collect()
}

#[test]
fn tftp_hpa_and_atftp_fetch_identical_files_from_many_ports_and_from_one() {
    for transfer_ports in [TransferPorts::Many, TransferPorts::Single] {
        let Some(lan) = Lan::with(&["tftp", "atftp"]) else { return };
        let setup = Setup { transfer_ports, ..appliance::proxy() };
        let (small, large) = (content(512 * 9), content(40_000_000));
        let appliance = Appliance::start(&lan, setup, &[("small", &small), ("large", &large)]);
        let host = lan.host_at("10.77.0.9/24");
        let folder = tempfile::tempdir().unwrap();
        let to = |name: &str| folder.path().join(name).display().to_string();
        let check = |line: String, name: &str, expect: &[u8]| {
            let (ok, text) = run(&host.space, &line);
            assert!(ok && std::fs::read(to(name)).unwrap_or_default() == expect, "{transfer_ports:?} {line}: {text}");
        };
        check(format!("tftp -m binary 10.77.0.1 -c get small {}", to("hpa")), "hpa", &small);
        check(format!("tftp -m binary 10.77.0.1 -c get large {}", to("wrap")), "wrap", &large);
        let windows = "--option windowsize^16 --option blksize^1428".replace('^', " ");
        let atftp = |options: &[&str], name: &str| {
            let output = std::process::Command::new("ip")
                .args(["netns", "exec", &host.space, "atftp"])
                .args(options)
                .args(["--get", "-r", "large", "-l", &to(name), "10.77.0.1"])
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(std::fs::read(to(name)).unwrap_or_default() == large, "{transfer_ports:?} {windows}: {text}");
        };
        atftp(&["--option", "blksize 1428"], "single");
        atftp(&["--option", "blksize 1428", "--option", "windowsize 16"], "windows");
        let (_, text) = run(&host.space, &format!("tftp -m binary 10.77.0.1 -c get ../db {}", to("no")));
        assert!(text.contains("no such file"), "{text}");
        drop(appliance.stop());
    }
}

#[test]
fn curl_fetches_scripts_files_and_ranges() {
    let Some(lan) = Lan::with(&["curl"]) else { return };
    let appliance = Appliance::start(&lan, appliance::proxy(), &[("vmlinuz", b"0123456789"), ("initrd.img", b"i")]);
    let host = lan.host_at("10.77.0.9/24");
    let get = |arguments: &str| run(&host.space, &format!("curl -s --path-as-is {arguments}")).1;
    assert_eq!(get("http://10.77.0.1/boot/files/vmlinuz"), "0123456789");
    assert_eq!(get("-r 2-4 http://10.77.0.1/boot/files/vmlinuz"), "234");
    assert!(get("-I http://10.77.0.1/boot/files/vmlinuz").to_lowercase().contains("content-length: 10"));
    let script = get("http://10.77.0.1/boot/ipxe?mac=52:54:00:00:00:01&arch=x86_64&platform=efi");
    assert!(script.contains("kernel http://10.77.0.1/boot/files/vmlinuz "), "{script}");
    for hostile in ["../db", "..%2fdb", "%2e%2e/db", "vmlinuz%00", "//etc/passwd"] {
        let answer = get(&format!("http://10.77.0.1/boot/files/{hostile}"));
        assert!(answer.contains("\"status\":404") || answer.contains("\"status\":400"), "{hostile}: {answer}");
    }
    drop(appliance.stop());
}
