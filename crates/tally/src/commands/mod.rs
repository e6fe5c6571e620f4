//! One file per command. Each takes its arguments and the settings, and says what came of it on
//! standard output.
//!
//! Commands on logs and state go through the server that holds the data folder, or open it
//! themselves ([`folder`]); what they print is the same.

pub(crate) mod backup;
pub(crate) mod bench;
pub(crate) mod config;
mod copy;
pub(crate) mod dead_letters;
pub(crate) mod folder;
pub(crate) mod keys;
pub(crate) mod log;
pub(crate) mod metrics;
pub(crate) mod rebuild;
mod repair;
pub(crate) mod resources;
pub(crate) mod restore;
pub(crate) mod serve;
mod settle;
pub(crate) mod snapshot;
mod source;
pub(crate) mod state;
pub(crate) mod topics;
mod truncate;
pub(crate) mod verify;

use std::process::ExitCode;

use crate::cli::{Cli, Command};
use crate::config::Config;
use crate::failure::Failure;
use crate::logging;

/// Does what the command line says.
pub(crate) fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let command = cli.command.unwrap_or(Command::Serve(serve::ServeArgs {}));
    let (config, sources) =
        Config::load(cli.global.config.as_deref(), cli.global.data_dir.as_deref())?;
    if !matches!(command, Command::Serve(_)) {
        logging::start_quiet();
    }
    match command {
        Command::Serve(args) => return serve::run(&args, &config),
        Command::Bench(args) => return bench::run(&args, &config),
        Command::Snapshot(command) => return snapshot::run(&command, &config),
        Command::Rebuild(args) => return rebuild::run(&args, &config),
        Command::Verify(args) => return verify::run(&args, &config),
        Command::Backup(args) => backup::run(&args, &config)?,
        Command::Restore(args) => restore::run(&args, &config)?,
        Command::Keys(command) => keys::run(&command, &config)?,
        Command::Resources(command) => resources::run(&command, &config)?,
        Command::Log(command) => log::run(&command, &config)?,
        Command::State(command) => state::run(&command, &config)?,
        Command::Topics(command) => topics::run(&command, &config)?,
        Command::DeadLetters(command) => dead_letters::run(&command, &config)?,
        Command::Metrics(args) => metrics::run(&args, &config)?,
        Command::Config(command) => config::run(&command, &config, &sources)?,
    }
    Ok(ExitCode::SUCCESS)
}
