//! Other DHCP and PXE servers on the networks that are served: what their answers mean for machines.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use super::listen::Stop;
use crate::config::Used;
use crate::config::written::DhcpMode;
use crate::dhcp::survey::{self, Answer, Asked};

/// Somebody may plug a server in at any time.
const BETWEEN: Duration = Duration::from_mins(10);
/// What the network is given to settle in after the start.
const FIRST: Duration = Duration::from_secs(3);

/// What a survey found wrong, and the way out.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Conflict {
    pub(super) what: String,
    pub(super) way_out: String,
}

/// What the answers of others mean for machines that are to boot from `own`.
pub(super) fn conflicts(mode: DhcpMode, own: Ipv4Addr, answers: &[Answer]) -> Vec<Conflict> {
    let others: Vec<&Answer> = answers.iter().filter(|answer| answer.server != own).collect();
    let gives: BTreeSet<Ipv4Addr> = others.iter().filter(|a| a.address.is_some()).map(|a| a.server).collect();
    let mut found = Vec::new();
    match mode {
        DhcpMode::Server => found.extend(gives.iter().map(|server| second_server(*server))),
        _ if gives.is_empty() => found.push(no_addresses(mode)),
        _ => {}
    }
    let mut files: BTreeMap<Ipv4Addr, BTreeSet<&str>> = BTreeMap::new();
    for answer in others.iter().filter(|answer| answer.asked != Asked::Plain) {
        // An answer that points here is how mode `off` works.
        if let (Some(file), true) = (&answer.file, answer.next_server != Some(own)) {
            files.entry(answer.server).or_default().insert(file);
        }
    }
    found.extend(files.iter().map(|(server, files)| second_boot_server(*server, files)));
    let points_here = others.iter().any(|answer| answer.file.is_some() && answer.next_server == Some(own));
    if mode == DhcpMode::Off && !points_here {
        found.push(Conflict {
            what: format!("no DHCP server sends machines to {own}, and this appliance takes no part in DHCP"),
            way_out: format!(
                "set next server {own} and the boot file there, or `mode = \"proxy\"` under `[dhcp]` in remint.toml"
            ),
        });
    }
    found
}

fn second_server(server: Ipv4Addr) -> Conflict {
    Conflict {
        what: format!("{server} gives addresses too: machines follow whichever answers first"),
        way_out: format!(
            "switch DHCP off on {server}, or set `mode = \"proxy\"` under `[dhcp]` in remint.toml to work beside it"
        ),
    }
}

fn no_addresses(mode: DhcpMode) -> Conflict {
    Conflict {
        what: "no DHCP server gives addresses here: machines get none and do not boot".to_owned(),
        way_out: match mode {
            DhcpMode::Proxy => {
                "is the right interface served? On an isolated network set `mode = \"server\"` under `[dhcp]` in \
                                remint.toml"
                    .to_owned()
            }
            _ => "switch a DHCP server on".to_owned(),
        },
    }
}

fn second_boot_server(server: Ipv4Addr, files: &BTreeSet<&str>) -> Conflict {
    let files: Vec<String> = files.iter().map(|file| format!("`{}`", file.escape_debug())).collect();
    Conflict {
        what: format!(
            "{server} tells machines to boot {} as well: which of the two they follow is left to their firmware",
            files.join(", ")
        ),
        way_out: format!("remove the boot file (options 66 and 67, next server) or the PXE service from {server}"),
    }
}

/// Asks every served network now and then, and says once what will conflict.
pub(super) async fn watch(used: Used, seed: u32, mut stop: Stop) {
    let mut said: HashSet<Conflict> = HashSet::new();
    let mut pause = FIRST;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.changed() => return,
        }
        for interface in &used.served {
            let name = interface.name.clone();
            let asked = tokio::task::spawn_blocking(move || survey::ask(&name, seed, survey::WAIT)).await;
            let answers = match asked {
                Ok(Ok(answers)) => answers,
                Ok(Err(error)) => {
                    // It takes root, which the appliance may have given up.
                    tracing::info!(
                        interface = %interface.name,
                        "other DHCP servers cannot be asked for ({error}); `remint doctor` does it, as root"
                    );
                    return;
                }
                Err(_) => return,
            };
            for conflict in conflicts(used.dhcp.mode, interface.address, &answers) {
                if said.insert(conflict.clone()) {
                    tracing::warn!(interface = %interface.name, hint = %conflict.way_out, "{}", conflict.what);
                }
            }
        }
        pause = BETWEEN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);

    fn answer(server: Ipv4Addr, gives: bool, file: Option<&str>) -> Answer {
        Answer {
            asked: Asked::Bios,
            server,
            address: gives.then_some(Ipv4Addr::new(10, 0, 0, 99)),
            file: file.map(str::to_owned),
            next_server: file.map(|_| server),
        }
    }

    fn check(mode: DhcpMode, answers: &[Answer], words: &[&str]) {
        let found = conflicts(mode, OWN, answers);
        assert_eq!(found.len(), words.len(), "{found:?}");
        for (conflict, word) in found.iter().zip(words) {
            assert!(conflict.what.contains(word), "{word:?} is not in {conflict:?}");
        }
    }

    #[test]
    fn what_others_answer_is_judged_by_the_part_that_we_play() {
        let (ours, theirs) = (answer(OWN, false, Some("snponly.efi")), answer(OTHER, true, None));
        check(DhcpMode::Proxy, &[ours.clone(), theirs.clone()], &[]);
        check(DhcpMode::Proxy, std::slice::from_ref(&ours), &["no DHCP server gives addresses"]);
        let pxe = answer(OTHER, true, Some("pxelinux.0"));
        check(DhcpMode::Proxy, &[ours.clone(), pxe.clone()], &["`pxelinux.0` as well"]);
        check(DhcpMode::Server, &[answer(OWN, true, None)], &[]);
        check(DhcpMode::Server, std::slice::from_ref(&theirs), &["10.0.0.7 gives addresses too"]);
        check(DhcpMode::Server, std::slice::from_ref(&pxe), &["gives addresses too", "as well"]);
        check(DhcpMode::Off, &[theirs], &["no DHCP server sends machines to 10.0.0.1"]);
        check(DhcpMode::Off, &[Answer { next_server: Some(OWN), ..pxe }], &[]);
    }
}
