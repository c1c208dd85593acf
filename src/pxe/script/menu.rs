//! Boot menus as text for iPXE and GRUB.

use std::net::Ipv4Addr;

use super::{grub, grub_kernel, ipxe, kernel_arguments, url};
use crate::pxe::boot::{Boot, Config};
use crate::pxe::client::Client;
use crate::pxe::menu::{Menu, Start};

/// The user that both ask for besides the password; iPXE takes any.
pub const MENU_USER: &str = "remint";

/// What iPXE shows; what is chosen is asked for by its name. The password goes over the network as it was typed: firmware has
/// no better way.
pub fn ipxe_menu(menu: &Menu, client: &Client, usual: &Boot, config: &Config, server: Ipv4Addr) -> String {
    let own = client.mac.map(|mac| mac.to_string()).unwrap_or_default();
    let url = url(config, server, client.mac);
    let items: String =
        menu.entries_for(client, usual).map(|(entry, _)| format!("item {} {}\n", entry.name, entry.title)).collect();
    let seconds = if menu.seconds > 0 { format!(" --timeout {}", menu.seconds * 1000) } else { String::new() };
    let default = &menu.default;
    let ask = match &menu.password {
        Some(_) => format!("set username {MENU_USER}\niseq ${{entry}} {default} || login || goto menu\n"),
        None => String::new(),
    };
    format!(
        "#!ipxe
:menu
clear password
menu Remint {server}: {firmware} {own}
{items}choose --default {default}{seconds} entry || goto menu
{ask}chain --replace {url}&entry=${{entry}}&password=${{password:uristring}} || goto failed
:failed
echo Remint: no answer from {server}; the reason is above.
prompt --timeout 5000 ||
goto menu
",
        firmware = client.firmware,
    )
}

/// Whoever chose what is not for him goes back to the menu.
pub fn ipxe_refused(client: &Client, config: &Config, server: Ipv4Addr) -> String {
    format!(
        "#!ipxe
clear password
echo Remint: that is not the password of this menu.
sleep 3
chain --replace {url}
",
        url = url(config, server, client.mac)
    )
}

/// Carries out what was chosen, and goes back to the menu where that fails.
pub fn ipxe_start(start: &Start, client: &Client, config: &Config, server: Ipv4Addr) -> String {
    let base = format!("{}/boot/files", config.http_base(server));
    let (what, steps) = match start {
        Start::Boot(boot) => return ipxe(boot, client, config, server),
        Start::Kernel { kernel, initrd: None, .. } => {
            let arguments = arguments(start, client, config, server);
            (kernel.as_str(), format!("kernel {base}/{kernel}{arguments} || goto failed\nboot || goto failed"))
        }
        Start::Kernel { kernel, initrd: Some(initrd), .. } => {
            let name = initrd.rsplit('/').next().unwrap_or(initrd);
            let arguments = arguments(start, client, config, server);
            let steps = format!(
                "kernel {base}/{kernel} initrd={name}{arguments} || goto failed
initrd --name {name} {base}/{initrd} || goto failed
boot || goto failed"
            );
            (kernel.as_str(), steps)
        }
        Start::Efi(file) => (file.as_str(), format!("chain --autofree {base}/{file} || goto failed")),
        Start::MemoryTest(file) => {
            let steps = format!(
                "kernel {base}/{file}{} || goto failed\nboot || goto failed",
                arguments(start, client, config, server)
            );
            (*file, steps)
        }
    };
    format!(
        "#!ipxe
echo Remint: loading {what} from {server}
imgfree
{steps}
:failed
echo Remint: failed to start {what}; the reason is above.
echo Back to the menu in 10 seconds.
prompt --timeout 10000 ||
chain --replace {url}
",
        url = url(config, server, client.mac)
    )
}

/// With a blank before them, where there are any.
fn arguments(start: &Start, client: &Client, config: &Config, server: Ipv4Addr) -> String {
    let own = match start {
        Start::Kernel { is_boot_environment: true, .. } => kernel_arguments(client, config, server),
        // Of what Linux knows as consoles, Memtest86+ knows the serial ports.
        Start::MemoryTest(_) => {
            let words = config.kernel_arguments.split(' ').filter(|word| word.starts_with("console=ttyS"));
            words.collect::<Vec<_>>().join(" ")
        }
        _ => String::new(),
    };
    let added = if let Start::Kernel { arguments, .. } = start { arguments.as_str() } else { "" };
    [own.as_str(), added].iter().filter(|words| !words.is_empty()).map(|words| format!(" {words}")).collect()
}

/// The menu of GRUB behind shim. With a password, GRUB asks for it itself, and its editor and command line are closed as well.
pub fn grub_menu(menu: &Menu, client: &Client, usual: &Boot, config: &Config, server: Ipv4Addr) -> String {
    let seconds = if menu.seconds > 0 { i64::from(menu.seconds) } else { -1 };
    let mut text = format!("set timeout={seconds}\nset default={}\n", menu.default);
    if let Some(password) = &menu.password {
        let hash = password.as_grub_has_it();
        text.push_str(&format!("set superusers={MENU_USER}\npassword_pbkdf2 {MENU_USER} {hash}\n"));
    }
    for (entry, start) in menu.entries_for(client, usual) {
        let open = if menu.is_open(entry) { " --unrestricted" } else { "" };
        let steps = grub_start(&start, client, config, server);
        text.push_str(&format!("menuentry \"{}\" --id {}{open} {{\n{steps}}}\n", entry.title, entry.name));
    }
    text
}

fn grub_start(start: &Start, client: &Client, config: &Config, server: Ipv4Addr) -> String {
    let (what, steps) = match start {
        Start::Boot(boot) => return grub(boot, client, config, server),
        Start::Kernel { kernel, initrd, .. } => {
            let arguments = arguments(start, client, config, server);
            (kernel.as_str(), grub_kernel(kernel, initrd.as_deref(), arguments.trim_start()))
        }
        Start::Efi(file) => (file.as_str(), grub_program(file, "")),
        Start::MemoryTest(file) => (*file, grub_program(file, &arguments(start, client, config, server))),
    };
    format!(
        "  echo \"Remint: loading {what} from {server}\"
{steps}  echo \"Remint: failed to start {what}; the reason is above.\"
  sleep 10
"
    )
}

fn grub_program(file: &str, arguments: &str) -> String {
    format!("  if chainloader /boot/files/{file}{arguments}; then\n    boot\n  fi\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pxe::menu::{Action, BUILT_IN, Entry, Of};
    use crate::pxe::password::tests::SESAME;
    use crate::stdx::mac::MacAddr;

    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn menu(password: Option<&str>) -> Menu {
        let built_in = BUILT_IN.map(|(name, title, action)| Entry { name: name.into(), title: title.into(), action });
        let mut entries = Vec::from(built_in);
        let debian = Action::Linux {
            kernel: "debian/linux".into(),
            initrd: Some("debian/initrd.gz".into()),
            arguments: "priority=low".into(),
        };
        entries.push(Entry { name: "debian".into(), title: "Debian's installer".into(), action: debian });
        entries.push(Entry {
            name: "shell".into(),
            title: "UEFI shell".into(),
            action: Action::Efi { file: "shell.efi".into() },
        });
        let password = password.map(|written| written.parse().unwrap());
        Menu { of: Of::Everybody, seconds: 10, default: "continue".into(), entries, password }
    }

    /// Both menus of three firmwares, as text that a person can read: tests/golden/menu.txt.
    #[test]
    fn the_menus_are_those_that_were_agreed() {
        let (mac, config) = (Some(MacAddr([2; 6])), Config::default());
        let mut all = String::new();
        let mut add = |title: &str, text: String| all.push_str(&format!("==== {title}\n{text}\n"));
        let bios = Client::from_ipxe(mac, None, "i386", "pcbios");
        let uefi = Client::from_ipxe(mac, None, "x86_64", "efi");
        let grub = Client::from_grub(mac, "x86_64");
        let (open, closed) = (menu(None), menu(Some(SESAME)));
        add("iPXE, BIOS", ipxe_menu(&open, &bios, &Boot::LocalDisk, &config, SERVER));
        add("iPXE, UEFI x64, with a password", ipxe_menu(&closed, &uefi, &Boot::LocalDisk, &config, SERVER));
        for name in ["hardware-test", "memory-test", "debian", "shell"] {
            let start = open.chosen(name, "", &uefi, &Boot::LocalDisk).unwrap();
            add(&format!("iPXE, UEFI x64, {name}"), ipxe_start(&start, &uefi, &config, SERVER));
        }
        add("iPXE, a wrong password", ipxe_refused(&uefi, &config, SERVER));
        add("GRUB with a password", grub_menu(&closed, &grub, &Boot::LocalDisk, &config, SERVER));
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/menu.txt");
        if std::env::var_os("REMINT_BLESS").is_some() {
            std::fs::write(path, &all).unwrap();
        }
        assert_eq!(all, std::fs::read_to_string(path).unwrap(), "REMINT_BLESS=1 writes the new text");
    }

    #[test]
    fn a_menu_that_waits_for_a_person_has_no_time_out() {
        let client = Client::from_grub(None, "x86_64");
        let menu = Menu { seconds: 0, ..menu(None) };
        assert!(!ipxe_menu(&menu, &client, &Boot::LocalDisk, &Config::default(), SERVER).contains("--timeout 0"));
        assert!(
            grub_menu(&menu, &client, &Boot::LocalDisk, &Config::default(), SERVER).starts_with("set timeout=-1\n")
        );
    }
}
