//! The boot menus of the configuration.

use super::used::Error;
use super::written::{Boot, Menu as Written, MenuEntry};
use crate::pxe::menu::{Action, BUILT_IN, Entry, Menu, Of};

/// A day: more is meant as "for ever", which is 0.
const SECONDS_MAX: u32 = 86_400;

/// The menus with their entries, checked: whatever stands in them can be written into scripts of iPXE and GRUB as it is.
pub fn menus(boot: &Boot) -> Result<Vec<Menu>, Error> {
    let built_in = BUILT_IN.map(|(name, title, action)| Entry { name: name.into(), title: title.into(), action });
    let mut known = Vec::from(built_in);
    for written in &boot.entry {
        let entry = entry(written)?;
        if known.iter().any(|other| other.name == entry.name) {
            return Err(fault(&entry.name, "two entries have this name"));
        }
        known.push(entry);
    }
    boot.menu.iter().map(|written| menu(written, &known)).collect()
}

fn fault(name: &str, why: &'static str) -> Error {
    Error::Menu { name: name.to_owned(), why }
}

fn entry(written: &MenuEntry) -> Result<Entry, Error> {
    let MenuEntry { name, title, kernel, initrd, arguments, efi } = written;
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 40 || !name.chars().all(is_name) {
        return Err(fault(name, "a name has lower-case letters, digits and `-`"));
    }
    let title = title.clone().unwrap_or_else(|| name.clone());
    let plain = |c: char| !c.is_control() && !"\"'`$\\{}".contains(c);
    if title.is_empty() || title.len() > 70 || !title.chars().all(plain) {
        return Err(fault(name, "a title has at most 70 bytes, and no quotes, `$`, `\\` and braces"));
    }
    // As words by themselves iPXE takes these for the end of a command, and whatever begins with `#` for a remark.
    if title.split_whitespace().any(|word| ["&&", "||", ";"].contains(&word) || word.starts_with('#')) {
        return Err(fault(name, "a title has no words `&&`, `||` and `;`, and none that begins with `#`"));
    }
    if !arguments.chars().all(|c| plain(c) && !";&|<>#".contains(c)) {
        return Err(fault(name, "`arguments` has no quotes, `$`, `\\`, braces and `;&|<>#`"));
    }
    let files = [kernel, initrd, efi];
    let is_file = |c: char| c.is_ascii_alphanumeric() || "._/-".contains(c);
    if !files.into_iter().flatten().all(|file| !file.is_empty() && !file.ends_with('/') && file.chars().all(is_file)) {
        return Err(fault(name, "names of files have letters, digits and `._/-`, and a file's own name at the end"));
    }
    let action = match (kernel.clone(), initrd.clone(), efi.clone()) {
        (Some(kernel), initrd, None) => Action::Linux { kernel, initrd, arguments: arguments.clone() },
        (None, None, Some(file)) if arguments.is_empty() => Action::Efi { file },
        _ => return Err(fault(name, "an entry has `kernel` with `initrd` and `arguments`, or it has `efi` alone")),
    };
    Ok(Entry { name: name.clone(), title, action })
}

fn menu(written: &Written, known: &[Entry]) -> Result<Menu, Error> {
    let of = match (written.mac, &written.collection) {
        (Some(mac), None) => Of::Machine(mac),
        (None, Some(collection)) => Of::Collection(collection.clone()),
        (None, None) => Of::Everybody,
        (Some(_), Some(_)) => return Err(fault(&written.default, "a menu has `mac` or `collection`, not both")),
    };
    let find = |name: &String| {
        let found = known.iter().find(|entry| entry.name == *name);
        found.cloned().ok_or_else(|| fault(name, "no entry has this name"))
    };
    let entries: Vec<Entry> = match &written.entries {
        Some(names) => names.iter().map(find).collect::<Result<_, _>>()?,
        None => known.to_vec(),
    };
    if entries.iter().all(|entry| entry.name != written.default) {
        return Err(fault(&written.default, "the default is none of the menu's entries"));
    }
    if written.seconds > SECONDS_MAX {
        return Err(fault(&written.default, "`seconds` is at most 86400; 0 waits for ever"));
    }
    let password = written.password.as_ref().map(|hash| hash.parse().map_err(Error::MenuPassword)).transpose()?;
    Ok(Menu { of, seconds: written.seconds, default: written.default.clone(), entries, password })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::pxe::boot::{Boot as Usual, Config};
    use crate::pxe::client::Client;
    use crate::pxe::script::menu::{grub_menu, ipxe_menu, ipxe_start};
    use crate::stdx::mac::MacAddr;

    /// All that a person can be told about the boot menus of `entry`, for iPXE and for GRUB.
    fn scripts(entry: MenuEntry) -> Option<Vec<String>> {
        let name = entry.name.clone();
        let boot = Boot { entry: vec![entry], menu: vec![Written::default()], ..Boot::default() };
        let menu = menus(&boot).ok()?.remove(0);
        let (config, server) = (Config::default(), Ipv4Addr::new(10, 0, 0, 1));
        let client = Client::from_ipxe(None, None, "x86_64", "efi");
        let start = menu.chosen(&name, "", &client, &Usual::LocalDisk)?;
        Some(vec![
            ipxe_menu(&menu, &client, &Usual::LocalDisk, &config, server),
            ipxe_start(&start, &client, &config, server),
            grub_menu(&menu, &client, &Usual::LocalDisk, &config, server),
        ])
    }

    /// The commands of a script, without the words of which they are made: what a title or an argument must not change.
    fn skeleton(script: &str) -> Vec<String> {
        let of_line = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_operator = |word: &&&str| ["&&", "||", ";"].contains(word) || word.starts_with('#');
            let operators = words.iter().skip(1).filter(is_operator).count();
            let signs = "\"'`$\\{}".chars().map(|sign| line.matches(sign).count().to_string());
            let first = words.first().copied().unwrap_or_default();
            format!("{first} {operators} {}", signs.collect::<Vec<_>>().join(" "))
        };
        script.lines().map(of_line).collect()
    }

    proptest! {
        #[test]
        fn no_title_argument_or_file_breaks_out_of_a_script(
            title in "[ -~\n\r\t\u{7f}-\u{ff}\u{2028}]{1,20}|[a-z&|;# ]{1,12}",
            arguments in "[ -~\n\t]{0,20}|[a-z=,]{1,9}",
            kernel in "[ -~\n]{1,12}|[a-z/.]{1,8}",
            initrd in proptest::option::of("[!-~]{1,12}|[a-z/.]{1,8}"),
        ) {
            let entry = |title: &str, arguments: &str, kernel: &str, initrd: Option<&str>| MenuEntry {
                name: "x".into(),
                title: Some(title.to_owned()),
                kernel: Some(kernel.to_owned()),
                initrd: initrd.map(str::to_owned),
                arguments: arguments.to_owned(),
                efi: None,
            };
            if let Some(made) = scripts(entry(&title, &arguments, &kernel, initrd.as_deref())) {
                let plain = scripts(entry("X", "x", "x", initrd.as_deref().map(|_| "x"))).unwrap();
                for (made, plain) in made.iter().zip(&plain) {
                    prop_assert_eq!(skeleton(made), skeleton(plain), "{}", made);
                }
            }
        }
    }

    fn read(text: &str) -> Result<Vec<Menu>, Error> {
        menus(&toml::from_str(text).unwrap())
    }

    #[test]
    fn a_menu_has_the_entries_that_it_names_or_all() {
        let text = "[[entry]]\nname='rescue'\ntitle='Rescue system'\nkernel='rescue/linux'\narguments='quiet rescue=1'\n\
                    [[menu]]\nmac='02:00:00:00:00:01'\n\
                    [[menu]]\ncollection='bench'\nseconds=0\ndefault='rescue'\nentries=['rescue', 'local-disk']";
        let menus = read(text).unwrap();
        assert_eq!(menus[0].of, Of::Machine(MacAddr([2, 0, 0, 0, 0, 1])));
        assert_eq!((menus[0].entries.len(), menus[0].seconds, menus[0].default.as_str()), (6, 10, "continue"));
        assert_eq!(menus[1].of, Of::Collection("bench".into()));
        let names = menus[1].entries.iter().map(|entry| entry.name.as_str());
        assert_eq!(names.collect::<Vec<_>>(), ["rescue", "local-disk"]);
        assert_eq!(read("[[menu]]").unwrap()[0].of, Of::Everybody);
    }

    #[test]
    fn what_could_not_be_written_into_a_script_is_refused() {
        for wrong in [
            "[[entry]]\nname='A'\nefi='a.efi'",
            "[[entry]]\nname='a'",
            "[[entry]]\nname='a'\nefi='a.efi'\nkernel='k'",
            "[[entry]]\nname='deploy'\nefi='a.efi'",
            "[[entry]]\nname='a'\ntitle='x}'\nefi='a.efi'",
            "[[entry]]\nname='a'\ntitle='a && reboot'\nefi='a.efi'",
            "[[entry]]\nname='a'\ntitle='see #1'\nefi='a.efi'",
            "[[entry]]\nname='a'\nkernel='a b'",
            "[[entry]]\nname='a'\nkernel='a'\ninitrd='a/'",
            "[[entry]]\nname='a'\nkernel='k'\narguments='a; reboot'",
            "[[entry]]\nname='a'\nkernel='k'\narguments=\"a\\nboot\"",
            "[[menu]]\ndefault='nothing'",
            "[[menu]]\nentries=['nothing']",
            "[[menu]]\nmac='02:00:00:00:00:01'\ncollection='a'",
            "[[menu]]\npassword='sesame'",
            "[[menu]]\nseconds=90000",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
