//! Settings of a baseline: a file, a service, an account, a kernel parameter, a source of packages - how it must be.
//!
//! One enum is the table: its name in reports, what can be wrong with it and how it is checked and mended follow from the
//! variant. Everything is data; nothing in it is ever given to a shell.

#[cfg(feature = "agent")]
pub mod apply;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Largest file that a setting holds; larger ones are packages.
const CONTENT_BYTES_MAX: usize = 256 << 10;
const TEXT_BYTES_MAX: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    File(FileSetting),
    Service(ServiceSetting),
    User(UserSetting),
    Sysctl(SysctlSetting),
    AptSource(AptSource),
    /// From a newer appliance, or misspelt: refused by both ends.
    #[serde(untagged)]
    Unknown(Value),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSetting {
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Octal, `0644`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub absent: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSetting {
    /// The unit's name, with or without `.service`.
    pub name: String,
    /// Whether it starts with the system; left alone without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserSetting {
    pub name: String,
    #[serde(default, skip_serializing_if = "is_false")]
    pub absent: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// Groups that it is in, among others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// A system account, when it is made.
    #[serde(default, skip_serializing_if = "is_false")]
    pub system: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SysctlSetting {
    /// `net.ipv4.ip_forward`
    pub key: String,
    pub value: String,
}

/// A file of /etc/apt/sources.list.d in deb822 form (sources.list(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AptSource {
    pub name: String,
    pub uri: String,
    pub suites: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<String>,
    /// The keyring that its packages must be signed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Setting {
    /// What it is called in reports: `file:/etc/motd`. No package has such a name.
    pub fn name(&self) -> String {
        match self {
            Setting::File(file) => format!("file:{}", file.path),
            Setting::Service(service) => format!("service:{}", service.name),
            Setting::User(user) => format!("user:{}", user.name),
            Setting::Sysctl(sysctl) => format!("sysctl:{}", sysctl.key),
            Setting::AptSource(source) => format!("apt-source:{}", source.name),
            Setting::Unknown(_) => "setting:unknown".to_owned(),
        }
    }

    /// Everything that is wrong with it, in words that say what to write.
    pub fn faults(&self) -> Vec<String> {
        match self {
            Setting::File(file) => file.faults(),
            Setting::Service(service) => service.faults(),
            Setting::User(user) => user.faults(),
            Setting::Sysctl(sysctl) => sysctl.faults(),
            Setting::AptSource(source) => source.faults(),
            Setting::Unknown(value) => {
                let name = value.as_object().and_then(|fields| fields.keys().next()).cloned().unwrap_or_default();
                vec![format!(
                    "`{name}`: a setting is one of file, service, user, sysctl, apt-source, with its own fields"
                )]
            }
        }
    }
}

/// What a report may call a setting.
pub fn is_setting_name(name: &str) -> bool {
    const KINDS: [&str; 6] = ["file", "service", "user", "sysctl", "apt-source", "setting"];
    let kind = name.split_once(':').map(|(kind, _)| kind);
    kind.is_some_and(|kind| KINDS.contains(&kind)) && name.len() <= 300 && !name.contains(char::is_control)
}

impl FileSetting {
    fn faults(&self) -> Vec<String> {
        let mut faults = path_fault(&self.path).into_iter().collect::<Vec<_>>();
        if self.mode.as_ref().is_some_and(|mode| parse_mode(mode).is_none()) {
            faults.push(format!("`mode` of {} must be octal, as 0644", self.path));
        }
        match (&self.content, self.absent) {
            (Some(_), true) => faults.push(format!("{} cannot have a content and be absent", self.path)),
            (None, false) if self.mode.is_none() => {
                faults.push(format!("{} says nothing: give `content`, `mode` or `absent`", self.path));
            }
            (Some(content), _) if content.len() > CONTENT_BYTES_MAX => {
                faults.push(format!("{} is larger than {CONTENT_BYTES_MAX} bytes: make it a package", self.path));
            }
            _ => {}
        }
        faults
    }
}

impl ServiceSetting {
    fn faults(&self) -> Vec<String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.@\\:".contains(c);
        let mut faults = Vec::new();
        if self.name.is_empty()
            || self.name.len() > 200
            || self.name.starts_with('-')
            || !self.name.chars().all(allowed)
        {
            faults.push(format!("`{}` is no unit's name (systemd.unit(5))", self.name));
        }
        if self.enabled.is_none() && self.running.is_none() {
            faults.push(format!("service {} says nothing: give `enabled` or `running`", self.name));
        }
        faults
    }
}

impl UserSetting {
    fn faults(&self) -> Vec<String> {
        let names = std::iter::once(&self.name).chain(&self.groups);
        let mut faults: Vec<String> = names
            .filter(|name| !is_account_name(name))
            .map(|name| {
                format!("`{name}` is no account's name: a-z, 0-9, `_` and `-`, at most 32, first a letter or `_`")
            })
            .collect();
        faults.extend(self.shell.as_deref().and_then(path_fault));
        if self.name == "root" && self.absent {
            faults.push("root cannot be absent".to_owned());
        }
        faults
    }
}

impl SysctlSetting {
    fn faults(&self) -> Vec<String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let mut faults = Vec::new();
        let parts_are_names = self.key.split('.').all(|part| !part.is_empty());
        if self.key.is_empty() || self.key.len() > 200 || !self.key.chars().all(allowed) || !parts_are_names {
            faults.push(format!("`{}` is no kernel parameter, as net.ipv4.ip_forward", self.key));
        }
        if self.value.len() > TEXT_BYTES_MAX || self.value.contains(char::is_control) {
            faults.push(format!("the value of {} is too long or has more than one line", self.key));
        }
        faults
    }

    /// proc(5): dots are slashes.
    pub fn path(&self) -> String {
        format!("/proc/sys/{}", self.key.replace('.', "/"))
    }
}

impl AptSource {
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !super::model::is_name(&self.name) {
            faults.push(format!("`{}` is no name: use a-z, 0-9, `-`, `.`", self.name));
        }
        let words = self.suites.iter().chain(&self.components).chain([&self.uri]);
        if words.into_iter().any(|word| word.is_empty() || word.len() > TEXT_BYTES_MAX || word.contains(is_no_word)) {
            faults.push(format!("uri, suites and components of {} are words without spaces", self.name));
        }
        if !["http://", "https://", "file:/", "mirror+http"].iter().any(|scheme| self.uri.starts_with(scheme)) {
            faults.push(format!("`uri` of {} must begin with https://, http:// or file:/", self.name));
        }
        if self.suites.is_empty() {
            faults.push(format!("{} has no suite", self.name));
        }
        faults.extend(self.signed_by.as_deref().and_then(path_fault));
        faults
    }

    pub fn path(&self) -> String {
        format!("/etc/apt/sources.list.d/remint-{}.sources", self.name)
    }

    pub fn content(&self) -> String {
        let mut text = format!("Types: deb\nURIs: {}\nSuites: {}\n", self.uri, self.suites.join(" "));
        if !self.components.is_empty() {
            text.push_str(&format!("Components: {}\n", self.components.join(" ")));
        }
        if let Some(keyring) = &self.signed_by {
            text.push_str(&format!("Signed-By: {keyring}\n"));
        }
        text
    }
}

fn is_no_word(c: char) -> bool {
    c.is_whitespace() || c.is_control()
}

/// useradd(8): what Debian takes by default.
fn is_account_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    name.len() <= 32 && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') && name.chars().all(allowed)
}

/// Permission bits of `0644`.
pub fn parse_mode(text: &str) -> Option<u32> {
    let digits = text.trim_start_matches("0o");
    let mode = u32::from_str_radix(digits, 8).ok()?;
    (mode <= 0o7777 && (3..=5).contains(&digits.len())).then_some(mode)
}

/// Absolute, without steps up: what is written as a path is the path.
fn path_fault(path: &str) -> Option<String> {
    let is_plain = path.starts_with('/')
        && path.len() <= TEXT_BYTES_MAX
        && !path.contains(char::is_control)
        && !path.split('/').any(|part| part == "..")
        && !path.ends_with('/');
    (!is_plain).then(|| format!("`{path}` must begin with `/` and have no `..`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(yaml: &str) -> Setting {
        serde_json::from_value(serde_saphyr::from_str::<Value>(yaml).unwrap()).unwrap()
    }

    #[test]
    fn settings_read_as_people_write_them() {
        for (yaml, name) in [
            ("file: {path: /etc/motd, content: hi}", "file:/etc/motd"),
            ("file: {path: /etc/old, absent: true}", "file:/etc/old"),
            ("service: {name: ssh, enabled: true, running: true}", "service:ssh"),
            ("user: {name: ops, shell: /bin/bash, groups: [adm]}", "user:ops"),
            ("sysctl: {key: net.ipv4.ip_forward, value: '1'}", "sysctl:net.ipv4.ip_forward"),
            ("apt-source: {name: own, uri: 'https://deb.lab/debian', suites: [bookworm]}", "apt-source:own"),
        ] {
            let setting = parse(yaml);
            assert_eq!((setting.name().as_str(), setting.faults()), (name, Vec::new()));
            assert!(is_setting_name(name) && !super::super::model::is_name(name));
        }
        assert!(parse("file: {path: /etc/motd, conten: hi}").faults()[0].contains("file"), "a misspelt field is said");
    }

    #[test]
    fn what_could_leave_its_place_is_refused() {
        for yaml in [
            "file: {path: etc/motd, content: x}",
            "file: {path: /etc/../../x, content: x}",
            "file: {path: /etc/motd}",
            "file: {path: /etc/motd, mode: rw}",
            "file: {path: /x, content: a, absent: true}",
            "service: {name: '--now', running: true}",
            "service: {name: ssh}",
            "user: {name: 'root;id'}",
            "user: {name: root, absent: true}",
            "user: {name: ops, groups: ['-G']}",
            "sysctl: {key: ../../etc/passwd, value: x}",
            "sysctl: {key: net..x, value: x}",
            "sysctl: {key: a.b, value: \"1\\n2\"}",
            "apt-source: {name: x, uri: 'https://a b', suites: [s]}",
            "apt-source: {name: ../x, uri: 'https://a', suites: [s]}",
            "apt-source: {name: x, uri: 'https://a', suites: [\"s\\nSigned-By: y\"]}",
            "registry: {key: x}",
        ] {
            assert!(!parse(yaml).faults().is_empty(), "{yaml}");
        }
    }
}
