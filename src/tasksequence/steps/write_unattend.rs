//! `write-unattend`: Windows' answer file.

use serde::Deserialize;

use crate::stdx::xml;
use crate::tasksequence::host::{FileContent, Root};

use super::write_file;
use super::{
    BOOT_ENVIRONMENT, Check, Done, Gives, Kind, Needs, On, Planned, Row, StepError, View, Work, load, optional,
    required,
};

pub(super) const ROW: Row = Row {
    name: "write-unattend",
    summary: "writes the answer file that Windows' setup reads when it starts for the first time",
    text: "The content is a template of XML: what stands in `{{ }}` is escaped, so that a name with `&` in it stays a name; \
           `{{ value | safe }}` is XML itself. A document that is not well-formed, or whose outermost element is not \
           `unattend` of Microsoft's namespace, is refused before the run begins, as far as its values are known by then. What \
           the settings mean is not looked at: Windows itself says that, in C:\\Windows\\Panther\\setuperr.log. The file's \
           SHA-256 is the evidence.",
    parameters: &[
        required("content", Kind::Xml, "the answer file"),
        optional("path", Kind::Path, PANTHER, "where, with `/` between folders, from the root of the volume"),
    ],
    places: BOOT_ENVIRONMENT,
    needs: Needs::Root,
    gives: Gives::Nothing,
    erases: false,
    example: "- write-unattend:\n    content: |\n      <?xml version=\"1.0\" encoding=\"utf-8\"?>\n      \
              <unattend xmlns=\"urn:schemas-microsoft-com:unattend\">\n        <settings pass=\"specialize\">\n          \
              <component name=\"Microsoft-Windows-Shell-Setup\" processorArchitecture=\"amd64\"\n            \
              publicKeyToken=\"31bf3856ad364e35\" language=\"neutral\" versionScope=\"nonSxS\">\n            \
              <ComputerName>{{ machine.name }}</ComputerName>\n          </component>\n        </settings>\n      \
              </unattend>\n",
    load: load::<WriteUnattend>,
};

/// Where setup looks by itself, whatever the image was told.
const PANTHER: &str = "/Windows/Panther/unattend.xml";
const NAMESPACE: &str = "urn:schemas-microsoft-com:unattend";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteUnattend {
    content: String,
    #[serde(default = "usual")]
    path: String,
}

fn usual() -> String {
    PANTHER.to_owned()
}

impl WriteUnattend {
    /// The words of a fault name lines and elements, never values: one of them may be a password.
    fn wanted(&self) -> Result<FileContent, StepError> {
        let root = xml::root(&self.content).map_err(|fault| {
            StepError::new(format!("the answer file is no document of XML: {fault}"))
                .hint("a value with `&` or `<` in it belongs into `{{ }}`, which escapes it")
        })?;
        if root.name != "unattend" || root.namespace != NAMESPACE {
            return Err(StepError::new(format!("the answer file's outermost element is `{}`", root.name))
                .hint(format!("begin it with <unattend xmlns=\"{NAMESPACE}\">")));
        }
        Ok(FileContent { bytes: self.content.clone().into_bytes(), mode: 0o644 })
    }
}

impl Work for WriteUnattend {
    fn plan(&self, _: &View) -> Result<Planned, StepError> {
        let bytes = self.wanted()?.bytes.len();
        Ok(Planned::new(format!("write the answer file {} ({bytes} bytes)", self.path)))
    }

    fn check(&self, on: &mut On) -> Result<Check, StepError> {
        write_file::is_there(on, &self.path, &self.wanted()?)
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        on.host.write(Root::Target, &self.path, &self.wanted()?)?;
        Ok(Done::default())
    }

    fn verify(&self, on: &mut On, done: &mut Done) -> Result<(), StepError> {
        write_file::read_back(on, &self.path, &self.wanted()?, done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_file_is_refused_for_its_form_and_never_shows_its_values() {
        let said = |content: &str| {
            WriteUnattend { content: content.into(), path: usual() }.wanted().err().map(|error| error.message)
        };
        let good = format!("<unattend xmlns=\"{NAMESPACE}\"><a>secret</a></unattend>");
        assert_eq!(said(&good), None);
        let faults = [
            (good.replace("secret", "secret & more"), "the answer file is no document of XML: line 1: "),
            (good.replace("</a>", "</b>"), "the answer file is no document of XML: line 1: "),
            (good.replace("schemas", "schema"), "the answer file's outermost element is `unattend`"),
            (
                good.replace("unattend>", "autounattend>").replace("<unattend", "<autounattend"),
                "the answer file's outermost element is `autounattend`",
            ),
            (
                format!("{good}{good}"),
                "the answer file is no document of XML: line 1: there are two outermost elements",
            ),
        ];
        for (content, expect) in faults {
            let message = said(&content).unwrap();
            assert!(message.starts_with(expect) && !message.contains("secret"), "{message}");
        }
    }
}
