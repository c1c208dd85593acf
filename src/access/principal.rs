//! Callers and what they may do.

use serde::{Deserialize, Serialize};

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    Anonymous,
    /// A machine with a valid certificate of this site; the identifier is the certificate's subject.
    Machine {
        machine: String,
    },
    /// A person with a session or a token that acts for one.
    Person {
        name: String,
        role: Role,
        limits: Limits,
    },
}

/// What a role is cut down to; nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Acting (not reading) ends at the machines of these collections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collections: Option<Vec<String>>,
    /// Only these of the role's capabilities: what a token for one purpose needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<Capability>>,
}

impl Principal {
    /// Who works on the site's own files.
    pub fn local() -> Principal {
        Principal::Person { name: "local".into(), role: Role::Administrator, limits: Limits::default() }
    }

    pub fn may(&self, capability: Capability) -> bool {
        let Principal::Person { role, limits, .. } = self else { return false };
        role.has(capability) && limits.capabilities.as_ref().is_none_or(|listed| listed.contains(&capability))
    }

    /// The collections at which the caller's acting ends; `None` when it reaches every machine.
    pub fn collections(&self) -> Option<&[String]> {
        let Principal::Person { limits, .. } = self else { return None };
        limits.collections.as_deref().filter(|names| !names.iter().any(|name| name == "all"))
    }

    /// How the caller stands in the audit log.
    pub fn label(&self) -> String {
        match self {
            Principal::Anonymous => "anonymous".into(),
            Principal::Machine { machine } => format!("machine:{machine}"),
            Principal::Person { name, .. } => format!("person:{name}"),
        }
    }
}

/// What a person may be. Ordered from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Sees everything but secrets and the audit log.
    ReadOnly,
    /// Sees everything, the audit log included, and changes nothing.
    Auditor,
    /// Approves machines and starts what was prepared for them.
    Technician,
    /// Also prepares: images, sequences, packages, deployments.
    Deployer,
    /// Also people, tokens and settings.
    Administrator,
}

/// What a route asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    Read,
    Audit,
    ApproveMachine,
    EditMachine,
    Deploy,
    EditImage,
    EditSequence,
    EditSoftware,
    EditCollection,
    Administer,
}

impl Capability {
    /// Whether it changes nothing.
    pub fn is_reading(self) -> bool {
        matches!(self, Capability::Read | Capability::Audit)
    }
}

impl Role {
    pub const ALL: [Role; 5] = [Role::ReadOnly, Role::Auditor, Role::Technician, Role::Deployer, Role::Administrator];

    pub fn has(self, capability: Capability) -> bool {
        use Capability::*;
        match capability {
            Read => true,
            Audit => matches!(self, Role::Auditor | Role::Administrator),
            ApproveMachine | EditMachine | Deploy => {
                matches!(self, Role::Technician | Role::Deployer | Role::Administrator)
            }
            EditImage | EditSequence | EditSoftware | EditCollection => {
                matches!(self, Role::Deployer | Role::Administrator)
            }
            Administer => self == Role::Administrator,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Role::ReadOnly => "read-only",
            Role::Auditor => "auditor",
            Role::Technician => "technician",
            Role::Deployer => "deployer",
            Role::Administrator => "administrator",
        }
    }

    pub fn parse(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }
}
