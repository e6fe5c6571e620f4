//! The real binary on a real Apache Kafka.
//!
//! `cargo test -p tally-tests --features kafka --test kafka -- --nocapture --test-threads 1`. It
//! needs a JDK, Maven and kcat (Debian: `openjdk-17-jdk-headless maven openssl kcat`); clusters are
//! started as tests need them. `TALLY_KAFKA_SERVER_KILLS` sets how often the server is killed (10),
//! `TALLY_KAFKA_BROKER_KILLS` how often a broker of each cluster is (5), and `TALLY_CRASH_SEED`
//! repeats the choices of an earlier run.
//!
//! - [`contract`]: everything that holds on the embedded log holds here
//! - [`topics`]: topics that would lose history are refused
//! - [`foreign`]: records of others, and what others see of ours
//! - [`brokers`]: brokers that die, freeze, and come back
//! - [`copy`]: there and back
//! - [`crash`]: kill -9 under load, of servers and of brokers
//! - [`secure`]: passwords, certificates and rights

mod brokers;
mod contract;
mod copy;
mod crash;
mod foreign;
mod secure;
mod support;
mod topics;
