//! The whole stack on a disk that forgets: crashes at any point, and damage anywhere, in numbers.
//!
//! - [`events`]: records without end, the same ones for the same seed
//! - [`store`]: a store on the simulated disk, which loses any of what was not flushed
//! - [`stack`]: log, projector and keys file on one disk, and what they say
//! - [`model`]: what must be true of them, whatever happened
//! - [`crash_points`]: lives that end in crashes, at any of their steps
//! - [`damages`]: one damage after the other to files at rest; [`verdicts`]: what came of them

pub mod crash_points;
pub mod damages;
pub mod events;
pub mod model;
pub mod stack;
pub mod store;
pub mod verdicts;
