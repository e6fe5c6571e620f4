//! What the state must be: one uninterrupted fold of the log, in memory alone.

use std::collections::HashMap;

use tally_domain::{
    Applied, DeadLetter, Digest, EventId, LetterFate, NoBacking, Offset, PartitionState, Position,
    Rules, Toggles, Verdict,
};
use tally_projector::StateDump;

use super::MemoryLog;

/// The state after all of the log.
pub(crate) fn folded(log: &MemoryLog) -> StateDump {
    let count = usize::try_from(log.identity.partitions).unwrap();
    folded_below(log, &vec![Offset::MAX; count])
}

/// The state after the records below an offset of each partition.
pub(crate) fn folded_below(log: &MemoryLog, below: &[Offset]) -> StateDump {
    let mut states = states(log);
    log.each(|partition, record| {
        let place = usize::try_from(partition).unwrap();
        if record.offset < below[place] {
            let Ok(_) = states[place].apply(record, &NoBacking);
        }
    });
    dump(&states)
}

/// What becomes of each event of the log, in log order.
pub(crate) fn verdicts(log: &MemoryLog) -> Vec<(EventId, Verdict)> {
    let mut states = states(log);
    let mut verdicts = Vec::new();
    log.each(|partition, record| {
        let state = &mut states[usize::try_from(partition).unwrap()];
        let offset = record.offset;
        let Ok(applied) = state.apply(record, &NoBacking);
        if let Applied::Folded { event, outcome } = applied {
            let Ok((counters, toggles)) = state.read(event.resource, &event.user, &NoBacking);
            let verdict = Verdict {
                outcome,
                position: Position { partition, offset },
                counters: counters.unwrap(),
                toggles,
            };
            verdicts.push((event.id, verdict));
        }
    });
    verdicts
}

/// What becomes of each replay and drop of the log, and the dead letters that are left, by partition.
pub(crate) fn settled(log: &MemoryLog) -> (HashMap<EventId, LetterFate>, Vec<Vec<DeadLetter>>) {
    let mut states = states(log);
    let mut fates = HashMap::new();
    log.each(|partition, record| {
        let state = &mut states[usize::try_from(partition).unwrap()];
        let Ok(applied) = state.apply(record, &NoBacking);
        if let Applied::Settled { settlement, fate } = applied {
            fates.insert(settlement.id, fate);
        }
    });
    let letters = states.iter().map(|state| {
        let letters = state.new_dead_letters(0);
        letters.cloned().collect()
    });
    (fates, letters.collect())
}

fn states(log: &MemoryLog) -> Vec<PartitionState> {
    let partitions = log.identity.partitions;
    (0..partitions)
        .map(|partition| PartitionState::new(partition, partitions, Rules::CURRENT))
        .collect()
}

fn dump(states: &[PartitionState]) -> StateDump {
    let mut digest = Digest::default();
    let mut remembered_keys = 0;
    for state in states {
        for (sequence, key) in state.keys().holding() {
            digest.add_key(state.partition(), sequence, key);
            remembered_keys += 1;
        }
    }
    let mut counters: Vec<_> = states.iter().flat_map(PartitionState::counters).collect();
    counters.sort_unstable_by_key(|(resource, _)| *resource);
    let mut toggles: Vec<_> = states
        .iter()
        .flat_map(PartitionState::toggles)
        .filter(|(_, _, toggles)| *toggles != Toggles::NONE)
        .map(|(resource, user, toggles)| (resource, user.clone(), toggles))
        .collect();
    toggles.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    for (resource, counters) in &counters {
        digest.add_counters(*resource, counters);
    }
    for (resource, user, toggles) in &toggles {
        digest.add_toggles(*resource, user.as_str(), *toggles);
    }
    StateDump {
        positions: states.iter().map(PartitionState::next_offset).collect(),
        digest,
        counters,
        toggles,
        dead_letters: states.iter().map(PartitionState::dead_letter_count).sum(),
        remembered_keys,
    }
}
