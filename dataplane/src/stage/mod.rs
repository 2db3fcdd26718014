//! The stages of a burst, in the order a packet meets them. Stages never call one another.

pub mod meta;

#[cfg(test)]
mod oracle;

pub mod parse;
pub mod respond;
pub mod rewrite;
