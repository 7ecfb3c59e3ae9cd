//! What tests share: real parts on free ports, waiting with deadlines.

pub(crate) mod postgres_server;
