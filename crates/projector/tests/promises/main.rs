//! The projector's promises: an answer includes the caller's own event, state is a fold of the log
//! whatever crashed when, and state that can't be trusted is never answered from.

#[cfg(test)]
mod common;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod dead_letters;
#[cfg(test)]
mod dump;
#[cfg(test)]
mod export;
#[cfg(test)]
mod following;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod life;
#[cfg(test)]
mod measured;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod own_write;
#[cfg(test)]
mod renewal;
#[cfg(test)]
mod settle;
#[cfg(test)]
mod snapshots;
#[cfg(test)]
mod swap;
#[cfg(test)]
mod waiting;
#[cfg(test)]
mod whose_state;
