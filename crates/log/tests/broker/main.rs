//! What a Kafka log promises: the contract of every log on a real broker, whose bootstrap servers
//! `TALLY_TEST_KAFKA` names; and what only Kafka can do to it.

#[cfg(test)]
mod appending;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod opening;
#[cfg(test)]
mod reading;
#[cfg(test)]
mod support;
