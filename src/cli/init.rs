//! `remint init`

use clap::Args;

use super::context::Context;
use super::{Failure, output};
use crate::access::Principal;
use crate::access::Role;
use crate::access::db::invite;
use crate::link::client::authority_fingerprint;
use crate::server::site::Site;

/// Long enough to read the documentation first.
const INVITATION_SECONDS: i64 = 7 * 86_400;

#[derive(Args)]
pub(super) struct Arguments {
    /// Name of the site, shown in its authority's certificate
    #[arg(long, default_value = "remint")]
    name: String,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let site = Site::create(context.data(), &arguments.name)?;
    let invitation = invite(&site.db, &Principal::local(), Role::Administrator, INVITATION_SECONDS, site.clock.now())?;
    let fingerprint = authority_fingerprint(site.authority.certificate_pem())?;
    if context.json() {
        return output::json(&serde_json::json!({
            "folder": site.folder, "authority": fingerprint, "invitation": invitation.reveal(),
        }));
    }
    output::line(format!("Made the site `{}` in {}", arguments.name, site.folder.display()));
    output::line(format!("  authority  SHA-256 {fingerprint}"));
    output::line("");
    output::line("Next:");
    output::line("  remint boot build     the boot environment that machines start");
    output::line("  remint serve          the appliance; it prints the address of the console");
    output::line("");
    output::line("The first administrator opens this page of the console (once, within a week):");
    output::line(format!("  https://ADDRESS/welcome#{}", invitation.reveal()));
    Ok(())
}
