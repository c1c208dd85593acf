//! `set-hostname`: gives the installed system its name.

use serde::Deserialize;

use crate::tasksequence::host::{FileContent, Root};

use super::{ANYWHERE, Check, Done, Gives, Kind, Needs, On, Planned, Row, StepError, View, Work, load, required};

pub(super) const ROW: Row = Row {
    name: "set-hostname",
    summary: "gives the system on the disk its name",
    text: "Writes `/etc/hostname`, and the line of `127.0.1.1` in `/etc/hosts` so that the name resolves without a network.",
    parameters: &[required("hostname", Kind::Text, "the name: letters, digits and `-`, at most 63 in each part")],
    places: ANYWHERE,
    needs: Needs::System,
    gives: Gives::Nothing,
    erases: false,
    example: "- set-hostname:\n    hostname: \"{{ vars.hostname }}\"\n",
    load: load::<SetHostname>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetHostname {
    hostname: String,
}

const HOSTNAME: &str = "/etc/hostname";
const HOSTS: &str = "/etc/hosts";

impl SetHostname {
    /// RFC 1123, 2.1: labels of letters, digits and hyphens, not at the ends.
    fn valid(&self) -> Result<(), StepError> {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if self.hostname.len() <= 253 && self.hostname.split('.').all(label) {
            return Ok(());
        }
        Err(StepError::new(format!("`{}` is not a host name", self.hostname)).hint(
            "use letters, digits and `-`; a template can replace the rest: `{{ machine.serial | replace(' ', '-') }}`",
        ))
    }

    fn files(&self, on: &mut On) -> Result<Vec<(&'static str, FileContent)>, StepError> {
        let hosts = on.host.read(Root::Target, HOSTS)?;
        let (text, mode) = match hosts {
            Some(content) => (String::from_utf8_lossy(&content.bytes).into_owned(), content.mode.unwrap_or(0o644)),
            None => ("127.0.0.1\tlocalhost\n::1\tlocalhost\n".to_owned(), 0o644),
        };
        let name = FileContent { bytes: format!("{}\n", self.hostname).into_bytes(), mode: 0o644 };
        Ok(vec![(HOSTNAME, name), (HOSTS, FileContent { bytes: hosts_with(&text, &self.hostname).into_bytes(), mode })])
    }
}

impl Work for SetHostname {
    fn plan(&self, _: &View) -> Result<Planned, StepError> {
        self.valid()?;
        Ok(Planned::new(format!("name the system {}", self.hostname)))
    }

    fn check(&self, on: &mut On) -> Result<Check, StepError> {
        self.valid()?;
        for (path, wanted) in self.files(on)? {
            if on.host.read(Root::Target, path)?.is_none_or(|there| !there.is(&wanted)) {
                return Ok(Check::Needed);
            }
        }
        Ok(Check::Holds)
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        for (path, wanted) in self.files(on)? {
            on.host.write(Root::Target, path, &wanted)?;
        }
        Ok(Done::default())
    }

    fn verify(&self, on: &mut On, done: &mut Done) -> Result<(), StepError> {
        let read = on.host.read(Root::Target, HOSTNAME)?.map(|content| content.bytes).unwrap_or_default();
        let read = String::from_utf8_lossy(&read).trim().to_owned();
        if read != self.hostname {
            return Err(StepError::new(format!("{HOSTNAME} reads `{read}` instead of `{}`", self.hostname)));
        }
        done.evidence("hostname", read);
        Ok(())
    }
}

/// The hosts file with one line for 127.0.1.1, as Debian has it.
fn hosts_with(text: &str, hostname: &str) -> String {
    let short = hostname.split('.').next().unwrap_or(hostname);
    let line =
        if short == hostname { format!("127.0.1.1\t{hostname}") } else { format!("127.0.1.1\t{hostname} {short}") };
    let is_ours = |line: &&str| line.split_whitespace().next() == Some("127.0.1.1");
    let mut lines: Vec<&str> = text.lines().filter(|line| !is_ours(line)).collect();
    let at = text.lines().position(|line| is_ours(&line)).unwrap_or_else(|| lines.len().min(1));
    lines.insert(at.min(lines.len()), &line);
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_file_keeps_its_other_lines_and_has_one_for_the_name() {
        let once = hosts_with("127.0.0.1 localhost\n127.0.1.1 old\n::1 localhost\n", "ws-1.lab");
        assert_eq!(once, "127.0.0.1 localhost\n127.0.1.1\tws-1.lab ws-1\n::1 localhost\n");
        assert_eq!(hosts_with(&once, "ws-1.lab"), once);
        assert_eq!(hosts_with("127.0.0.1 localhost\n", "a"), "127.0.0.1 localhost\n127.0.1.1\ta\n");
        assert_eq!(hosts_with("", "a"), "127.0.1.1\ta\n");
    }

    #[test]
    fn only_host_names_are_host_names() {
        for (name, good) in [
            ("ws-1", true),
            ("a.b", true),
            ("", false),
            ("-a", false),
            ("a_b", false),
            ("a..b", false),
            ("ws 1", false),
        ] {
            assert_eq!(SetHostname { hostname: name.into() }.valid().is_ok(), good, "{name}");
        }
    }
}
