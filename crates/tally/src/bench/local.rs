//! What a run on the local folder needs: API keys for its users, and its resources registered.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tally_domain::{Resource, UserId};
use tally_ingress::management::admin::{MAX_RESOURCES, ResourceAction, ResourceChange};
use ureq::Agent;

use super::target::{User, local_user_names};
use super::{BenchError, LocalServer};
use crate::client::Client;
use crate::data_dir::ServerFile;
use crate::failure::Failure;
