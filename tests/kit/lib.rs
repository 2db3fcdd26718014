//! What tests, the simulator and the benches share: ports in memory, whole nodes stepped by hand, a network between
//! them, and checkers. Everything between the seams (`dataplane::io::Io`, `state_sync::wire::Net`, the `now` argument)
//! is production code.

pub mod nic;
