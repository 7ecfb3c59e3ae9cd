//! `platform clickhouse`: libchdb behind its HTTP protocol.
