//! What the embedded log promises: the contract of every log, on a real disk; and what a crash, a
//! full or failing disk and damage do to it, on a simulated one.

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod limited;
#[cfg(test)]
mod opening;
#[cfg(test)]
mod repair;
#[cfg(test)]
mod support;
#[cfg(test)]
mod view;
