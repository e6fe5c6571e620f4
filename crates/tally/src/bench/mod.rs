//! `tally bench`: load on a server, and what came back.
//!
//! [`run`] finds the server and its users ([`target`], [`local`]), starts a thread per core
//! ([`worker`]) with its share of the connections ([`connection`], [`wire`]), and conducts them
//! ([`conduct`]). What comes next is decided by [`mix`], when by [`schedule`]; what came of it
//! goes to [`figures`], the [`ledger`] and in the end the [`report`].

mod args;
mod conduct;
mod connection;
mod figures;
mod ledger;
mod local;
mod mix;
mod process;
mod progress;
mod report;
mod schedule;
mod target;
#[cfg(test)]
mod tests;
mod wire;
mod worker;

use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub(crate) use args::BenchArgs;

use figures::Live;
use ledger::Ledger;
use local::Prepared;
use target::{Address, User};
use worker::Plan;

/// The server that holds the local data folder.
#[derive(Debug, Clone)]
pub(crate) struct LocalServer {
    /// Its public listener.
    pub(crate) api: SocketAddr,
    /// Its management listener.
    pub(crate) management: SocketAddr,
    /// Its process.
    pub(crate) pid: u32,
    /// The file of API keys that it watches.
    pub(crate) keys_file: PathBuf,
}

/// Why a run could not be made, or its figures are not to be trusted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// No server to load, or it could not be asked.
    #[error("{0} (a server elsewhere is named with --url and --key)")]
    Local(#[source] Box<dyn Error + Send + Sync>),
    /// API keys could not be made, revoked, or were not taken up by the server.
    #[error("API keys for the run: {0}")]
    Keys(#[source] Box<dyn Error + Send + Sync>),
    /// The server's management API did not register the resources.
    #[error("registering the resources: {0}")]
    Resources(#[source] Box<dyn Error + Send + Sync>),
    /// `--url` can't be used.
    #[error("--url {url}: {why}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// `--keys-from` can't be read.
    #[error("--keys-from {}: {source}", path.display())]
    KeysFrom {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `--url` without a credential.
    #[error("--url needs credentials: give --key KEY or --keys-from FILE")]
    NoKeys,
    /// A credential with spaces, control characters or letters past ASCII.
    #[error("credential number {place} can't be sent in a header")]
    BadKey {
        /// Counted from 1: those of `--key`, then those of `--keys-from`.
        place: usize,
    },
    /// `--first-id` leaves too little room.
    #[error("--first-id and --resources go past the largest resource id, 9223372036854775807")]
    FirstId,
    /// The ledger can't be opened or written.
    #[error("--ledger {}: {source}", path.display())]
    Ledger {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The server can't be reached.
    #[error(
        "can't connect to {address}: {source}; is the server running, and may it hold so many connections?"
    )]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The system refused a thread, a timer or a runtime.
    #[error("the system refused what the run needs: {0}")]
    System(#[source] std::io::Error),
    /// A bug of ours.
    #[error("the histogram can't be made: {0}")]
    Histogram(#[source] hdrhistogram::CreationError),
    /// A bug of ours.
    #[error("a load thread panicked")]
    Panicked,
}

/// Makes the load and prints its figures on standard output. The exit code is a failure where
/// there were unexpected answers. `local` finds the server of the local folder; it is only asked
/// where no `--url` is given.
///
/// # Errors
/// Where the run could not be made at all; see [`BenchError`].
pub(crate) fn run(
    args: &BenchArgs,
    local: impl FnOnce() -> Result<LocalServer, Box<dyn Error + Send + Sync>>,
) -> Result<ExitCode, BenchError> {
    let resources = target::resources(args)?;
    let ledger = args.ledger.as_deref().map(Ledger::open).transpose()?;
    let (address, users, server_pid, prepared) = if let Some(url) = &args.url {
        (
            target::resolve(url)?,
            target::given_users(args)?,
            None,
            None,
        )
    } else {
        let server = local().map_err(BenchError::Local)?;
        let prepared = Prepared::make(&server, args.users, &resources)?;
        let address = Address {
            socket: server.api,
            host: server.api.to_string(),
        };
        (address, prepared.users(), Some(server.pid), Some(prepared))
    };
    let plan = plan(args, &address, &users, resources, ledger)?;
    let report = conduct::conduct(
        args,
        &Arc::new(plan),
        args.server_pid.or(server_pid),
        &address,
    );
    // The keys go away whatever came of the run.
    let revoked = prepared.map_or(Ok(()), Prepared::revoke);
    let report = report?;
    revoked?;
    let mut out = std::io::stdout().lock();
    let printed = if args.json {
        serde_json::to_writer(&mut out, &report)
            .map_err(std::io::Error::from)
            .and_then(|()| writeln!(out))
    } else {
        write!(out, "{report}")
    };
    printed.map_err(BenchError::System)?;
    Ok(if report.as_expected {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn plan(
    args: &BenchArgs,
    address: &Address,
    users: &[User],
    resources: Vec<tally_domain::Resource>,
    ledger: Option<Ledger>,
) -> Result<Plan, BenchError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = u64::try_from(cores).unwrap_or(1);
    let connections = u64::from(args.connections);
    let threads = args.threads.map_or(cores, u64::from).clamp(1, connections);
    let run = getrandom::u64().map_err(|error| BenchError::System(std::io::Error::other(error)))?;
    Ok(Plan {
        address: address.socket,
        parts: wire::Parts::new(
            &address.host,
            users.iter().map(|user| user.credential.as_str()),
            &resources,
        ),
        users: users.iter().map(|user| user.name.clone()).collect(),
        resources,
        zipf: args.zipf,
        seed: args.seed,
        run,
        threads,
        connections,
        rate: args.rate,
        requests: args.requests,
        idempotency_keys: args.idempotency_keys,
        retries: args.retries,
        tolerate_disconnects: args.tolerate_disconnects,
        timeout: args.timeout,
        ledger,
        live: (0..threads).map(|_| Live::default()).collect(),
        stop: AtomicBool::new(false),
    })
}
