//! What the embedded log promises.

#[cfg(test)]
mod conformance;
