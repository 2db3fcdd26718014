//! The stages of a burst.
