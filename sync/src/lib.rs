//! Delta path.
