//! The change-data path.
//!
//! ```text
//! source ─► envelope ─► decoder ─► batch ─► writer (resolve, insert, checkpoint)
//! ```
//!
//! `envelope`, `decoder` and `batch` are pure: they take values and return values. `ports` says what the rest asks of the
//! outside, and `adapters` answers with the real stores.

mod adapters;
mod batch;
mod buckets;
mod continuity;
mod decoder;
#[cfg(test)]
mod decoder_tests;
mod desk;
mod envelope;
mod halt;
mod health;
mod holding;
mod letters;
mod outbox;
mod pipeline;
mod ports;
mod preflight;
mod remedy;
mod replay;
mod rewind;
mod shapes;
#[cfg(test)]
mod simulation;
mod source;
mod status;
#[cfg(test)]
mod structure_tests;
mod supervisor;
mod writer;

pub use health::serve as serve_health;
pub use pipeline::{Pipeline, Stop};
pub use status::{Status, StatusReport};
pub use supervisor::supervise;
