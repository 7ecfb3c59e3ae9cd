//! HTTP API over both databases.
