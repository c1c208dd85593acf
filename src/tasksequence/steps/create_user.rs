//! `create-user`: a person's or a service's account in the system on the disk.

use serde::Deserialize;

use crate::tasksequence::host::{Command, Exit, FileContent, Root};

use super::{
    ANYWHERE, Check, Done, Gives, Kind, Needs, On, Planned, Row, StepError, View, Work, load, optional, required,
};

pub(super) const ROW: Row = Row {
    name: "create-user",
    summary: "makes an account, with its groups and SSH keys",
    text: "Uses the system's own `useradd` and `usermod`. An account that is there already gets what it lacks and keeps the rest. \
           No password is set: the account opens by its keys.",
    parameters: &[
        required("name", Kind::Text, "the account's name"),
        optional("groups", Kind::Texts, "", "further groups that it is in; each must exist"),
        optional(
            "ssh-keys",
            Kind::Texts,
            "",
            "public keys, a line each as in `authorized_keys`; they replace what was there",
        ),
        optional("shell", Kind::Path, "/bin/bash", "the login shell"),
    ],
    places: ANYWHERE,
    needs: Needs::System,
    gives: Gives::Nothing,
    erases: false,
    example: "- create-user:\n    name: lab\n    groups: [sudo]\n    ssh-keys: [\"ssh-ed25519 AAAAC3Nz... lab@example\"]\n",
    load: load::<CreateUser>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct CreateUser {
    name: String,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    ssh_keys: Vec<String>,
    #[serde(default = "bash")]
    shell: String,
}

fn bash() -> String {
    "/bin/bash".into()
}

/// passwd(5)
struct Account {
    ids: String,
    home: String,
}

impl CreateUser {
    /// useradd(8): what Debian and Fedora accept without complaint.
    fn valid(&self) -> Result<(), StepError> {
        let first = self.name.chars().next().is_some_and(|c| c.is_ascii_lowercase() || c == '_');
        let rest = self.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c));
        if !first || !rest || self.name.len() > 32 {
            return Err(StepError::new(format!("`{}` is not a name for an account", self.name))
                .hint("begin with a letter, use a-z, 0-9, `-` and `_`, at most 32 characters"));
        }
        match self.ssh_keys.iter().find(|key| key.contains('\n') || key.split_whitespace().count() < 2) {
            Some(key) => {
                Err(StepError::new(format!("`{}` is not a public key", key.chars().take(40).collect::<String>()))
                    .hint("write the line of the `.pub` file: `ssh-ed25519 AAAA... comment`"))
            }
            None => Ok(()),
        }
    }

    fn account(&self, on: &mut On) -> Result<Option<Account>, StepError> {
        let text = text(on, "/etc/passwd")?;
        let fields = text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == self.name);
        Ok(fields
            .filter(|fields| fields.len() >= 7)
            .map(|fields| Account { ids: format!("{}:{}", fields[2], fields[3]), home: fields[5].to_owned() }))
    }

    /// Groups that the account is to be in and is not.
    fn missing_groups(&self, on: &mut On) -> Result<Vec<String>, StepError> {
        let text = text(on, "/etc/group")?;
        let is_in = |group: &&String| {
            text.lines().map(|line| line.split(':').collect::<Vec<_>>()).any(|fields| {
                fields[0] == **group && fields.get(3).is_some_and(|members| members.split(',').any(|m| m == self.name))
            })
        };
        Ok(self.groups.iter().filter(|group| !is_in(group)).cloned().collect())
    }

    fn keys(&self) -> FileContent {
        let text: String = self.ssh_keys.iter().map(|key| format!("{}\n", key.trim())).collect();
        FileContent { bytes: text.into_bytes(), mode: 0o600 }
    }

    fn keys_are_there(&self, on: &mut On, account: &Account) -> Result<bool, StepError> {
        let there = on.host.read(Root::Target, &keys_path(account))?;
        Ok(self.ssh_keys.is_empty() || there.is_some_and(|there| there.is(&self.keys())))
    }
}

impl Work for CreateUser {
    fn plan(&self, _: &View) -> Result<Planned, StepError> {
        self.valid()?;
        let groups = if self.groups.is_empty() { String::new() } else { format!(" in {}", self.groups.join(", ")) };
        Ok(Planned::new(format!("make the account {}{groups} with {} SSH keys", self.name, self.ssh_keys.len())))
    }

    fn check(&self, on: &mut On) -> Result<Check, StepError> {
        self.valid()?;
        let Some(account) = self.account(on)? else { return Ok(Check::Needed) };
        let holds = self.missing_groups(on)?.is_empty() && self.keys_are_there(on, &account)?;
        Ok(if holds { Check::Holds } else { Check::Needed })
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        if self.account(on)?.is_none() {
            run(on, &["useradd", "--create-home", "--shell", &self.shell, &self.name])?;
        }
        let missing = self.missing_groups(on)?;
        if !missing.is_empty() {
            run(on, &["usermod", "--append", "--groups", &missing.join(","), &self.name])?;
        }
        let account = self.account(on)?.ok_or_else(|| self.absent())?;
        if !self.keys_are_there(on, &account)? {
            let folder = format!("{}/.ssh", account.home);
            on.host.write(Root::Target, &keys_path(&account), &self.keys())?;
            run(on, &["chown", "--recursive", &account.ids, &folder])?;
            run(on, &["chmod", "0700", &folder])?;
        }
        Ok(Done::default())
    }

    fn verify(&self, on: &mut On, done: &mut Done) -> Result<(), StepError> {
        let account = self.account(on)?.ok_or_else(|| self.absent())?;
        let missing = self.missing_groups(on)?;
        if let Some(group) = missing.first() {
            return Err(StepError::new(format!(
                "the account {} is not in the group {group} after it was added",
                self.name
            )));
        }
        if !self.keys_are_there(on, &account)? {
            return Err(StepError::new(format!("{} reads back otherwise than it was written", keys_path(&account))));
        }
        done.evidence("account", self.name.as_str());
        done.evidence("ids", account.ids);
        done.evidence("home", account.home);
        done.evidence("ssh_keys", self.ssh_keys.len() as u64);
        Ok(())
    }
}

impl CreateUser {
    fn absent(&self) -> StepError {
        StepError::new(format!("/etc/passwd has no account {} after it was made", self.name))
    }
}

fn keys_path(account: &Account) -> String {
    format!("{}/.ssh/authorized_keys", account.home)
}

fn text(on: &mut On, path: &str) -> Result<String, StepError> {
    let content = on.host.read(Root::Target, path)?;
    Ok(content.map(|content| String::from_utf8_lossy(&content.bytes).into_owned()).unwrap_or_default())
}

/// Runs a program of the system on the disk, which must succeed.
pub(super) fn run(on: &mut On, arguments: &[&str]) -> Result<Exit, StepError> {
    let command = Command {
        arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
        environment: [("DEBIAN_FRONTEND".to_owned(), "noninteractive".to_owned())].into(),
        root: Root::Target,
        input: Vec::new(),
        timeout: Some(std::time::Duration::from_secs(3600)),
    };
    let exit = on.host.command(&command, on.watch)?;
    if exit.status == 0 && !exit.timed_out && !exit.stopped {
        return Ok(exit);
    }
    let last = exit.output.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(StepError::new(format!("`{}` ended with status {}: {last}", arguments[0], exit.status))
        .hint("the log of the run has all of its output"))
}
