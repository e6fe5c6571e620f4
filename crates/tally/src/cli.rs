//! Every command and flag. What a command does is in its own file in [`crate::commands`].

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::bench::BenchArgs;
use crate::commands::{
    backup, config, dead_letters, keys, log, metrics, rebuild, resources, restore, serve, snapshot,
    state, topics, verify,
};

const EXAMPLES: &str = "\
Examples:
  tally                                   start the server on the local default
  tally serve --config tally.toml         start it with settings of your own
  tally keys create --user 42             make an API key
  tally resources add ai_note 15 16       make resources known
  tally log cat | head                    look at what was recorded
  tally state cat                         look at what came of it

Commands work on the data folder, ./data by default: through the running server where there is
one, else directly. Settings: `tally config show`.";

/// Records what people do with content and answers with the updated state
#[derive(Debug, Parser)]
#[command(name = "tally", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Settings that differ from the local default (TOML); the environment
    /// (TALLY__SECTION__KEY) wins over it
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
    /// The data folder; the setting data_dir [default: ./data]
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) data_dir: Option<PathBuf>,
}

/// What to do; without one, `serve`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the server (also without any command)
    Serve(serve::ServeArgs),
    /// API keys: create, list, revoke
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Which resources exist: add, retire, import, list
    #[command(subcommand)]
    Resources(resources::ResourcesCommand),
    /// The event log: cat, info, check, copy
    #[command(subcommand)]
    Log(log::LogCommand),
    /// The state folded from the log: cat, info
    #[command(subcommand)]
    State(state::StateCommand),
    /// Fold the state anew from the log, and put it in its place
    Rebuild(rebuild::RebuildArgs),
    /// Snapshots of the state: create, list, check, restore
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Compare the state with a fold of the log
    Verify(verify::VerifyArgs),
    /// Copy a whole installation into a folder, while it serves, and prove the copy
    Backup(backup::BackupArgs),
    /// Put a backup into a new data folder, and prove it
    Restore(restore::RestoreArgs),
    /// The topics on a Kafka cluster: create, check, describe
    #[command(subcommand)]
    Topics(topics::TopicsCommand),
    /// Records that could not be folded: list, show, replay, drop
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLettersCommand),
    /// The settings in force: show, check
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Every metric that a server has, and what it means
    Metrics(metrics::MetricsArgs),
    /// Load on a server: a mix of interactions, and figures of what came back
    Bench(Box<BenchArgs>),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Protects the command line's own consistency, and that every command's help has an example.
    #[test]
    fn every_command_has_an_example() {
        fn check(command: &clap::Command, path: &str) {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(help.contains("Example"), "{path} --help has no example");
            for sub in command
                .get_subcommands()
                .filter(|sub| sub.get_name() != "help")
            {
                check(sub, &format!("{path} {}", sub.get_name()));
            }
        }

        let command = Cli::command();
        command.clone().debug_assert();
        check(&command, "tally");
    }

    /// Protects the shortest way to start.
    #[test]
    fn no_command_is_a_command() {
        let cli = Cli::parse_from(["tally", "--data-dir", "x"]);
        assert!(cli.command.is_none());
        assert_eq!(cli.global.data_dir, Some(PathBuf::from("x")));
        let cli = Cli::parse_from(["tally", "log", "cat", "--data-dir", "x", "--config", "y"]);
        assert_eq!(cli.global.config, Some(PathBuf::from("y")));
    }
}
