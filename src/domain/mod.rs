//! Words that every part shares. No I/O, no drivers, no clock.

mod api_key;
mod failure;
mod identifier;
mod lsn;
mod rewind_to;
mod run_date;
mod table_name;
mod token;
mod version;

pub use api_key::{ApiKey, ParseApiKeyError};
pub use failure::Failure;
pub use identifier::{quote_clickhouse, quote_postgres};
pub use lsn::{Lsn, ParseLsnError};
pub use rewind_to::{ParseRewindToError, RewindTo};
pub use run_date::RunDate;
pub use table_name::TableName;
pub use token::{ParseTokenError, Token};
pub use version::Version;
