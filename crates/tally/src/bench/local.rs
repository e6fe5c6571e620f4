//! What a run on the local folder needs: API keys for its users, and its resources registered.

use std::time::{Duration, Instant};

use tally_domain::{Resource, UserId};
use tally_ingress::auth::{KeyId, KeysFile};
use tally_ingress::management::admin::{MAX_RESOURCES, ResourceAction, ResourceChange};
use ureq::Agent;
use ureq::http::StatusCode;

use super::target::{User, local_user_names};
use super::{BenchError, LocalServer};
use crate::client::Client;

/// How long a running server may take to pick new keys up; it looks about once a second.
const PATIENCE: Duration = Duration::from_secs(15);

/// Keys made for a run.
pub(super) struct Prepared {
    users: Vec<User>,
    ids: Vec<KeyId>,
    file: KeysFile,
}

impl Prepared {
    /// Makes the keys and registers the resources; returns once the server has both.
    pub(super) fn make(
        server: &LocalServer,
        users: u32,
        resources: &[Resource],
    ) -> Result<Self, BenchError> {
        register(server, resources)?;
        let names = local_user_names(users);
        let ids = names.iter().map(|name| UserId::new(name.as_str()));
        let ids: Vec<UserId> = ids.collect::<Result<_, _>>().map_err(keys_failed)?;
        let file = KeysFile::new(&server.keys_file);
        let created = file.create_all(&ids).map_err(keys_failed)?;
        let prepared = Self {
            ids: created.iter().map(|key| key.info.id).collect(),
            users: created
                .iter()
                .zip(names)
                .map(|(key, name)| User {
                    name: Some(name),
                    credential: key.key.expose().to_owned(),
                })
                .collect(),
            file,
        };
        if let Err(error) = prepared.wait_until_known(server) {
            // The first error says more than one of cleaning up after it.
            let _ = prepared.revoke();
            return Err(error);
        }
        Ok(prepared)
    }

    /// The users with their keys.
    pub(super) fn users(&self) -> Vec<User> {
        self.users.clone()
    }

    /// Revokes the keys.
    pub(super) fn revoke(self) -> Result<(), BenchError> {
        let revoked = self.file.revoke_all(&self.ids);
        revoked.map(|_| ()).map_err(keys_failed)
    }

    /// All keys are written at once, so the last one stands for all.
    fn wait_until_known(&self, server: &LocalServer) -> Result<(), BenchError> {
        let Some(last) = self.users.last() else {
            return Ok(());
        };
        let agent = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .build()
            .new_agent();
        let url = format!("http://{}/api/v1/metrics/resources/quest/0/", server.api);
        let until = Instant::now() + PATIENCE;
        loop {
            let credential = format!("Bearer {}", last.credential);
            let answer = agent.get(&url).header("Authorization", credential).call();
            if answer.map_err(keys_failed)?.status() != StatusCode::UNAUTHORIZED {
                return Ok(());
            }
            if Instant::now() >= until {
                let path = server.keys_file.display();
                let why = format!(
                    "the server (pid {}) does not take up the keys in {path}; is that its auth.keys_file?",
                    server.pid
                );
                return Err(BenchError::Keys(why.into()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn register(server: &LocalServer, resources: &[Resource]) -> Result<(), BenchError> {
    let client = Client::at(server.management, server.pid);
    for batch in resources.chunks(MAX_RESOURCES) {
        let change = ResourceChange {
            action: ResourceAction::Add,
            resources: batch.iter().copied().map(Into::into).collect(),
        };
        let changed = client.change(&change);
        changed.map_err(|failure| BenchError::Resources(failure.into_error()))?;
    }
    Ok(())
}

fn keys_failed(error: impl std::error::Error + Send + Sync + 'static) -> BenchError {
    BenchError::Keys(error.into())
}
