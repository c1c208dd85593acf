//! What can go wrong in the lab.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::stdx::hint::Hint;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read or write {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("read the lab file {path}: {message}")]
    Scenario { path: PathBuf, message: String },
    #[error("start `{program}`")]
    Missing { program: String, source: io::Error },
    #[error("make the private network: {message}")]
    Network { message: String },
    #[error("run `{command}`: {message}")]
    Command { command: String, message: String },
    #[error("see {what} within {} s; the last thing seen: {last}", .limit.as_secs())]
    Late { what: String, limit: Duration, last: String },
    #[error("go on: {what} ended by itself: {last}")]
    Ended { what: String, last: String },
    #[error("talk to QEMU of machine {machine}: {message}")]
    Qmp { machine: String, message: String },
}

impl Error {
    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        |source| Error::File { path, source }
    }

    pub(super) fn missing(program: &str) -> impl FnOnce(io::Error) -> Error {
        let program = program.to_owned();
        |source| Error::Missing { program, source }
    }
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Error::Missing { program, .. } => Some(format!("apt-get install {}", package_of(program))),
            Error::Network { .. } => Some(
                "as an ordinary user this needs user namespaces and /dev/net/tun open to all; where they are closed, run it as root"
                    .to_owned(),
            ),
            Error::Late { .. } => Some("the serial consoles and the appliance's log are kept in the lab's folder".to_owned()),
            _ => None,
        }
    }
}

fn package_of(program: &str) -> &str {
    match program {
        "qemu-system-x86_64" => "qemu-system-x86",
        "dnsmasq" => "dnsmasq-base",
        "ip" => "iproute2",
        "unshare" | "nsenter" | "setpriv" => "util-linux",
        "debugfs" => "e2fsprogs",
        "sfdisk" => "fdisk",
        "swtpm_setup" => "swtpm-tools",
        other => other,
    }
}
