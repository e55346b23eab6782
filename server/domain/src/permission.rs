//! Roles of accounts, and what each may do. Every route names one [`Permission`].

use serde::{Deserialize, Serialize};

/// What an account is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// May do everything.
    Administrator,
    /// Runs, edits and restores; does not manage devices' credentials, locations or accounts.
    Operator,
    /// Looks.
    Viewer,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::Administrator, Self::Operator, Self::Viewer];

    /// Stable word for storage.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Administrator => "administrator",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
        }
    }

    /// The role of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }

    /// Whether the role has the permission.
    pub const fn allows(self, permission: Permission) -> bool {
        match permission {
            Permission::Public | Permission::Token | Permission::View => true,
            Permission::RunTasks | Permission::EditTasks | Permission::Restore => {
                matches!(self, Self::Administrator | Self::Operator)
            }
            Permission::ManageDevices | Permission::ManageLocations | Permission::ManageServer => {
                matches!(self, Self::Administrator)
            }
        }
    }
}

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// No account: sign-in, set-up, health, static files, figures by a token of their own.
    Public,
    /// No account, and no browser: a program that shows a token, which the page itself checks.
    Token,
    /// See everything but secrets.
    View,
    /// Start, pause, cancel and retry.
    RunTasks,
    /// Create, change and delete tasks.
    EditTasks,
    /// Write machines to hosts.
    Restore,
    /// Add, change and remove devices and their credentials.
    ManageDevices,
    /// Add and remove repositories.
    ManageLocations,
    /// Settings and accounts.
    ManageServer,
}

impl Permission {
    /// All permissions.
    pub const ALL: [Self; 9] = [
        Self::Public,
        Self::Token,
        Self::View,
        Self::RunTasks,
        Self::EditTasks,
        Self::Restore,
        Self::ManageDevices,
        Self::ManageLocations,
        Self::ManageServer,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_do_what_its_description_says() {
        for permission in Permission::ALL {
            assert!(Role::Administrator.allows(permission));
        }
        assert!(Role::Operator.allows(Permission::Restore));
        assert!(!Role::Operator.allows(Permission::ManageDevices));
        assert!(Role::Viewer.allows(Permission::View));
        assert!(!Role::Viewer.allows(Permission::RunTasks));
    }
}
