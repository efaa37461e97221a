//! The comparison with other socket daemons.
fn main() {}
