//! What tests share: real parts on free ports, waiting with deadlines.
#![allow(dead_code, reason = "every test takes what it needs")]

pub(crate) mod processes;
pub(crate) mod stack;
pub(crate) mod wait;

pub(crate) use stack::{Options, Stack};
