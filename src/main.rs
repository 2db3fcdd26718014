//! Data process.
fn main() {}
