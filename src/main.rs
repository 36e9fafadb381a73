//! The `mountd` program.

fn main() {}
