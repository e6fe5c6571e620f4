//! Copies between two logs in files, and what goes wrong on the way.
