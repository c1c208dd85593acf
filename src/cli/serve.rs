//! `remint serve`

use std::path::PathBuf;

use clap::Args;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::MakeWriterExt;

use super::context::Context;
use super::{Failure, output};
use crate::server::site::Site;
use crate::server::{appliance, support};

#[derive(Args)]
pub(super) struct Arguments {
    /// Configuration file [default: remint.toml in the site's folder, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Interface to serve, instead of the one in the configuration
    #[arg(long)]
    interface: Option<String>,
    /// Log as JSON
    #[arg(long)]
    log_json: bool,
}

pub(super) fn run(arguments: Arguments, context: &Context) -> Result<(), Failure> {
    let logs = tracing_subscriber::fmt()
        .with_writer(std::io::stderr.and(support::recent))
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")));
    if arguments.log_json {
        logs.json().init()
    } else {
        logs.with_target(false).init()
    }
    let mut site = Site::open(context.data(), arguments.config.as_deref())?;
    if arguments.interface.is_some() {
        site.written.network.interface = arguments.interface;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("start the threads of the appliance: {error}")))?;
    Ok(runtime.block_on(appliance::run(site, |text| output::line(text)))?)
}
