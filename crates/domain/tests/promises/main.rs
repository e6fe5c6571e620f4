//! The domain's promises: what an event is, what the fold makes of a history, that a checkpoint
//! and a crash change nothing, and that partitions are Kafka's.

#[cfg(test)]
mod checkpoint;
#[cfg(test)]
mod codec;
#[cfg(test)]
mod digest;
#[cfg(test)]
mod fold;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod history;
#[cfg(test)]
mod model;
#[cfg(test)]
mod partition;
#[cfg(test)]
mod remembered;
#[cfg(test)]
mod time;
#[cfg(test)]
mod words;
