//! All that a build will do, before anything is fetched or written.

use std::fmt;
use std::path::PathBuf;

use super::modules::Flavour;

/// Largest initramfs that is built for virtual machines: one with 512 MB unpacks it beside the kernel.
pub const VIRTUAL_INITRAMFS_BYTES_MAX: u64 = 16 << 20;

/// Where a Debian package comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// By name from a suite of Debian's archive.
    Archive { package: String, suite: String },
    /// A file at hand.
    File(PathBuf),
}

/// Where the programs come from that steps run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tools {
    Archive {
        suite: String,
    },
    /// Package files at hand, those of the libraries among them. None at all: no programs.
    Files(Vec<PathBuf>),
}

/// What is asked for; what is left out gets its default in `Plan::new`.
#[derive(Clone, Debug)]
pub struct Request {
    pub flavour: Flavour,
    pub agent: PathBuf,
    /// The site's `boot` folder.
    pub output: PathBuf,
    pub cache: PathBuf,
    /// Suite of the kernel package.
    pub suite: Option<String>,
    /// Kernel package by name, such as `linux-image-amd64`.
    pub kernel: Option<String>,
    pub kernel_deb: Option<PathBuf>,
    pub ipxe_deb: Option<PathBuf>,
    pub grub_deb: Option<PathBuf>,
    pub shim_deb: Option<PathBuf>,
    pub signed_grub_deb: Option<PathBuf>,
    pub tool_debs: Option<Vec<PathBuf>>,
    /// Bring a shell along, which runs in debug mode offer on the machine's own console.
    pub debug_shell: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub flavour: Flavour,
    pub kernel: Source,
    /// iPXE of Debian 13: that of Debian 12 (from 2019) waits 12 seconds longer on a network without IPv6.
    pub ipxe: Source,
    pub grub: Source,
    /// Signed by Microsoft: what firmware with Secure Boot on accepts.
    pub shim: Source,
    /// Signed by Debian. That of Debian 12 has no HTTP built in, and may load nothing.
    pub signed_grub: Source,
    /// mke2fs and its like, of Debian 12: newer ones make file systems that the boot loaders of older systems cannot read.
    pub tools: Tools,
    pub debug_shell: bool,
    pub agent: PathBuf,
    pub output: PathBuf,
    pub cache: PathBuf,
}

impl Plan {
    pub fn new(request: Request) -> Plan {
        // Debian 12's cloud kernel is compressed with LZ4, the quickest to start where the processor is emulated; it has
        // no driver of a real machine. For those the newest kernel knows most hardware.
        let (kernel, suite) = match request.flavour {
            Flavour::Virtual => ("linux-image-cloud-amd64", "bookworm"),
            Flavour::Hardware => ("linux-image-amd64", "trixie"),
        };
        let package = request.kernel.unwrap_or_else(|| kernel.to_owned());
        let suite = request.suite.unwrap_or_else(|| suite.to_owned());
        Plan {
            flavour: request.flavour,
            kernel: source(request.kernel_deb, &package, &suite),
            ipxe: source(request.ipxe_deb, "ipxe", "trixie"),
            grub: source(request.grub_deb, "grub-efi-amd64-bin", "bookworm"),
            shim: source(request.shim_deb, "shim-signed", "trixie"),
            signed_grub: source(request.signed_grub_deb, "grub-efi-amd64-signed", "trixie"),
            tools: request.tool_debs.map_or(Tools::Archive { suite: "bookworm".to_owned() }, Tools::Files),
            debug_shell: request.debug_shell,
            agent: request.agent,
            output: request.output,
            cache: request.cache,
        }
    }
}

fn source(file: Option<PathBuf>, package: &str, suite: &str) -> Source {
    let archive = || Source::Archive { package: package.to_owned(), suite: suite.to_owned() };
    file.map_or_else(archive, Source::File)
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Archive { package, suite } => write!(f, "{package} of Debian {suite}"),
            Source::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machines = match self.flavour {
            Flavour::Virtual => "virtual machines",
            Flavour::Hardware => "real and virtual machines",
        };
        writeln!(f, "boot environment for {machines}")?;
        writeln!(f, "  kernel   {}", self.kernel)?;
        writeln!(f, "  iPXE     {}", self.ipxe)?;
        writeln!(f, "  GRUB     {}", self.grub)?;
        writeln!(f, "  Secure Boot  {} and {}", self.shim, self.signed_grub)?;
        match &self.tools {
            Tools::Archive { suite } => writeln!(f, "  programs for steps  of Debian {suite}")?,
            Tools::Files(files) => writeln!(f, "  programs for steps  of {} package files", files.len())?,
        }
        writeln!(f, "  agent    {}", self.agent.display())?;
        write!(f, "  output   {}", self.output.display())
    }
}
