//! `add-drivers`: a folder of drivers onto Windows' volume.

use serde::Deserialize;

use crate::tasksequence::host::Root;
use crate::tasksequence::link::ImageGrant;
use crate::tasksequence::quantity::bytes_for_people;

use super::windows_boot::files_below;
use super::{
    BOOT_ENVIRONMENT, Check, Done, Gives, Kind, Needs, On, Planned, Row, StepError, View, Work, load, optional,
    required,
};

pub(super) const ROW: Row = Row {
    name: "add-drivers",
    summary: "puts a folder of drivers, an image of files, onto the volume of Windows",
    text: "The image is a folder of .inf files and what belongs to them, captured with `remint wim capture` and imported; equal \
           files of several such folders are stored once. `when: machine.model == ...` chooses the folder for a model. \
           Idempotent: what matches already is left alone. Windows takes the drivers in when its answer file says so (see \
           `write-unattend` and docs/windows.md): by `DriverPaths`, or by a command that runs pnputil.",
    parameters: &[
        required("image", Kind::Image, "the image with the drivers, as `NAME`, `NAME@VERSION` or `NAME@TAG`"),
        optional("folder", Kind::Path, "/Drivers/NAME", "where, with `/` between folders, from the root of the volume"),
    ],
    places: BOOT_ENVIRONMENT,
    needs: Needs::System,
    gives: Gives::Nothing,
    erases: false,
    example: "- add-drivers:\n    image: drivers-latitude-5440\n  when: machine.model == 'Latitude 5440'\n",
    load: load::<AddDrivers>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddDrivers {
    image: String,
    folder: Option<String>,
}

impl AddDrivers {
    fn image<'a>(&self, images: &'a [ImageGrant]) -> Result<&'a ImageGrant, StepError> {
        let image = images.iter().find(|image| image.reference == self.image).ok_or_else(|| {
            StepError::new(format!("the run was not given the image `{}`", self.image))
                .hint("`remint image list` shows the site's images; start the deployment again once the image is there")
        })?;
        if !image.tree {
            return Err(StepError::new(format!("`{}` is an image of a disk, and drivers are files", image.reference))
                .hint("`remint wim capture FOLDER drivers.wim`, then `remint image import drivers.wim --name NAME`"));
        }
        Ok(image)
    }

    fn folder(&self, image: &ImageGrant) -> String {
        self.folder.clone().unwrap_or_else(|| format!("/Drivers/{}", image.name))
    }
}

impl Work for AddDrivers {
    fn plan(&self, view: &View) -> Result<Planned, StepError> {
        let image = self.image(view.images)?;
        let (used, folder) = (bytes_for_people(image.used_bytes), self.folder(image));
        let what = format!("put the drivers of image {} ({used}) into {folder}", image.reference);
        Ok(Planned { what, bytes: image.used_bytes, ..Planned::default() })
    }

    /// Whether the files match is what applying finds out.
    fn check(&self, _: &mut On) -> Result<Check, StepError> {
        Ok(Check::Needed)
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        let image = self.image(&on.order.images)?;
        let folder = self.folder(image);
        let target = on.target.filter(|target| target.root().is_some()).ok_or_else(|| {
            StepError::new("no file system that `format` made is the volume of Windows")
                .hint("put `- format:` with `{ type: ntfs, at: / }` before this step")
        })?;
        on.line(&format!("putting the drivers of {} into {folder}", image.name));
        let applied = on.host.apply_tree(image, target, &folder, on.watch)?;
        for (what, count) in &applied.not_held {
            on.line(&format!("not held by the file system: {count} {what}"));
        }
        on.host.use_target(target)?;
        let mut done = Done::default();
        done.evidence("version", image.version.as_str());
        done.evidence("files", applied.files);
        done.evidence("folders", applied.folders);
        done.evidence("written_bytes", applied.bytes.written_bytes);
        done.evidence("fetched_bytes", applied.bytes.fetched_bytes);
        done.evidence("not_held", serde_json::to_value(&applied.not_held).unwrap_or_default());
        Ok(done)
    }

    /// Windows finds a driver by its .inf file.
    fn verify(&self, on: &mut On, done: &mut Done) -> Result<(), StepError> {
        let image = self.image(&on.order.images)?;
        let folder = self.folder(image);
        let is_inf = |path: &&String| path.len() > 4 && path.to_ascii_lowercase().ends_with(".inf");
        let count = files_below(on, Root::Target, &folder)?.iter().filter(is_inf).count();
        if count == 0 {
            return Err(StepError::new(format!("no .inf file is in {folder}: Windows would find no driver there"))
                .hint("capture the unpacked drivers, not the program that installs them"));
        }
        done.evidence("image", image.name.as_str());
        done.evidence("folder", folder);
        done.evidence("inf_files", count as u64);
        Ok(())
    }
}
