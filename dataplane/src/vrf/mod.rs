//! Immutable forwarding view.
