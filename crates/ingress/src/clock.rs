//! What time it is.

use std::time::{SystemTime, UNIX_EPOCH};

use tally_domain::EventTime;

/// Now, as the system's clock has it; a clock before 1970 is at its beginning.
pub(crate) fn now() -> EventTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since.unwrap_or_default().as_millis();
    EventTime::from_millis(u64::try_from(millis).unwrap_or(EventTime::MAX_MILLIS))
}
