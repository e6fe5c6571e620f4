//! Under construction.
mod config;
fn main() {}
