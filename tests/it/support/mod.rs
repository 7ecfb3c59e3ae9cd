//! What tests share: real parts on free ports, waiting with deadlines.
#![allow(dead_code, reason = "every test takes what it needs")]

pub(crate) mod bomb;
pub(crate) mod clickhouse_server;
pub(crate) mod liar;
pub(crate) mod own_sink;
pub(crate) mod postgres_server;
pub(crate) mod processes;
pub(crate) mod proxy;
pub(crate) mod stack;
pub(crate) mod wait;

use std::path::{Path, PathBuf};

pub(crate) use stack::{Options, Stack};

/// The folder that `make engines` fills; PLATFORM_ENGINES names another one.
pub(crate) fn engines_dir() -> PathBuf {
    platform::config::environment()
        .get("PLATFORM_ENGINES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".engines"), PathBuf::from)
}
