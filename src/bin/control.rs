//! Control process.
fn main() {}
