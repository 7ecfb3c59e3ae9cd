//! The change-data path: events to rows to ClickHouse.
