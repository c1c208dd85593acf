//! Boot menus: what people write into the configuration, and what is asked for at a machine or by whoever pretends to be one.

use std::net::Ipv4Addr;
use std::sync::{Arc, LazyLock};

use remint::config::menus::menus;
use remint::config::written::{Boot as Written, Menu as WrittenMenu, MenuEntry};
use remint::pxe::api::{IpxeQuery, ipxe_script};
use remint::pxe::boot::{Boot, Config};
use remint::pxe::client::Client;
use remint::pxe::menu::{BUILT_IN, Menu};
use remint::pxe::names::Netboot;
use remint::pxe::script::menu::{grub_menu, ipxe_menu, ipxe_refused, ipxe_start};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// `sesame`, in one round: a fuzzer has no time for more.
const PASSWORD: &str = "grub.pbkdf2.sha512.1.AA.02151F956B51FDB0FC1000DB8C443039C4A23A66FEA5ED9731A961C600AA3FF56CA8AA9ED12E19370002A04401227DA5156969A72B51B3593F0CE85DCD0456E0";

/// A menu for everybody, with one entry besides the built-in ones.
fn menu_with(entry: MenuEntry) -> Option<Menu> {
    let menu = WrittenMenu { password: Some(PASSWORD.to_owned()), ..WrittenMenu::default() };
    menus(&Written { entry: vec![entry], menu: vec![menu], ..Written::default() }).ok()?.pop()
}

static NETBOOT: LazyLock<Netboot> = LazyLock::new(|| {
    let efi = MenuEntry { name: "shell".into(), efi: Some("shell.efi".into()), ..MenuEntry::default() };
    let config = Config { menus: menu_with(efi).into_iter().collect(), ..Config::default() };
    Netboot { config: Arc::new(config), ..super::network::NETBOOT.clone() }
});

/// The query of a boot script's URL, exactly as it comes: it leads to the menu, to what an entry starts, or to a refusal, and
/// no word of it is in what comes back.
pub(crate) fn query(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Some(query) = IpxeQuery::parse(text) else { return };
    let script = ipxe_script(&NETBOOT, &query, SERVER);
    let (client, config) = (query.client(), &NETBOOT.config);
    let (boot, menu) = NETBOOT.next(&client);
    let menu = menu.expect("the menu is everybody's");
    let expected = match &query.entry {
        None => ipxe_menu(menu, &client, &boot, config, SERVER),
        Some(name) => {
            let is_open = *name == menu.default || query.password == "sesame";
            match menu.entries_for(&client, &boot).find(|(entry, _)| entry.name == *name && is_open) {
                Some((_, start)) => ipxe_start(&start, &client, config, SERVER),
                None => ipxe_refused(&client, config, SERVER),
            }
        }
    };
    // What lacks its files says so instead.
    assert!(script == expected || script.contains("remint boot build"), "{text:?}: {script}");
    assert!(script.starts_with("#!ipxe\n") && script.ends_with('\n'), "{script}");
}

/// Title, arguments, kernel, initrd and EFI program of an entry, each ended by NUL: refused, or written down so that they
/// change no command of a script.
pub(crate) fn entry(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut fields = text.split('\0').map(str::to_owned);
    let mut field = || fields.next().filter(|field| !field.is_empty());
    let (title, arguments, kernel, initrd, efi) = (field(), field().unwrap_or_default(), field(), field(), field());
    let plain = MenuEntry {
        name: "x".into(),
        title: Some("X".into()),
        kernel: kernel.as_ref().map(|_| "x".into()),
        initrd: initrd.as_ref().map(|_| "x".into()),
        arguments: if arguments.trim().is_empty() { String::new() } else { "x".into() },
        efi: efi.as_ref().map(|_| "x".into()),
    };
    let Some(made) = menu_with(MenuEntry { name: "x".into(), title, kernel, initrd, arguments, efi }) else { return };
    let plain = menu_with(plain).expect("nothing is wrong with it");
    assert_eq!(made.entries.len(), BUILT_IN.len() + 1);
    for (made, plain) in scripts(&made).iter().zip(&scripts(&plain)) {
        assert_eq!(skeleton(made), skeleton(plain), "{made}");
    }
}

/// Both menus, and the script of what the last entry starts, for two firmwares.
fn scripts(menu: &Menu) -> Vec<String> {
    let (config, boot) = (Config::default(), Boot::LocalDisk);
    let clients = [Client::from_ipxe(None, None, "i386", "pcbios"), Client::from_grub(None, "x86_64")];
    let of_client = |client: &Client| {
        let start = menu.chosen("x", "sesame", client, &boot).map(|start| ipxe_start(&start, client, &config, SERVER));
        [ipxe_menu(menu, client, &boot, &config, SERVER), grub_menu(menu, client, &boot, &config, SERVER)]
            .into_iter()
            .chain(start)
            .collect::<Vec<String>>()
    };
    clients.iter().flat_map(of_client).collect()
}

/// The commands of a script without the words of which they are made.
fn skeleton(script: &str) -> Vec<(String, usize, Vec<usize>)> {
    let of_line = |line: &str| {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default().to_owned();
        let operators = words.filter(|word| ["&&", "||", ";"].contains(word) || word.starts_with('#')).count();
        (first, operators, "\"'`$\\{}".chars().map(|sign| line.matches(sign).count()).collect())
    };
    script.lines().map(of_line).collect()
}
