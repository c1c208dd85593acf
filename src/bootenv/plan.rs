//! All that a build will do, before anything is fetched or written.

use std::fmt;
use std::path::PathBuf;

use super::firmware;
use super::modules::Flavour;

/// Largest initramfs that is built for virtual machines: one with 512 MB unpacks it beside the kernel.
pub const VIRTUAL_INITRAMFS_BYTES_MAX: u64 = 16 << 20;

/// Where a Debian package comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// By name from a suite of Debian's archive, for an architecture as Debian calls it.
    Archive { package: String, suite: String, architecture: &'static str },
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
    pub memtest_deb: Option<PathBuf>,
    /// Firmware files for the drivers of real machines.
    pub firmware: bool,
    /// Boot files for arm64 machines too.
    pub arm64: bool,
    /// The static agent for them. Without it their boot environment says that it cannot do anything.
    pub agent_arm64: Option<PathBuf>,
    /// Boot programs for UEFI firmware of 32 bits too (the processor must know 64).
    pub ia32: bool,
}

/// What arm64 machines need besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arm64 {
    pub kernel: Source,
    pub grub: Source,
    pub shim: Source,
    pub signed_grub: Source,
    /// Speaks in the agent's place where there is none.
    pub busybox: Source,
    pub agent: Option<PathBuf>,
}

/// What UEFI firmware of 32 bits needs besides. Debian has no iPXE for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ia32 {
    /// The last Debian release that has it is 12.
    pub shim: Source,
    pub signed_grub: Source,
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
    pub memtest: Source,
    /// Packages of firmware files, by name.
    pub firmware: Vec<(&'static str, Source)>,
    pub arm64: Option<Arm64>,
    pub ia32: Option<Ia32>,
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
        let firmware = match request.flavour {
            Flavour::Hardware if request.firmware => firmware::PACKAGES,
            _ => &[],
        };
        let arm64 = request.arm64.then(|| Arm64::new(request.flavour, request.agent_arm64));
        Plan {
            flavour: request.flavour,
            kernel: source(request.kernel_deb, &package, &suite),
            ipxe: source(request.ipxe_deb, "ipxe", "trixie"),
            grub: source(request.grub_deb, "grub-efi-amd64-bin", "bookworm"),
            shim: source(request.shim_deb, "shim-signed", "trixie"),
            signed_grub: source(request.signed_grub_deb, "grub-efi-amd64-signed", "trixie"),
            tools: request.tool_debs.map_or(Tools::Archive { suite: "bookworm".to_owned() }, Tools::Files),
            memtest: source(request.memtest_deb, "memtest86+", "trixie"),
            firmware: firmware.iter().map(|name| (*name, archive(name, firmware::SUITE, "amd64"))).collect(),
            arm64,
            ia32: request.ia32.then(|| Ia32 {
                shim: archive("shim-signed", "bookworm", "i386"),
                signed_grub: archive("grub-efi-ia32-signed", "trixie", "i386"),
            }),
            debug_shell: request.debug_shell,
            agent: request.agent,
            output: request.output,
            cache: request.cache,
        }
    }
}

impl Plan {
    /// Every package that is unpacked, with the name of the folder that it gets.
    pub fn sources(&self) -> Vec<(&'static str, &Source)> {
        let mut all = vec![
            ("kernel", &self.kernel),
            ("ipxe", &self.ipxe),
            ("grub", &self.grub),
            ("shim", &self.shim),
            ("signed-grub", &self.signed_grub),
            ("memtest", &self.memtest),
        ];
        all.extend(self.firmware.iter().map(|(name, source)| (*name, source)));
        if let Some(arm64) = &self.arm64 {
            all.extend([
                ("arm64-kernel", &arm64.kernel),
                ("arm64-grub", &arm64.grub),
                ("arm64-shim", &arm64.shim),
                ("arm64-signed-grub", &arm64.signed_grub),
            ]);
            all.extend(arm64.agent.is_none().then_some(("arm64-busybox", &arm64.busybox)));
        }
        if let Some(ia32) = &self.ia32 {
            all.extend([("ia32-shim", &ia32.shim), ("ia32-signed-grub", &ia32.signed_grub)]);
        }
        all
    }
}

impl Arm64 {
    fn new(flavour: Flavour, agent: Option<PathBuf>) -> Arm64 {
        let (kernel, suite) = match flavour {
            Flavour::Virtual => ("linux-image-cloud-arm64", "bookworm"),
            Flavour::Hardware => ("linux-image-arm64", "trixie"),
        };
        Arm64 {
            kernel: archive(kernel, suite, "arm64"),
            grub: archive("grub-efi-arm64-bin", "bookworm", "arm64"),
            shim: archive("shim-signed", "trixie", "arm64"),
            signed_grub: archive("grub-efi-arm64-signed", "trixie", "arm64"),
            busybox: archive("busybox-static", "bookworm", "arm64"),
            agent,
        }
    }
}

fn source(file: Option<PathBuf>, package: &str, suite: &str) -> Source {
    file.map_or_else(|| archive(package, suite, "amd64"), Source::File)
}

fn archive(package: &str, suite: &str, architecture: &'static str) -> Source {
    Source::Archive { package: package.to_owned(), suite: suite.to_owned(), architecture }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Archive { package, suite, architecture: "amd64" } => write!(f, "{package} of Debian {suite}"),
            Source::Archive { package, suite, architecture } => write!(f, "{package}:{architecture} of Debian {suite}"),
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
        writeln!(f, "  memory test  {}", self.memtest)?;
        if let (Some((first, _)), Some((last, _))) = (self.firmware.first(), self.firmware.last()) {
            let (count, suite) = (self.firmware.len(), firmware::SUITE);
            writeln!(f, "  firmware files  {first} to {last}, {count} packages of Debian {suite}")?;
        }
        writeln!(f, "  agent    {}", self.agent.display())?;
        if let Some(arm64) = &self.arm64 {
            writeln!(f, "  arm64    {}, {} and {}", arm64.kernel, arm64.shim, arm64.signed_grub)?;
            match &arm64.agent {
                Some(agent) => writeln!(f, "  agent    {} for arm64", agent.display())?,
                None => writeln!(f, "  agent    none for arm64: its boot environment starts and can do nothing")?,
            }
        }
        if let Some(ia32) = &self.ia32 {
            writeln!(f, "  UEFI of 32 bits  {} and {}", ia32.shim, ia32.signed_grub)?;
        }
        write!(f, "  output   {}", self.output.display())
    }
}
