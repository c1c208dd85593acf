//! What can go wrong while the boot environment is built.

use std::io;
use std::path::PathBuf;

use crate::stdx::hint::Hint;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read or write {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("start `{program}`")]
    Missing { program: String, source: io::Error },
    #[error("run `{command}`: {message}")]
    Command { command: String, message: String },
    #[error("find package `{package}` of Debian {suite}")]
    NoPackage { package: String, suite: String },
    #[error("find {what} in {package}")]
    NotInPackage { what: String, package: String },
    #[error("find the package `{package}`, whose programs steps need")]
    NoTool { package: String },
    #[error("find the library {library} that {program} needs")]
    NoLibrary { library: String, program: String },
    #[error("find the agent at {path}")]
    NoAgent { path: PathBuf },
    #[error("use {path} as the agent: it is not a static program")]
    AgentNotStatic { path: PathBuf },
    #[error("find a Debian mirror in apt's configuration")]
    NoMirror,
    #[error("build an initramfs of at most {limit_bytes} bytes: it has {bytes}")]
    TooLarge { bytes: u64, limit_bytes: u64 },
}

impl Error {
    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        |source| Error::File { path, source }
    }
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Error::File { .. } => return None,
            Error::Missing { program, .. } => format!("apt-get install {}", package_of(program)),
            Error::Command { .. } => {
                "is the network up, and the mirror in step? packages that are at hand already can be given with \
                 --kernel-deb, --ipxe-deb and --grub-deb"
                    .to_owned()
            }
            Error::NoPackage { .. } => {
                "another suite can be chosen with --suite, a package file with --kernel-deb".to_owned()
            }
            Error::NotInPackage { package, .. } => {
                format!("is {package} the right package? --kernel-deb wants a Debian linux-image package")
            }
            Error::NoTool { .. } | Error::NoLibrary { .. } => {
                "give each package of boot/tools.list and those of its libraries with --tool-deb".to_owned()
            }
            Error::NoAgent { .. } | Error::AgentNotStatic { .. } => {
                "build it with scripts/agent, or give its place with --agent".to_owned()
            }
            Error::NoMirror => {
                "on a machine that is not Debian, give the package files with --kernel-deb, --ipxe-deb and --grub-deb"
                    .to_owned()
            }
            Error::TooLarge { .. } => {
                "machines with little memory could not start it; --flavour virtual has fewer drivers".to_owned()
            }
        })
    }
}

/// The Debian package that brings a program.
fn package_of(program: &str) -> &str {
    match program {
        "depmod" => "kmod",
        "dpkg-deb" => "dpkg",
        "apt-get" | "apt-cache" => "apt",
        "grub-mkimage" => "grub-common",
        other => other,
    }
}
