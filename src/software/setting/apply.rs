//! Looks whether a setting holds, and makes it hold. The same three acts as for packages: look, mend, look again.

use std::path::Path;
use std::time::Duration;

use super::{AptSource, FileSetting, ServiceSetting, Setting, SysctlSetting, UserSetting, parse_mode};
use crate::software::converge::Machine;

/// systemctl, useradd and the like are done in a second; apt-get update takes as long as its mirror.
const PATIENCE: Duration = Duration::from_secs(120);
const PATIENCE_WITH_A_MIRROR: Duration = Duration::from_secs(600);
const FILE_MODE: u32 = 0o644;

/// What is not so, in words; `None` when the setting holds.
pub fn deviation(setting: &Setting, machine: &mut dyn Machine) -> Option<String> {
    match setting {
        Setting::File(file) => file_deviation(file, machine),
        Setting::Service(service) => service_deviation(service, machine),
        Setting::User(user) => user_deviation(user, machine),
        Setting::Sysctl(sysctl) => sysctl_deviation(sysctl, machine),
        Setting::AptSource(source) => file_deviation(&source_file(source), machine),
        Setting::Unknown(_) => Some("this agent does not know such a setting: update the agent".to_owned()),
    }
}

/// Makes it so; the output of what was run, for the report.
pub fn mend(setting: &Setting, machine: &mut dyn Machine) -> Result<String, String> {
    match setting {
        Setting::File(file) => mend_file(file, machine),
        Setting::Service(service) => mend_service(service, machine),
        Setting::User(user) => mend_user(user, machine),
        Setting::Sysctl(sysctl) => mend_sysctl(sysctl, machine),
        Setting::AptSource(source) => {
            mend_file(&source_file(source), machine)?;
            run(machine, &["apt-get", "update"], PATIENCE_WITH_A_MIRROR)
        }
        Setting::Unknown(_) => Err("this agent does not know such a setting: update the agent".to_owned()),
    }
}

fn file_deviation(file: &FileSetting, machine: &mut dyn Machine) -> Option<String> {
    let found = machine.read_file(&file.path);
    let Some((bytes, mode)) = found else {
        return (!file.absent).then(|| "it is not there".to_owned());
    };
    if file.absent {
        return Some("it is there".to_owned());
    }
    if file.content.as_ref().is_some_and(|content| content.as_bytes() != bytes) {
        return Some("it has another content".to_owned());
    }
    let wanted = file.mode.as_deref().and_then(parse_mode);
    wanted.filter(|wanted| *wanted != mode).map(|wanted| format!("its mode is {mode:04o}, not {wanted:04o}"))
}

fn mend_file(file: &FileSetting, machine: &mut dyn Machine) -> Result<String, String> {
    if file.absent {
        return machine.remove_file(&file.path).map(|()| String::new());
    }
    let found = machine.read_file(&file.path);
    let mode = file.mode.as_deref().and_then(parse_mode).or(found.as_ref().map(|(_, mode)| *mode)).unwrap_or(FILE_MODE);
    let bytes = match (&file.content, found) {
        (Some(content), _) => content.clone().into_bytes(),
        (None, Some((bytes, _))) => bytes,
        (None, None) => return Err("it is not there and the baseline does not say what is in it".to_owned()),
    };
    machine.write_file(&file.path, &bytes, mode).map(|()| String::new())
}

fn source_file(source: &AptSource) -> FileSetting {
    FileSetting { path: source.path(), content: Some(source.content()), mode: Some("0644".into()), absent: false }
}

/// `systemctl is-enabled` and `is-active` end with 0 for yes (systemctl(1)).
fn service_deviation(service: &ServiceSetting, machine: &mut dyn Machine) -> Option<String> {
    let mut says_yes = |verb: &str| {
        let arguments = ["systemctl", "--quiet", verb, "--", &service.name].map(str::to_owned);
        machine.run(&arguments, Path::new("/"), PATIENCE).is_ok_and(|ended| ended.code == 0)
    };
    let differs = |wanted: Option<bool>, is: &mut dyn FnMut() -> bool, yes: &str, no: &str| {
        let wanted = wanted?;
        let found = is();
        (found != wanted).then(|| if found { yes.to_owned() } else { no.to_owned() })
    };
    differs(service.enabled, &mut || says_yes("is-enabled"), "it is enabled", "it is not enabled")
        .or_else(|| differs(service.running, &mut || says_yes("is-active"), "it is running", "it is not running"))
}

fn mend_service(service: &ServiceSetting, machine: &mut dyn Machine) -> Result<String, String> {
    let mut output = String::new();
    let verbs = [
        service.enabled.map(|on| if on { "enable" } else { "disable" }),
        service.running.map(|on| if on { "start" } else { "stop" }),
    ];
    for verb in verbs.into_iter().flatten() {
        output.push_str(&run(machine, &["systemctl", verb, "--", &service.name], PATIENCE)?);
    }
    Ok(output)
}

/// passwd(5) and group(5).
fn user_deviation(user: &UserSetting, machine: &mut dyn Machine) -> Option<String> {
    let passwd = text(machine, "/etc/passwd");
    let account = passwd.lines().find(|line| line.split(':').next() == Some(&user.name));
    let Some(account) = account else {
        return (!user.absent).then(|| "there is no such account".to_owned());
    };
    if user.absent {
        return Some("the account is there".to_owned());
    }
    let shell = account.split(':').nth(6).unwrap_or_default();
    if let Some(wanted) = user.shell.as_ref().filter(|wanted| *wanted != shell) {
        return Some(format!("its shell is {shell}, not {wanted}"));
    }
    let groups = text(machine, "/etc/group");
    let is_member = |group: &str| {
        groups.lines().filter_map(|line| line.split_once(':')).any(|(name, rest)| {
            name == group && rest.rsplit(':').next().unwrap_or_default().split(',').any(|member| member == user.name)
        })
    };
    user.groups.iter().find(|group| !is_member(group)).map(|group| format!("it is not in the group {group}"))
}

fn mend_user(user: &UserSetting, machine: &mut dyn Machine) -> Result<String, String> {
    let passwd = text(machine, "/etc/passwd");
    let exists = passwd.lines().any(|line| line.split(':').next() == Some(&user.name));
    if user.absent {
        return run(machine, &["userdel", "--", &user.name], PATIENCE);
    }
    let mut arguments = if exists { vec!["usermod", "--append"] } else { vec!["useradd", "--create-home"] };
    let groups = user.groups.join(",");
    if !exists && user.system {
        arguments = vec!["useradd", "--system"];
    }
    if exists && groups.is_empty() {
        arguments = vec!["usermod"];
    }
    if let Some(shell) = &user.shell {
        arguments.extend(["--shell", shell]);
    }
    if !groups.is_empty() {
        arguments.extend(["--groups", &groups]);
    }
    arguments.extend(["--", &user.name]);
    run(machine, &arguments, PATIENCE)
}

/// Now and after the next start (sysctl.d(5)).
fn sysctl_deviation(sysctl: &SysctlSetting, machine: &mut dyn Machine) -> Option<String> {
    let Some((bytes, _)) = machine.read_file(&sysctl.path()) else {
        return Some("this kernel has no such parameter".to_owned());
    };
    let found = words(&String::from_utf8_lossy(&bytes));
    if found != words(&sysctl.value) {
        return Some(format!("it is {found}"));
    }
    file_deviation(&sysctl_file(sysctl), machine).map(|_| "it is not kept for the next start".to_owned())
}

fn mend_sysctl(sysctl: &SysctlSetting, machine: &mut dyn Machine) -> Result<String, String> {
    mend_file(&sysctl_file(sysctl), machine)?;
    machine.write_kernel_parameter(&sysctl.path(), &sysctl.value).map(|()| String::new())
}

fn sysctl_file(sysctl: &SysctlSetting) -> FileSetting {
    FileSetting {
        path: format!("/etc/sysctl.d/60-remint-{}.conf", sysctl.key),
        content: Some(format!("{} = {}\n", sysctl.key, sysctl.value)),
        mode: Some("0644".into()),
        absent: false,
    }
}

/// Several numbers are told with tabs between them.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn text(machine: &mut dyn Machine, path: &str) -> String {
    machine.read_file(path).map(|(bytes, _)| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn run(machine: &mut dyn Machine, arguments: &[&str], patience: Duration) -> Result<String, String> {
    let words: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
    let ended = machine.run(&words, Path::new("/"), patience)?;
    match ended.code {
        0 => Ok(ended.output),
        code => Err(format!("{} ended with {code}: {}", arguments.join(" "), ended.output)),
    }
}
