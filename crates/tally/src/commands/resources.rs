//! `tally resources`: which resources exist. Each command returns once the server has the change.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use csv::StringRecord;
use indicatif::{ProgressBar, ProgressStyle};
use tally_domain::{Resource, ResourceId, ResourceType};
use tally_ingress::inspect;
use tally_ingress::management::admin::{
    MAX_RESOURCES, ResourceAction, ResourceChange, ResourcesChanged,
};

use super::folder::Folder;
use crate::config::Config;
use crate::failure::Failure;
use crate::output;

/// The longest line of an import, in bytes.
const MAX_LINE: u64 = 64 << 10;

/// What to do with the catalogue.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  tally resources add ai_note 15 16\n  tally resources list")]
pub(crate) enum ResourcesCommand {
    /// Make resources of one type known
    #[command(after_help = "Example:\n  tally resources add ai_note 15 16 17")]
    Add(Named),
    /// Make resources of one type unknown again; their events and counters stay
    #[command(after_help = "Example:\n  tally resources retire ai_note 16")]
    Retire(Named),
    /// Make all resources of a file known, or none of them where it has a mistake
    #[command(after_help = IMPORT_EXAMPLES)]
    Import {
        /// NDJSON or CSV; - is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print all known resources, one line of JSON each
    #[command(after_help = "Example:\n  tally resources list | wc -l")]
    List,
}

const IMPORT_EXAMPLES: &str = "\
Examples:
  tally resources import resources.ndjson
  psql -Atc \"select 'quest,' || id from quests\" | tally resources import -

NDJSON has lines such as {\"resource_type\":\"quest\",\"resource_id\":42}. CSV has a type and an
id; with a first line that names resource_type and resource_id, other columns are ignored.";

/// Resources by type and ids.
#[derive(Debug, clap::Args)]
pub(crate) struct Named {
    /// quest, ai_note, ai_expert, podcast, collection, publication, ai_video or profile
    #[arg(value_name = "TYPE", value_parser = parse_type)]
    resource_type: ResourceType,
    /// Integers from 0 to 9223372036854775807
    #[arg(value_name = "ID", required = true, allow_negative_numbers = true, value_parser = parse_id)]
    resource_id: Vec<ResourceId>,
}

fn parse_type(text: &str) -> Result<ResourceType, String> {
    text.parse()
        .map_err(|error: tally_domain::WordError| error.to_string())
}

fn parse_id(text: &str) -> Result<ResourceId, String> {
    let id = text.parse::<u64>().ok();
    id.and_then(|id| ResourceId::try_from(id).ok())
        .ok_or_else(|| "a resource id is an integer from 0 to 9223372036854775807".to_owned())
}

/// Changes or lists the catalogue.
pub(crate) fn run(command: &ResourcesCommand, config: &Config) -> Result<(), Failure> {
    match command {
        ResourcesCommand::Add(named) => {
            let changed = change(config, ResourceAction::Add, &named.resources())?;
            say("added", "already there", changed)
        }
        ResourcesCommand::Retire(named) => {
            let changed = change(config, ResourceAction::Retire, &named.resources())?;
            say("retired", "not there", changed)
        }
        ResourcesCommand::Import { file } => {
            let resources = read_file(file)?;
            let changed = change(config, ResourceAction::Add, &resources)?;
            say("added", "already there", changed)
        }
        ResourcesCommand::List => {
            let mut out = output::stdout();
            match Folder::existing(config)? {
                Folder::Server(client) => client.lines("/admin/resources", &mut out),
                Folder::Opened(opened) => {
                    let resources = opened.catalogue()?.list();
                    output::inspected(inspect::resources(resources, &mut out))
                }
            }
        }
    }
}

impl Named {
    fn resources(&self) -> Vec<Resource> {
        let resource = |id: &ResourceId| Resource {
            kind: self.resource_type,
            id: *id,
        };
        self.resource_id.iter().map(resource).collect()
    }
}

fn say(done: &str, was: &str, changed: ResourcesChanged) -> Result<(), Failure> {
    let ResourcesChanged { changed, unchanged } = changed;
    output::line(&format!("{changed} {done}, {unchanged} {was}"))
}

/// Makes the change in batches, with a progress bar on a terminal where there are several.
fn change(
    config: &Config,
    action: ResourceAction,
    resources: &[Resource],
) -> Result<ResourcesChanged, Failure> {
    let folder = Folder::made(config)?;
    let bar = if resources.len() > MAX_RESOURCES && io::stderr().is_terminal() {
        let style = ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} ({eta})");
        ProgressBar::new(u64::try_from(resources.len()).unwrap_or(u64::MAX))
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    } else {
        ProgressBar::hidden()
    };
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut all = ResourcesChanged::default();
    let opened = match &folder {
        Folder::Server(_) => None,
        Folder::Opened(opened) => Some(opened.catalogue()?),
    };
    for batch in resources.chunks(MAX_RESOURCES) {
        let changed = match (&folder, &opened) {
            (Folder::Server(client), _) => {
                let resources = batch.iter().copied().map(Into::into).collect();
                client.change(&ResourceChange { action, resources })
            }
            (Folder::Opened(_), Some(catalogue)) => {
                tally_ingress::management::admin::apply(catalogue, action, batch).map_err(|error| {
                    Failure::run(format!("the catalogue can't be changed: {error}"))
                })
            }
            (Folder::Opened(_), None) => Ok(ResourcesChanged::default()),
        };
        let changed = changed.inspect_err(|_| {
            bar.abandon();
        })?;
        all.changed += changed.changed;
        all.unchanged += changed.unchanged;
        bar.inc(u64::try_from(batch.len()).unwrap_or(0));
    }
    bar.finish_and_clear();
    Ok(all)
}

fn read_file(file: &Path) -> Result<Vec<Resource>, Failure> {
    let name = file.display();
    let read: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let opened = File::open(file)
            .map_err(|error| Failure::run(format!("{name} can't be read: {error}")))?;
        Box::new(BufReader::new(opened))
    };
    read_resources(read).map_err(|why| Failure::run(format!("{name}, {why}; nothing was imported")))
}

/// Which columns of a CSV line are type and id, and how many there are where the first line says.
#[derive(Debug, Clone, Copy)]
struct Columns {
    kind: usize,
    id: usize,
    count: Option<usize>,
}

/// All resources of NDJSON or CSV, told apart by the first line; an error names the line.
fn read_resources(mut read: impl BufRead) -> Result<Vec<Resource>, String> {
    let mut resources = Vec::new();
    let mut columns = Columns {
        kind: 0,
        id: 1,
        count: None,
    };
    let mut first = true;
    let mut json = false;
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let more = io::Read::take(&mut read, MAX_LINE).read_until(b'\n', &mut line);
        if more.map_err(|error| format!("line {number}: {error}"))? == 0 {
            break;
        }
        if u64::try_from(line.len()).unwrap_or(MAX_LINE) >= MAX_LINE {
            return Err(format!("line {number} is longer than {MAX_LINE} bytes"));
        }
        let text = std::str::from_utf8(&line).map_err(|error| format!("line {number}: {error}"))?;
        // Spreadsheets begin a file with a byte order mark.
        let text = if number == 1 {
            text.trim_start_matches('\u{feff}')
        } else {
            text
        }
        .trim();
        if text.is_empty() {
            continue;
        }
        if std::mem::take(&mut first) {
            json = text.starts_with('{');
            if let Some(named) = header(text).filter(|_| !json) {
                columns = named;
                continue;
            }
        }
        let resource = if json {
            json_line(text)
        } else {
            csv_line(text, columns)
        };
        resources.push(resource.map_err(|why| format!("line {number}: {why}"))?);
    }
    Ok(resources)
}

fn json_line(text: &str) -> Result<Resource, String> {
    #[derive(serde::Deserialize)]
    struct Line {
        resource_type: String,
        resource_id: serde_json::Number,
    }
    let line: Line = serde_json::from_str(text).map_err(|error| error.to_string())?;
    resource(&line.resource_type, &line.resource_id.to_string())
}

fn header(text: &str) -> Option<Columns> {
    let fields = fields(text).ok()?;
    let place = |wanted: &str| {
        fields
            .iter()
            .position(|field| field.eq_ignore_ascii_case(wanted))
    };
    Some(Columns {
        kind: place("resource_type")?,
        id: place("resource_id")?,
        count: Some(fields.len()),
    })
}

fn csv_line(text: &str, columns: Columns) -> Result<Resource, String> {
    let fields = fields(text)?;
    let count = fields.len();
    // Columns that moved would name another resource: a quote that spans lines, or is missing.
    if let Some(wanted) = columns.count.filter(|wanted| *wanted != count) {
        return Err(format!(
            "it has {count} fields and the first line has {wanted}"
        ));
    }
    let field = |place, name| {
        let field = fields.get(place);
        field.ok_or_else(|| {
            format!("there is no {name}; a line is a type and an id, as in quest,42")
        })
    };
    resource(field(columns.kind, "type")?, field(columns.id, "id")?)
}

/// The fields of a line. A record is a line here, so that one mistake can't swallow the rest.
fn fields(line: &str) -> Result<StringRecord, String> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .buffer_capacity(line.len().max(1))
        .from_reader(line.as_bytes());
    let mut fields = StringRecord::new();
    let read = reader.read_record(&mut fields);
    read.map(|_| fields).map_err(|error| error.to_string())
}

fn resource(kind: &str, id: &str) -> Result<Resource, String> {
    let id = parse_id(id).map_err(|why| format!("{id:?}: {why}"))?;
    Ok(Resource {
        kind: parse_type(kind)?,
        id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, String> {
        let resources = read_resources(text.as_bytes())?;
        Ok(resources.iter().map(ToString::to_string).collect())
    }

    /// Protects the ways of writing the same file.
    #[test]
    fn ndjson_and_csv_are_told_apart_by_their_first_line() {
        let wanted = Ok(vec![
            "quest:42".to_owned(),
            "profile:9007199254740993".to_owned(),
        ]);
        for text in [
            "{\"resource_type\":\"quest\",\"resource_id\":42}\n\n{\"resource_id\":9007199254740993,\"resource_type\":\"profile\",\"title\":\"x\"}",
            "quest,42\nprofile,9007199254740993\n",
            "resource_type,resource_id\r\nquest,42\r\nprofile,9007199254740993\r\n",
            "\u{feff}title,resource_id,resource_type\nx,42,quest\ny,9007199254740993,profile",
            "resource_type,title,resource_id\nquest,\"Rule 1, 2\",42\nprofile,\"a \"\"b\"\"\",9007199254740993",
            "\"resource_type\",\"resource_id\"\n\"quest\",\"42\"\n\"profile\", 9007199254740993",
        ] {
            assert_eq!(read(text), wanted, "{text}");
        }
        assert_eq!(read(""), Ok(vec![]));
    }

    /// Protects whoever has to find the mistake in a long file.
    #[test]
    fn a_mistake_is_named_with_its_line() {
        for (text, line, word) in [
            ("quest,1\nnonsense,2", "line 2", "nonsense"),
            ("resource_type,resource_id\n\nquest,-1", "line 3", "-1"),
            ("quest,1\nquest", "line 2", "no id"),
            (
                "{\"resource_type\":\"quest\",\"resource_id\":1}\n{\"resource_type\":\"quest\"}",
                "line 2",
                "resource_id",
            ),
            (
                "{\"resource_type\":\"quest\",\"resource_id\":4.5}",
                "line 1",
                "4.5",
            ),
            (
                "resource_type,title,resource_id\nquest,Rule 1, 2,42",
                "line 2",
                "4 fields",
            ),
            (
                "resource_type,title,resource_id\nquest,\"Rule\n1\",42",
                "line 2",
                "2 fields",
            ),
            ("quest,9223372036854775808", "line 1", "9223372036854775807"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(line) && error.contains(word), "{error}");
        }
    }
}
