//! `capture-image`: the disk of this machine becomes an image of the site.

use serde::Deserialize;

use crate::imaging::store::versions::check_name;
use crate::tasksequence::host::{Capture, FileContent, Root};
use crate::tasksequence::layout::Target;
use crate::tasksequence::quantity::bytes_for_people;

use super::selection::{self, DiskRule};
use super::{
    BOOT_ENVIRONMENT, Check, Done, Gives, Kind, Needs, On, Planned, Row, StepError, View, Work, load, optional,
    required,
};

pub(super) const ROW: Row = Row {
    name: "capture-image",
    summary: "makes the disk of this machine a version of an image",
    text: "What the file systems use is read, cut into chunks and hashed; only chunks that the site lacks travel. A capture \
           that was interrupted goes on with what has arrived. The site signs the version and publishes it whole, and its \
           manifest is fetched and checked before the step is done. The disk is not written to, but for what `prepare` \
           takes out of the system on it first: the machine's identity (/etc/machine-id), its host keys for SSH, its random \
           seed, and the agent's identity and key (/var/lib/remint), which must not be in an image.",
    parameters: &[
        required("image", Kind::Text, "the image that gets a new version; it is made when there is none"),
        optional("disk", Kind::DiskRule, "first", "the disk to read"),
        optional("tag", Kind::Text, "", "a tag that means the new version from now on"),
        optional("prepare", Kind::Boolean, "true", "take out what belongs to this machine alone"),
    ],
    places: BOOT_ENVIRONMENT,
    needs: Needs::Nothing,
    gives: Gives::Captured,
    erases: false,
    example: "- capture-image:\n    image: debian-lab\n    disk: largest\n    tag: candidate\n  retry: 3\n",
    load: load::<CaptureImage>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaptureImage {
    image: String,
    #[serde(default)]
    disk: DiskRule,
    tag: Option<String>,
    #[serde(default = "yes")]
    prepare: bool,
}

fn yes() -> bool {
    true
}

const MACHINE_ID: &str = "/etc/machine-id";
/// What a machine has for itself and another one must make anew.
const OWN: [&str; 12] = [
    "/var/lib/remint",
    "/etc/systemd/system/multi-user.target.wants/remint-agent.service",
    "/var/lib/dbus/machine-id",
    "/var/lib/systemd/random-seed",
    "/etc/ssh/ssh_host_rsa_key",
    "/etc/ssh/ssh_host_rsa_key.pub",
    "/etc/ssh/ssh_host_ecdsa_key",
    "/etc/ssh/ssh_host_ecdsa_key.pub",
    "/etc/ssh/ssh_host_ed25519_key",
    "/etc/ssh/ssh_host_ed25519_key.pub",
    "/etc/ssh/ssh_host_dsa_key",
    "/etc/ssh/ssh_host_dsa_key.pub",
];

impl CaptureImage {
    fn valid(&self) -> Result<(), StepError> {
        for name in std::iter::once(&self.image).chain(&self.tag) {
            check_name(name).map_err(|_| {
                StepError::new(format!("`{name}` cannot name an image or a tag"))
                    .hint("use letters, digits, `.`, `_` and `-`, beginning with a letter or a digit")
            })?;
        }
        Ok(())
    }

    fn prepare(on: &mut On) -> Result<Vec<String>, StepError> {
        let mut removed = Vec::new();
        for path in OWN {
            if on.host.remove(Root::Target, path)? {
                removed.push(path.to_owned());
            }
        }
        if on.host.read(Root::Target, MACHINE_ID)?.is_some_and(|content| !content.bytes.is_empty()) {
            // Empty, not absent: its next start makes one and is not taken for the first start with questions.
            on.host.write(Root::Target, MACHINE_ID, &FileContent { bytes: Vec::new(), mode: 0o444 })?;
            removed.push(MACHINE_ID.to_owned());
        }
        Ok(removed)
    }
}

impl Work for CaptureImage {
    fn plan(&self, view: &View) -> Result<Planned, StepError> {
        self.valid()?;
        let tag = self.tag.as_ref().map(|tag| format!(", tagged {tag}")).unwrap_or_default();
        let from = if view.facts.disks.is_empty() {
            "a disk".to_owned()
        } else {
            let disk = selection::choose(&self.disk, &view.facts.disks)?;
            format!("{} ({})", disk.path, bytes_for_people(disk.bytes))
        };
        let prepare = if self.prepare { ", without what belongs to this machine alone" } else { "" };
        Ok(Planned::new(format!("capture {from} as a new version of image {}{tag}{prepare}", self.image)))
    }

    /// Whether the site has it all is what capturing finds out.
    fn check(&self, _: &mut On) -> Result<Check, StepError> {
        self.valid()?;
        Ok(Check::Needed)
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        let disks = on.host.disks()?;
        let disk = selection::choose(&self.disk, &disks)?;
        let mut done = Done::default();
        if self.prepare {
            let target = on.target.filter(|target| disk.is(&target.disk)).cloned();
            on.host.use_target(&target.unwrap_or_else(|| Target::of(disk.identity())))?;
            done.evidence("removed", CaptureImage::prepare(on)?);
        }
        on.line(&format!("reading {} ({})", disk.path, bytes_for_people(disk.bytes)));
        let capture = Capture { run: on.order.run.clone(), image: self.image.clone(), tag: self.tag.clone() };
        let captured = on.host.capture_image(&capture, disk, on.watch)?;
        on.line(&format!(
            "{} of {} chunks were new: {} sent",
            captured.sent_chunks,
            captured.chunks,
            bytes_for_people(captured.sent_bytes)
        ));
        done.evidence("image", self.image.as_str());
        done.evidence("number", captured.number);
        done.evidence("version", captured.version);
        done.evidence("disk", disk.path.as_str());
        done.evidence("read_bytes", captured.read_bytes);
        done.evidence("chunks", captured.chunks);
        done.evidence("sent_chunks", captured.sent_chunks);
        done.evidence("sent_bytes", captured.sent_bytes);
        Ok(done)
    }

    /// The host has fetched the manifest again and compared it before it said so.
    fn verify(&self, _: &mut On, done: &mut Done) -> Result<(), StepError> {
        match done.evidence.get("version").and_then(serde_json::Value::as_str) {
            Some(version) if version.len() == 64 => Ok(()),
            _ => {
                Err(StepError::new(format!("the site did not say which version of `{}` it has published", self.image)))
            }
        }
    }
}
