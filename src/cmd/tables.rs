//! `platform tables`: what each published table becomes in ClickHouse, and how its values get there.

use std::io::IsTerminal as _;

use serde::Serialize;

use crate::catalog::{Identity, Refusal, Table, TableColumn};
use crate::config::Settings;
use crate::domain::TableName;
use crate::shutdown::Shutdown;
use crate::store::{postgres, table_shapes};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON also on a terminal; elsewhere it is always JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    job: &'static str,
    publication: String,
    tables: Vec<Listed>,
}

#[derive(Debug, Serialize)]
struct Listed {
    table: String,
    mirrored: bool,
    /// Why it is not mirrored.
    reason: Option<String>,
    replica_identity: Option<&'static str>,
    /// What becomes of a row whose event does not carry every value exactly.
    inexact: Option<&'static str>,
    columns: Vec<Column>,
}

#[derive(Debug, Serialize)]
struct Column {
    column: String,
    key: bool,
    postgres: String,
    clickhouse: String,
    read: &'static str,
    r#override: bool,
}

/// Prints the mapping.
///
/// # Errors
/// `Failure::Config` (78) for a configured type that a column cannot have, `Failure::Unavailable` (69) without PostgreSQL.
pub async fn run(args: Args, settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    let publication = settings.sink.pipeline.clone();
    let published = shutdown
        .guard(async {
            let client = postgres::connect(&settings.postgres, "platform tables").await?;
            let published = table_shapes::published(&client, &publication, &settings.tables).await;
            published.map_err(postgres::or_unavailable)
        })
        .await?;
    let mirrored = published.tables.iter().map(listed);
    let refused = published.refused.iter().map(|(name, refusal)| refused(name, refusal));
    let mut tables: Vec<Listed> = mirrored.chain(refused).collect();
    tables.sort_by(|a, b| a.table.cmp(&b.table));
    let report = Report { job: "tables", publication, tables };
    if args.json || !std::io::stdout().is_terminal() {
        return super::print_result(&report);
    }
    print!("{}", readable(&report));
    Ok(())
}

fn listed(table: &Table) -> Listed {
    Listed {
        table: table.name().to_string(),
        mirrored: true,
        reason: None,
        replica_identity: Some(match table.identity() {
            Identity::Default => "default",
            Identity::Full => "full",
        }),
        inexact: Some(if table.parks_inexact() { "park" } else { "reread" }),
        columns: table.columns().iter().map(column).collect(),
    }
}

fn column(column: &TableColumn) -> Column {
    Column {
        column: column.name().to_owned(),
        key: column.is_key(),
        postgres: column.type_text().to_owned(),
        clickhouse: column.codec().clickhouse_type(),
        read: column.how_read(),
        r#override: column.is_overridden(),
    }
}

fn refused(name: &TableName, refusal: &Refusal) -> Listed {
    Listed {
        table: name.to_string(),
        mirrored: false,
        reason: Some(refusal.to_string()),
        replica_identity: None,
        inexact: None,
        columns: Vec::new(),
    }
}

/// The report for people, in columns.
fn readable(report: &Report) -> String {
    use std::fmt::Write as _;
    let mut text = format!("publication {}\n", report.publication);
    for table in &report.tables {
        let what = match &table.reason {
            Some(reason) => format!("not mirrored: {reason}"),
            None => format!("replica identity {}", table.replica_identity.unwrap_or_default()),
        };
        // Writing into a String cannot fail.
        let _ = writeln!(text, "\n{}  {what}", table.table);
        let width = |of: fn(&Column) -> usize| table.columns.iter().map(of).max().unwrap_or(0);
        let names = width(|column| column.column.len());
        let postgres = width(|column| column.postgres.len());
        let clickhouse = width(|column| column.clickhouse.len());
        for column in &table.columns {
            let notes = [(column.key, ", key"), (column.r#override, ", configured")];
            let notes: String = notes.iter().filter(|(is, _)| *is).map(|(_, note)| *note).collect();
            let read = match table.inexact {
                Some("park") => column.read.replace("read again", "parked"),
                _ => column.read.to_owned(),
            };
            let _ = writeln!(
                text,
                "  {:names$}  {:postgres$}  {:clickhouse$}  {read}{notes}",
                column.column, column.postgres, column.clickhouse
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_the_same_as_programs() {
        let column = |name: &str, read, key| Column {
            column: name.into(),
            key,
            postgres: "date".into(),
            clickhouse: "Date32".into(),
            read,
            r#override: !key,
        };
        let table = Listed {
            table: "public.t".into(),
            mirrored: true,
            reason: None,
            replica_identity: Some("full"),
            inexact: Some("park"),
            columns: vec![column("id", "from the log", true), column("long_name", "read again", false)],
        };
        let refused = refused(&TableName::new("public", "u"), &Refusal::PrimaryKey);
        let report = Report { job: "tables", publication: "platform".into(), tables: vec![table, refused] };
        let expected = "publication platform\n\n\
            public.t  replica identity full\n  \
            id         date  Date32  from the log, key\n  \
            long_name  date  Date32  parked, configured\n\n\
            public.u  not mirrored: it needs a primary key that is not deferrable\n";
        assert_eq!(readable(&report), expected);
    }
}
