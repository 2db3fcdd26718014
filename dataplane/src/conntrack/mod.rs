//! Tracked connections.
