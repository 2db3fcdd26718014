//! Source NAT.
