//! `tally keys`: API keys, in a file of hashes that a running server watches.

use std::io::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use serde::Serialize;
use tally_domain::{EventTime, UserId};
use tally_ingress::auth::key::id_of;
use tally_ingress::auth::{Grant, KeyId, KeyInfo, KeysFile};
use tally_log::storage::RealStorage;

use crate::config::Config;
use crate::config::values::Span;
use crate::data_dir;
use crate::failure::Failure;
use crate::output;

/// What to do with keys.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum KeysCommand {
    /// Make a key and print it; it is shown this once
    #[command(after_help = CREATE_EXAMPLES)]
    Create {
        /// Whom requests with the key come from, 1 to 128 bytes
        #[arg(long, value_name = "USER", value_parser = parse_user)]
        user: UserId,
        /// It also administers: on the management listener from another host, in `Authorization`
        #[arg(long)]
        admin: bool,
        /// How long it holds, as in 12h or 90d; without it, until it is revoked
        #[arg(long, value_name = "TIME")]
        expires_in: Option<Lifetime>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print all keys without their secrets, in the order in which they were made
    #[command(after_help = "Examples:\n  tally keys list\n  tally keys list --json | jq .user")]
    List {
        /// Print one JSON object for each key
        #[arg(long)]
        json: bool,
    },
    /// Make a key hold no more; a running server takes it up within about a second
    #[command(after_help = "Example:\n  tally keys revoke k7m2x9q4w1ab")]
    Revoke {
        /// The key's id, as `tally keys list` shows it
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// How long a key holds: a second to ten years.
type Lifetime = Span<1_000, 315_576_000_000>;

const EXAMPLES: &str = "\
Examples:
  tally keys create --user 42
  tally keys create --user ops --admin --expires-in 90d
  tally keys list
  tally keys revoke k7m2x9q4w1ab";

const CREATE_EXAMPLES: &str = "\
Examples:
  tally keys create --user 42
  KEY=$(tally keys create --user 42)
  tally keys create --user ops --admin --expires-in 90d

Standard output has the key and nothing else. A running server takes it up within about a second.";

fn parse_user(text: &str) -> Result<UserId, String> {
    UserId::new(text).map_err(|error| error.to_string())
}

/// Changes or lists the keys.
pub(crate) fn run(command: &KeysCommand, config: &Config) -> Result<(), Failure> {
    // What is there of a restore that was cut short, the next one replaces.
    data_dir::refuse_unfinished(&RealStorage, &config.data_dir)?;
    let file = KeysFile::new(config.keys_file());
    match command {
        KeysCommand::Create {
            user,
            admin,
            expires_in,
            json,
        } => {
            let grant = Grant {
                admin: *admin,
                expires_at: expires_in.map(from_now),
            };
            create(&file, user, grant, *json)
        }
        KeysCommand::List { json } => list(&file.list().map_err(Failure::of)?, *json),
        KeysCommand::Revoke { id } => revoke(&file, id),
    }
}

/// The time that a span ends which begins now.
fn from_now(lifetime: Lifetime) -> EventTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let end = since.unwrap_or_default().saturating_add(lifetime.get());
    EventTime::from_millis(u64::try_from(end.as_millis()).unwrap_or(EventTime::MAX_MILLIS))
}

fn create(file: &KeysFile, user: &UserId, grant: Grant, json: bool) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Created<'a> {
        id: KeyId,
        user: &'a UserId,
        admin: bool,
        created_at: EventTime,
        expires_at: Option<EventTime>,
        key: &'a str,
    }
    let created = file.create_with(user, grant).map_err(Failure::of)?;
    let KeyInfo {
        id,
        user,
        admin,
        created_at,
        expires_at,
        revoked_at: _,
    } = &created.info;
    let key = created.key.expose();
    if json {
        return output::json(&Created {
            id: *id,
            user,
            admin: *admin,
            created_at: *created_at,
            expires_at: *expires_at,
            key,
        });
    }
    output::line(key)?;
    // Not on standard output, so that a script gets the key alone. If nobody reads it, nothing is
    // lost: `tally keys list` says the same.
    let user = printable(user.as_str());
    let kind = if *admin { "Admin key" } else { "Key" };
    let until = expires_at.map_or_else(String::new, |end| format!(", until {end}"));
    let _ = writeln!(
        io::stderr(),
        "{kind} {id} of user {user}{until}. Keep it now: it is not shown again."
    );
    Ok(())
}

fn list(keys: &[KeyInfo], json: bool) -> Result<(), Failure> {
    let mut out = output::stdout();
    let mut write = || -> io::Result<()> {
        if json {
            for key in keys {
                serde_json::to_writer(&mut out, key)?;
                out.write_all(b"\n")?;
            }
        } else if !keys.is_empty() {
            writeln!(
                out,
                "{:12}  {:24}  {:24}  {:24}  {:5}  USER",
                "ID", "CREATED", "EXPIRES", "REVOKED", "ADMIN"
            )?;
            let time = |at: &Option<EventTime>| at.map_or_else(|| "-".into(), |at| at.to_string());
            for KeyInfo {
                id,
                user,
                admin,
                created_at,
                expires_at,
                revoked_at,
            } in keys
            {
                let (expires, revoked) = (time(expires_at), time(revoked_at));
                let admin = if *admin { "yes" } else { "-" };
                let user = printable(user.as_str());
                writeln!(
                    out,
                    "{id:12}  {created_at:24}  {expires:24}  {revoked:24}  {admin:5}  {user}"
                )?;
            }
        }
        out.flush()
    };
    output::written(write())
}

fn revoke(file: &KeysFile, text: &str) -> Result<(), Failure> {
    let id = id_of(text).map_err(|why| {
        // What begins like a key may be one with a mistake in it: not for a terminal or a log.
        let said = if text.starts_with("tally_") || text.len() > 64 {
            "this".to_owned()
        } else {
            format!("{text:?}")
        };
        Failure::Usage(format!("{said} is no key id: {why}"))
    })?;
    let now = file.revoke(id).map_err(Failure::of)?;
    output::line(&if now {
        format!("{id} is revoked")
    } else {
        format!("{id} was revoked before")
    })
}

/// A user's name for a terminal: any text can be a user, control characters too.
fn printable(user: &str) -> String {
    let shown = |char: char| {
        let escaped = char.is_control().then(|| char.escape_default());
        escaped
            .into_iter()
            .flatten()
            .chain((!char.is_control()).then_some(char))
    };
    user.chars().flat_map(shown).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: KeysCommand,
    }

    /// Protects requests from coming from nobody.
    #[test]
    fn a_key_is_made_for_a_user() {
        let parsed = Line::try_parse_from(["keys", "create", "--user", "42"]).unwrap();
        assert!(matches!(
            parsed.command,
            KeysCommand::Create { user, admin: false, expires_in: None, json: false }
                if user.as_str() == "42"
        ));
        let line = ["keys", "create", "--user", "ops", "--admin", "--expires-in"];
        let parsed = Line::try_parse_from(line.iter().chain(&["90d"])).unwrap();
        let KeysCommand::Create {
            admin: true,
            expires_in: Some(lifetime),
            ..
        } = parsed.command
        else {
            panic!("{parsed:?}");
        };
        assert_eq!(lifetime.get().as_secs(), 90 * 86_400);
        for wrong in ["0s", "-1d", "4000d", "soon"] {
            assert!(Line::try_parse_from(line.iter().chain(&[wrong])).is_err());
        }
        for wrong in [
            &["keys", "create"][..],
            &["keys", "create", "--user", ""],
            &["keys", "revoke"],
        ] {
            assert!(Line::try_parse_from(wrong).is_err(), "{wrong:?}");
        }
    }

    /// Protects a secret that was pasted where an id belongs: it is understood, or not repeated.
    #[test]
    fn revoking_never_repeats_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeysFile::new(folder.path().join("keys.json"));
        let created = file.create(&UserId::new("1").unwrap()).unwrap();
        let key = created.key.expose();
        let secret = key.rsplit('_').next().unwrap();
        for text in [
            &key[..key.len() - 1],
            &format!("{key}x"),
            &format!("Bearer-longer-than-any-id-{key}"),
        ] {
            let Err(Failure::Usage(why)) = revoke(&file, text) else {
                panic!("revoked");
            };
            assert!(!why.contains(&secret[..20]), "{why}");
        }
        let Err(Failure::Usage(why)) = revoke(&file, "no-such-id") else {
            panic!("revoked");
        };
        assert!(why.contains("no-such-id"), "{why}");
        assert!(revoke(&file, key).is_ok());
        assert!(file.list().unwrap()[0].revoked_at.is_some());
    }

    /// Protects the terminal of whoever lists keys from a user's name.
    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\u{1b}[2J\nб é"), "a\\u{1b}[2J\\nб é");
    }
}
