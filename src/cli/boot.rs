//! `remint boot ...`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::context::Context;
use super::{Failure, output};
use crate::bootenv::build;
use crate::bootenv::manifest::Manifest;
use crate::bootenv::modules::Flavour;
use crate::bootenv::plan::{Plan, Request};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Build the boot environment from Debian packages and serve it from now on
    Build(Box<Build>),
    /// Show the boot environment that is served
    Show,
}

#[derive(Args)]
pub(super) struct Build {
    /// For which machines: `hardware` has the drivers of real machines, `virtual` is smaller and starts faster
    #[arg(long, value_enum, default_value = "hardware")]
    flavour: FlavourArgument,
    /// The static agent that becomes /init [default: `remint-agent` beside this program]
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Kernel package by name [default: linux-image-amd64, for virtual machines linux-image-cloud-amd64]
    #[arg(long, value_name = "PACKAGE")]
    kernel: Option<String>,
    /// Debian suite of the kernel package [default: trixie, for virtual machines bookworm]
    #[arg(long)]
    suite: Option<String>,
    /// Kernel package file instead of a download
    #[arg(long, value_name = "FILE")]
    kernel_deb: Option<PathBuf>,
    /// `ipxe` package file instead of a download
    #[arg(long, value_name = "FILE")]
    ipxe_deb: Option<PathBuf>,
    /// `grub-efi-amd64-bin` package file instead of a download
    #[arg(long, value_name = "FILE")]
    grub_deb: Option<PathBuf>,
    /// `shim-signed` package file instead of a download
    #[arg(long, value_name = "FILE")]
    shim_deb: Option<PathBuf>,
    /// `grub-efi-amd64-signed` package file instead of a download
    #[arg(long, value_name = "FILE")]
    signed_grub_deb: Option<PathBuf>,
    /// Package file with programs that steps run, or with one of their libraries, instead of downloads; repeated
    #[arg(long = "tool-deb", value_name = "FILE")]
    tool_debs: Vec<PathBuf>,
    /// `memtest86+` package file instead of a download
    #[arg(long, value_name = "FILE")]
    memtest_deb: Option<PathBuf>,
    /// Leave out the firmware files that drivers of real machines load (flavour `hardware`)
    #[arg(long)]
    no_firmware: bool,
    /// Boot files for arm64 machines too
    #[arg(long)]
    arm64: bool,
    /// The static agent for arm64; without it their boot environment starts and says that it is missing
    #[arg(long, value_name = "FILE", requires = "arm64")]
    agent_arm64: Option<PathBuf>,
    /// Boot programs for UEFI firmware of 32 bits too (the processor must know 64)
    #[arg(long)]
    ia32: bool,
    /// Bring a shell along: runs in debug mode offer it on the machine's own console
    #[arg(long)]
    debug_shell: bool,
    /// Keeps downloads from one build to the next [default: ~/.cache/remint]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Print what would be done and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum FlavourArgument {
    Virtual,
    Hardware,
}

pub(super) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Build(arguments) => build(*arguments, context),
        Command::Show => show(context),
    }
}

fn build(arguments: Build, context: &Context) -> Result<(), Failure> {
    let site = context.site()?;
    let dry_run = arguments.dry_run;
    let plan = Plan::new(Request {
        flavour: match arguments.flavour {
            FlavourArgument::Virtual => Flavour::Virtual,
            FlavourArgument::Hardware => Flavour::Hardware,
        },
        agent: arguments.agent.map_or_else(agent_beside_us, Ok)?,
        output: site.boot_folder(),
        cache: arguments.cache.unwrap_or_else(cache_folder),
        suite: arguments.suite,
        kernel: arguments.kernel,
        kernel_deb: arguments.kernel_deb,
        ipxe_deb: arguments.ipxe_deb,
        grub_deb: arguments.grub_deb,
        shim_deb: arguments.shim_deb,
        signed_grub_deb: arguments.signed_grub_deb,
        debug_shell: arguments.debug_shell,
        tool_debs: (!arguments.tool_debs.is_empty()).then_some(arguments.tool_debs),
        memtest_deb: arguments.memtest_deb,
        firmware: !arguments.no_firmware,
        arm64: arguments.arm64,
        agent_arm64: arguments.agent_arm64,
        ia32: arguments.ia32,
    });
    if dry_run {
        output::line(plan.to_string());
        return Ok(());
    }
    let quiet = context.json();
    let (manifest, _) = build::build(&plan, site.clock.now(), &mut |stage| {
        if !quiet {
            output::line(stage);
        }
    })?;
    report(&manifest, context)
}

fn show(context: &Context) -> Result<(), Failure> {
    let nothing = || Failure::new("no boot environment was built for this site").with_hint("remint boot build");
    let manifest = build::current(&context.site()?.boot_folder()).ok_or_else(nothing)?;
    report(&manifest, context)
}

fn report(manifest: &Manifest, context: &Context) -> Result<(), Failure> {
    if context.json() {
        return output::json(manifest);
    }
    output::line(format!("Boot environment {}, Linux {}", manifest.build, manifest.kernel_release));
    for package in &manifest.packages {
        output::line(format!("  from {} {}", package.name, package.version));
    }
    let rows = manifest.files.iter().map(|file| vec![file.name.clone(), output::size(file.bytes), file.sha256.clone()]);
    output::table(&["FILE", "SIZE", "SHA-256"], rows.collect(), "");
    Ok(())
}

fn agent_beside_us() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(|error| Failure::new(format!("find this program: {error}")))?;
    Ok(own.with_file_name("remint-agent"))
}

fn cache_folder() -> PathBuf {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
    cache.unwrap_or_else(std::env::temp_dir).join("remint")
}
