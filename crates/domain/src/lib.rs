//! Tally's words as types, the event codec, and the fold.
//!
//! Nothing here does I/O, waits, or asks for the time: given the same records in the same order,
//! this crate computes the same state everywhere. In reading order:
//!
//! - [`words`]: resource, interaction, user, idempotency key, event
//! - [`time`]: the time of an event, and its text
//! - [`partition`]: which partition a resource lives in, and what a position is
//! - [`codec`]: how an event is written, and how every version ever written is read
//! - [`fold`]: `(state, event) -> (state, outcome)`, decided on plain values
//! - [`remembered`]: which idempotency keys still hold
//! - [`state`]: one partition's state, to which records are applied in log order
//! - `cells`: the values in memory, of which those not used lately can be dropped
//! - [`dead_letter`]: why a record could not be folded, and what is decided about it
//! - [`digest`]: one number for a whole state

mod backing;
mod cells;
pub mod codec;
pub mod dead_letter;
pub mod digest;
pub mod fold;
mod letters;
pub mod partition;
pub mod remembered;
pub mod state;
pub mod time;
pub mod words;

pub use codec::{DecodeError, Entry, decode, decode_entry, encode, encode_settlement};
pub use dead_letter::{
    DeadLetter, DeadLetterReason, LetterCounts, LetterFate, SettleAction, Settlement,
};
pub use digest::{Digest, NoDigest};
pub use fold::{FOLD_VERSION, Outcome, Rules};
pub use partition::{LogId, Offset, Partition, Position, PositionToken, TokenError};
pub use state::{Applied, Backing, NoBacking, PartitionState, Record, Verdict};
pub use words::{
    Counters, Event, EventId, EventTime, IdempotencyKey, InteractionType, Resource, ResourceId,
    ResourceType, Toggles, UserId, WordError,
};
