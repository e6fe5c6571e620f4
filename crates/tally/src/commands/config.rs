//! `tally config`: the settings in force, and where each comes from.

use clap::Subcommand;
use serde_json::Value;

use crate::config::{Config, Sources};
use crate::failure::Failure;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  tally config show
  tally config check --config config/production.toml";

/// What to do with the settings.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum ConfigCommand {
    /// Print every setting with its value and where it comes from
    #[command(after_help = "Example:\n  tally config show --config config/production.toml")]
    Show,
    /// Say whether the settings can be used; exit code 2 where they can't
    #[command(after_help = "Example:\n  tally config check --config config/production.toml")]
    Check,
}

/// Shows or checks; the settings were refused before this where they can't be used.
pub(crate) fn run(
    command: &ConfigCommand,
    config: &Config,
    sources: &Sources,
) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check => output::line("The settings can be used."),
        ConfigCommand::Show => {
            let shown = serde_json::to_value(config).map_err(Failure::of)?;
            let mut lines = Vec::new();
            flat("", &shown, sources, &mut lines);
            output::line(&lines.join("\n"))
        }
    }
}

/// `section.key = value  # where it comes from`, sorted. Values read back as TOML.
fn flat(path: &str, value: &Value, sources: &Sources, lines: &mut Vec<String>) {
    match value {
        Value::Object(section) if !path.starts_with("kafka.propert") => {
            for (name, value) in section {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                flat(&path, value, sources, lines);
            }
        }
        Value::Object(properties) => {
            // Secrets show as stars by themselves.
            let set = properties.iter().map(|(name, value)| {
                let source = sources.of(&format!("{path}.{name}"));
                format!("{path}.\"{name}\" = {value}  # {source}")
            });
            lines.extend(set);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            lines.push(format!("{path} = {value}  # {}", sources.of(path)));
        }
    }
}
