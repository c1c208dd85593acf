//! `install-packages`: packages of the distribution, by the system's own package manager.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::tasksequence::host::{Command, Root};

use super::create_user::run;
use super::{
    Check, Done, Gives, INSTALLED_SYSTEM, Kind, Needs, On, Planned, Row, StepError, View, Work, load, required,
};

pub(super) const ROW: Row = Row {
    name: "install-packages",
    summary: "installs packages of the distribution",
    text: "By `apt-get` or `dnf`, whichever the system has. What is installed is left alone; afterwards the package manager is \
           asked for the version of each, which is the evidence. For software that every machine of a collection must have, \
           a baseline is better: it is looked after later too.",
    parameters: &[required("packages", Kind::Texts, "names of packages")],
    places: INSTALLED_SYSTEM,
    needs: Needs::System,
    gives: Gives::Nothing,
    erases: false,
    example: "- install-packages:\n    packages: [openssh-server, htop]\n  retry: 3\n",
    load: load::<InstallPackages>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstallPackages {
    packages: Vec<String>,
}

impl InstallPackages {
    /// No options and no shell's signs: a name goes to the package manager as an argument.
    fn valid(&self) -> Result<(), StepError> {
        let good = |name: &str| {
            name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "+-._:=~".contains(c))
        };
        match self.packages.iter().find(|name| !good(name)) {
            Some(name) => Err(StepError::new(format!("`{name}` is not a name of a package"))),
            None => Ok(()),
        }
    }

    /// Name and installed version of each, `None` when it is not installed.
    fn versions(&self, on: &mut On) -> Result<Vec<(String, Option<String>)>, StepError> {
        let apt = has_apt(on)?;
        let mut versions = Vec::new();
        for name in &self.packages {
            let bare = name.split('=').next().unwrap_or(name).to_owned();
            let arguments: Vec<&str> = if apt {
                vec!["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Version}", &bare]
            } else {
                vec!["rpm", "--query", "--queryformat", "installed %{VERSION}-%{RELEASE}", &bare]
            };
            let command = Command {
                arguments: arguments.into_iter().map(str::to_owned).collect(),
                environment: Default::default(),
                root: Root::Target,
                input: Vec::new(),
                timeout: Some(std::time::Duration::from_secs(60)),
            };
            let exit = on.host.command(&command, on.watch)?;
            let version = exit.output.trim().strip_prefix("installed ").filter(|_| exit.status == 0).map(str::to_owned);
            versions.push((bare, version));
        }
        Ok(versions)
    }
}

fn has_apt(on: &mut On) -> Result<bool, StepError> {
    if on.host.read(Root::Target, "/usr/bin/apt-get")?.is_some() {
        return Ok(true);
    }
    match on.host.read(Root::Target, "/usr/bin/dnf")? {
        Some(_) => Ok(false),
        None => Err(StepError::new("the system has neither apt-get nor dnf")
            .hint("use `run-command` for other package managers")),
    }
}

impl Work for InstallPackages {
    fn plan(&self, _: &View) -> Result<Planned, StepError> {
        self.valid()?;
        Ok(Planned::new(format!("install {}", self.packages.join(", "))))
    }

    fn check(&self, on: &mut On) -> Result<Check, StepError> {
        self.valid()?;
        let all = self.versions(on)?.iter().all(|(_, version)| version.is_some());
        Ok(if all { Check::Holds } else { Check::Needed })
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        let names = self.packages.iter().map(String::as_str);
        if has_apt(on)? {
            run(on, &["apt-get", "update"])?;
            run(
                on,
                &["apt-get", "install", "--yes", "--no-install-recommends"]
                    .into_iter()
                    .chain(names)
                    .collect::<Vec<_>>(),
            )?;
        } else {
            run(on, &["dnf", "install", "--assumeyes"].into_iter().chain(names).collect::<Vec<_>>())?;
        }
        Ok(Done::default())
    }

    fn verify(&self, on: &mut On, done: &mut Done) -> Result<(), StepError> {
        let versions = self.versions(on)?;
        if let Some((name, _)) = versions.iter().find(|(_, version)| version.is_none()) {
            return Err(StepError::new(format!("{name} is not installed, although its installation ended well")));
        }
        let list: Vec<Value> =
            versions.into_iter().map(|(name, version)| json!({ "name": name, "version": version })).collect();
        done.evidence("packages", list);
        Ok(())
    }
}
