//! `tally bench`. The load itself is in [`crate::bench`].

use std::error::Error;
use std::process::ExitCode;

use super::folder;
use crate::bench::{self, BenchArgs, LocalServer};
use crate::config::Config;
use crate::data_dir::Access;
use crate::failure::Failure;

/// Makes the load and prints its figures.
pub(crate) fn run(args: &BenchArgs, config: &Config) -> Result<ExitCode, Failure> {
    bench::run(args, || local(config)).map_err(Failure::of)
}

/// The server that holds the data folder.
fn local(config: &Config) -> Result<LocalServer, Box<dyn Error + Send + Sync>> {
    match folder::existing(config)? {
        Access::Server(server) => Ok(LocalServer {
            api: server.api,
            management: server.management,
            pid: server.pid,
            keys_file: config.keys_file(),
        }),
        Access::Held(held) => {
            let path = held.path().display().to_string();
            Err(format!("no server runs on {path}: start one with `tally serve`").into())
        }
    }
}
