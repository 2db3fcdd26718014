//! twinpathctl.
fn main() {}
