//! `platform keys`: API keys from the command line, for who has the administrator's access to PostgreSQL.

use anyhow::bail;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use crate::catalog::endpoint_parameter::parse_moment;
use crate::config::Settings;
use crate::domain::Failure;
use crate::shutdown::Shutdown;
use crate::store::api_keys::{self, NAME_CHARS_MAX, NewKey, SCOPES, StoredKey};
use crate::store::postgres;

/// Subcommands.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a key and print it, this once.
    Create(Create),
    /// Print every key as a line of JSON, the newest first. The keys themselves are not stored.
    List,
    /// End a key, within five seconds everywhere.
    Revoke {
        /// The 8 digits behind `pk_`.
        prefix: String,
    },
}

/// A new key.
#[derive(Debug, clap::Args)]
struct Create {
    /// Name, for people.
    #[arg(long)]
    name: String,
    /// What it may do, several with commas: read, write, admin. None includes another.
    #[arg(long, value_name = "SCOPES", value_delimiter = ',', required = true, value_parser = SCOPES)]
    scopes: Vec<String>,
    /// When it ends by itself: an RFC 3339 time or a date.
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// Requests in api.rate_limit_window_s seconds, instead of api.rate_limit_requests.
    #[arg(long, value_name = "REQUESTS", value_parser = clap::value_parser!(i32).range(1..))]
    rate_limit: Option<i32>,
}

/// A key as it is printed.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    prefix: String,
    name: String,
    scopes: Vec<String>,
    rate_limit: Option<i32>,
    created_at: String,
    created_by: String,
    expires_at: Option<String>,
    revoked_at: Option<String>,
}

impl Shown {
    fn new(key: StoredKey, secret: Option<String>) -> Self {
        let moment = |moment: DateTime<Utc>| moment.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        Self {
            key: secret,
            prefix: key.prefix,
            name: key.name,
            scopes: key.scopes,
            rate_limit: key.rate_limit,
            created_at: moment(key.created_at),
            created_by: key.created_by,
            expires_at: key.expires_at.map(moment),
            revoked_at: key.revoked_at.map(moment),
        }
    }
}

/// Keys read at once.
const PAGE: i64 = 1000;

/// Makes, lists or revokes keys.
///
/// # Errors
/// `Failure::BadDate` (64) for a time that is none or has passed, `Failure::NothingToDo` (99) when there is no such key,
/// `Failure::Unavailable` (69) when PostgreSQL does not answer.
pub async fn run(args: Args, settings: Settings, _shutdown: Shutdown) -> anyhow::Result<()> {
    let client = postgres::connect(&settings.postgres, "platform keys").await?;
    let work = async {
        match args.command {
            Command::Create(create) => {
                let new = new_key(create)?;
                let login: String = client.query_one("select session_user::text", &[]).await?.try_get(0)?;
                let (key, stored) = api_keys::create(&client, &new, &login).await?;
                super::print_result(&Shown::new(stored, Some(key.expose().to_owned())))
            }
            Command::List => {
                let mut after = None;
                loop {
                    let keys = api_keys::list(&client, after.as_ref(), PAGE).await?;
                    let Some(last) = keys.last() else { return Ok(()) };
                    after = Some((last.created_at, last.prefix.clone()));
                    for key in keys {
                        super::print_result(&Shown::new(key, None))?;
                    }
                }
            }
            Command::Revoke { prefix } => {
                let prefix = prefix.strip_prefix("pk_").unwrap_or(&prefix);
                // A whole key was pasted: its first digits name it.
                let prefix = prefix.split('_').next().unwrap_or(prefix);
                if !api_keys::revoke(&client, prefix).await? {
                    bail!(Failure::NothingToDo(format!("no key with the prefix {prefix} stands")));
                }
                super::print_result(&serde_json::json!({"prefix": prefix, "status": "revoked"}))
            }
        }
    };
    work.await.map_err(postgres::or_unavailable)
}

fn new_key(create: Create) -> anyhow::Result<NewKey> {
    let Create { name, scopes, expires, rate_limit } = create;
    if !(1..=NAME_CHARS_MAX).contains(&name.chars().count()) || name.contains(char::is_control) {
        bail!(Failure::Usage(format!("--name must have 1 to {NAME_CHARS_MAX} characters, no control characters")));
    }
    let expires_at = expires
        .map(|text| match parse_moment(&text) {
            Ok(moment) if moment > Utc::now() => Ok(moment),
            Ok(_) => Err(Failure::BadDate(format!("--expires {text}: that has passed"))),
            Err(refused) => Err(Failure::BadDate(format!("--expires {text}: {}", refused.0))),
        })
        .transpose()?;
    let scopes =
        SCOPES.iter().filter(|scope| scopes.iter().any(|name| name == *scope)).map(|scope| (*scope).to_owned());
    Ok(NewKey { name, scopes: scopes.collect(), rate_limit, expires_at })
}
