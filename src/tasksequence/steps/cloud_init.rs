//! `cloud-init`: a NoCloud seed, for images that are made for clouds.

use serde::Deserialize;

use crate::tasksequence::host::{FileContent, Root};

use super::{
    ANYWHERE, Check, Done, Gives, Kind, Needs, On, Planned, Row, StepError, View, Work, load, optional, required,
};

pub(super) const ROW: Row = Row {
    name: "cloud-init",
    summary: "leaves a NoCloud seed for cloud-init in the system on the disk",
    text: "cloud-init reads it at the first start of the installed system, from `/var/lib/cloud/seed/nocloud`. The instance's \
           identifier is that of the run, so that a machine that is imaged anew is set up anew.",
    parameters: &[
        required("user-data", Kind::Text, "the whole user data, usually beginning with `#cloud-config`"),
        optional("network-config", Kind::Text, "", "the network configuration, version 1 or 2"),
        optional("hostname", Kind::Text, "", "goes into the meta data as `local-hostname`"),
    ],
    places: ANYWHERE,
    needs: Needs::System,
    gives: Gives::Nothing,
    erases: false,
    example: "- cloud-init:\n    hostname: \"{{ machine.name }}\"\n    user-data: |\n      #cloud-config\n      package_update: true\n",
    load: load::<CloudInit>,
};

const FOLDER: &str = "/var/lib/cloud/seed/nocloud";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct CloudInit {
    user_data: String,
    network_config: Option<String>,
    hostname: Option<String>,
}

impl CloudInit {
    fn files(&self, run: &str) -> Vec<(String, FileContent)> {
        let mut meta = format!("instance-id: {run}\n");
        self.hostname.iter().for_each(|name| meta.push_str(&format!("local-hostname: {name}\n")));
        let mut files = vec![("meta-data", meta), ("user-data", self.user_data.clone())];
        files.extend(self.network_config.iter().map(|text| ("network-config", text.clone())));
        // User data often holds keys and hashes: for root alone.
        let content = |text: String| FileContent { bytes: text.into_bytes(), mode: 0o600 };
        files.into_iter().map(|(name, text)| (format!("{FOLDER}/{name}"), content(text))).collect()
    }
}

impl Work for CloudInit {
    fn plan(&self, _: &View) -> Result<Planned, StepError> {
        Ok(Planned::new(format!("leave a seed for cloud-init ({} bytes of user data)", self.user_data.len())))
    }

    fn check(&self, on: &mut On) -> Result<Check, StepError> {
        for (path, wanted) in self.files(on.order.run.as_str()) {
            if on.host.read(Root::Target, &path)?.is_none_or(|there| !there.is(&wanted)) {
                return Ok(Check::Needed);
            }
        }
        Ok(Check::Holds)
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        for (path, wanted) in self.files(on.order.run.as_str()) {
            on.host.write(Root::Target, &path, &wanted)?;
        }
        Ok(Done::default())
    }

    fn verify(&self, on: &mut On, done: &mut Done) -> Result<(), StepError> {
        if self.check(on)? != Check::Holds {
            return Err(StepError::new("the seed reads back otherwise than it was written"));
        }
        done.evidence("folder", FOLDER);
        done.evidence("files", self.files("").len() as u64);
        Ok(())
    }
}
