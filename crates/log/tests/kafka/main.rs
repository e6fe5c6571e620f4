//! What a Kafka log promises: the contract of every log on a real broker, whose bootstrap servers
//! `TALLY_TEST_KAFKA` names; and what only Kafka can do to it.

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod support;
