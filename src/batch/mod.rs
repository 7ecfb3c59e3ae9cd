//! Bulk work: loading, importing, generating, aggregates.

pub mod load;
