//! What the black-box tests share. The tests themselves are in `tests/tests/`, one file per
//! subject.
//!
//! - [`binary`]: builds the command once and says where it is
//! - [`folder`]: a data folder of one test, and commands on it
//! - [`server`]: a server on such a folder
//! - [`http`]: a small HTTP/1.1 client that hides nothing
//! - [`collector`]: a collector of traces
//! - [`load`]: a small load of our own
//! - [`metrics`]: what a scrape says
//! - [`deploy`]: dashboards and rules, as they are shipped
//! - [`fold`]: the fold done again, independently, over the output of `tally log cat`
//! - [`consumer`]: Kafka's own consumer tool, for comparison
//! - [`crash`]: load that outlives kills, and its ledger
//! - [`kafka`]: a real Apache Kafka, and folders on it
//! - [`machine`]: the machine that figures are of
//! - [`preload`]: makes the system fail the real binary
//! - [`simulation`]: the whole stack on a disk that forgets, crashed and damaged in numbers
//! - [`small_disk`]: a disk that can be full
//! - [`tamper`]: lies in the stored state that only a fold of the log can find
//! - [`wait`]: waiting for a condition, never for the clock

pub mod binary;
pub mod collector;
pub mod consumer;
pub mod crash;
pub mod deploy;
pub mod fold;
pub mod folder;
pub mod http;
pub mod kafka;
pub mod load;
pub mod machine;
pub mod metrics;
pub mod preload;
pub mod server;
pub mod simulation;
pub mod small_disk;
pub mod tamper;
pub mod wait;

pub use folder::{Folder, Ran};
pub use http::{Request, Response};
pub use server::Server;
