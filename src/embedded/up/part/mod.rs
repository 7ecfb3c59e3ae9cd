//! The parts: one file a service or job.

pub(super) mod airflow;
pub(super) mod api_key;
pub(super) mod connect;
pub(crate) mod http;
pub(super) mod kafka;
pub(super) mod own;
pub(super) mod postgres;
