//! Tests of containers with the root file systems of `scripts/root-filesystems`.

mod ends;
mod entry;
mod inside;
mod leaks;
mod order;
mod sessions;
