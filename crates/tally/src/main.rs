//! The `tally` command.
//!
//! - [`cli`]: every command and flag
//! - [`commands`]: what each command does
//! - [`config`]: what an operator sets
//! - [`serve`]: how a server is put together, and how it stops
//! - [`data_dir`]: who holds the data folder
//! - [`client`]: a running server's management API
//! - [`copy`]: one log into another, and the proof of it
//! - [`objects`]: where snapshots are kept
//! - [`backup`]: a whole installation into a folder and back, and the proof of it
//! - [`mod@bench`]: load on a server, measured
//! - [`metrics`]: every metric that a server has, described
//! - [`failure`], [`output`], [`progress`], [`logging`]: exit codes, standard output, how far, log lines

mod backup;
mod bench;
mod cli;
mod client;
mod commands;
mod config;
mod copy;
mod data_dir;
mod failure;
mod logging;
mod metrics;
mod objects;
mod output;
mod progress;
mod serve;
#[cfg(test)]
mod test_events;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match commands::run(cli::Cli::parse()) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}
