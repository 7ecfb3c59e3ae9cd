//! Bulk work: loading, importing, generating, aggregates.
