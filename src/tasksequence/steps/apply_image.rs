//! `apply-image`: makes a disk match an image, and grows it to the disk; or puts the files of a tree image on the file systems
//! that `format` made.

use serde::Deserialize;

use crate::tasksequence::host::{Applied, Disk};
use crate::tasksequence::layout::Target;
use crate::tasksequence::link::ImageGrant;
use crate::tasksequence::quantity::bytes_for_people;

use super::selection::{self, DiskRule};
use super::{
    BOOT_ENVIRONMENT, Check, Done, Gives, Kind, Needs, On, Planned, Row, StepError, View, Work, load, optional,
    required,
};

pub(super) const ROW: Row = Row {
    name: "apply-image",
    summary: "makes a disk match an image of the site, or puts the files of one on formatted file systems",
    text: "Idempotent: what matches already is left alone, so it goes on where a power cut stopped it. Every chunk's hash is \
           checked before it is written. An image of a disk takes the place of all that is on the disk. An image of files \
           (from a WIM, or a captured folder) goes onto the file systems that `format` has made, which decide `disk` and \
           leave nothing to grow; `install-bootloader` makes it start.",
    parameters: &[
        required("image", Kind::Image, "the image, as `NAME`, `NAME@VERSION` or `NAME@TAG`"),
        optional("disk", Kind::DiskRule, "first", "the disk to write to"),
        optional(
            "grow",
            Kind::Choice(&["last", "none"]),
            "last",
            "grow the last partition and its file system to the end of the disk, or leave them",
        ),
    ],
    places: BOOT_ENVIRONMENT,
    needs: Needs::Nothing,
    gives: Gives::System,
    erases: true,
    example: "- apply-image:\n    image: debian-lab\n    disk: largest\n  retry: 3\n",
    load: load::<ApplyImage>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApplyImage {
    image: String,
    #[serde(default)]
    disk: DiskRule,
    #[serde(default)]
    grow: Grow,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Grow {
    #[default]
    Last,
    None,
}

impl ApplyImage {
    fn image<'a>(&self, images: &'a [ImageGrant]) -> Result<&'a ImageGrant, StepError> {
        images.iter().find(|image| image.reference == self.image).ok_or_else(|| {
            StepError::new(format!("the run was not given the image `{}`", self.image))
                .hint("`remint image list` shows the site's images; start the deployment again once the image is there")
        })
    }

    fn find<'a>(&self, images: &'a [ImageGrant], disks: &'a [Disk]) -> Result<(&'a ImageGrant, &'a Disk), StepError> {
        let image = self.image(images)?;
        let disk = selection::choose(&self.disk, disks)?;
        if image.disk_bytes > disk.bytes {
            let (needs, has) = (bytes_for_people(image.disk_bytes), bytes_for_people(disk.bytes));
            return Err(StepError::new(format!(
                "the image `{}` needs a disk of {needs}, and {} has {has}",
                image.name, disk.path
            ))
            .hint("choose a larger disk, or make the image from a smaller one"));
        }
        Ok((image, disk))
    }
}

impl ApplyImage {
    fn apply_files(&self, image: &ImageGrant, on: &mut On) -> Result<Done, StepError> {
        let target = on.target.filter(|target| target.root().is_some()).ok_or_else(|| {
            StepError::new(format!("the image `{}` is files, and no file system was made for them", image.name))
                .hint("put `- partition-disk:` and `- format:`, with a file system at `/`, before this step")
        })?;
        let version = &image.version[..image.version.len().min(12)];
        on.line(&format!("putting the files of {} {version} on {}", image.name, target.disk.path));
        let applied = on.host.apply_tree(image, target, "/", on.watch)?;
        for (what, count) in &applied.not_held {
            on.line(&format!("not held by the file systems: {count} {what}"));
        }
        let mut done = Done { target: Some(target.clone()), ..Done::default() };
        done.evidence("image", image.name.as_str());
        done.evidence("version", image.version.as_str());
        done.evidence("disk", target.disk.path.as_str());
        done.evidence("files", applied.files);
        done.evidence("folders", applied.folders);
        done.evidence("links", applied.links);
        done.evidence("not_held", serde_json::to_value(&applied.not_held).unwrap_or_default());
        applied_bytes(&mut done, &applied.bytes);
        Ok(done)
    }
}

fn applied_bytes(done: &mut Done, applied: &Applied) {
    done.evidence("total_bytes", applied.total_bytes);
    done.evidence("kept_bytes", applied.kept_bytes);
    done.evidence("written_bytes", applied.written_bytes);
    done.evidence("zeroed_bytes", applied.zeroed_bytes);
    done.evidence("fetched_bytes", applied.fetched_bytes);
    done.evidence("verified_chunks", applied.verified_chunks);
}

impl Work for ApplyImage {
    fn plan(&self, view: &View) -> Result<Planned, StepError> {
        if let Some(image) = self.image(view.images).ok().filter(|image| image.tree) {
            let used = bytes_for_people(image.used_bytes);
            let what = format!("put the files of image {} ({used}) on the file systems at /", image.reference);
            return Ok(Planned { what, bytes: image.used_bytes, ..Planned::default() });
        }
        if view.facts.disks.is_empty() {
            let what = format!("write image {} to a disk; inventory does not know the machine's disks yet", self.image);
            return Ok(Planned { what, erases: Some(super::unknown_disk()), ..Planned::default() });
        }
        let (image, disk) = self.find(view.images, &view.facts.disks)?;
        let grow = if self.grow == Grow::Last { ", then grow it to the disk" } else { "" };
        let used = bytes_for_people(image.used_bytes);
        Ok(Planned {
            what: format!(
                "write image {} ({used}) to {} ({}){grow}",
                image.reference,
                disk.path,
                bytes_for_people(disk.bytes)
            ),
            erases: Some(disk.identity()),
            bytes: image.used_bytes,
            ..Planned::default()
        })
    }

    /// Whether the disk matches is what applying finds out.
    fn check(&self, _: &mut On) -> Result<Check, StepError> {
        Ok(Check::Needed)
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        let image = self.image(&on.order.images)?;
        if image.tree {
            return self.apply_files(image, on);
        }
        let disks = on.host.disks()?;
        let (image, disk) = self.find(&on.order.images, &disks)?;
        on.line(&format!("writing {} {} to {}", image.name, &image.version[..image.version.len().min(12)], disk.path));
        let applied = on.host.apply_image(image, disk, on.watch)?;
        let mut done = Done { target: Some(Target::of(disk.identity())), ..Done::default() };
        done.evidence("image", image.name.as_str());
        done.evidence("version", image.version.as_str());
        done.evidence("disk", disk.path.as_str());
        applied_bytes(&mut done, &applied);
        if self.grow == Grow::Last
            && let Some(grown) = on.host.grow(disk, on.watch)?
        {
            on.line(&format!(
                "{} on {} has {} now",
                grown.file_system,
                grown.partition,
                bytes_for_people(grown.after_bytes)
            ));
            done.evidence("grown", serde_json::to_value(&grown).unwrap_or_default());
        }
        Ok(done)
    }

    fn verify(&self, on: &mut On, done: &mut Done) -> Result<(), StepError> {
        match &done.target {
            Some(target) => Ok(on.host.use_target(target)?),
            None => Ok(()),
        }
    }
}
