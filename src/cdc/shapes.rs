//! What the sink knows of the tables' shapes: read from PostgreSQL, compared with the mirrors, which are made to follow.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::decoder::{Decoder, Known};
use super::status::Status;
use crate::catalog::{Comparison, Evolution, Refusal, Table, compare};
use crate::config::Settings;
use crate::domain::TableName;
use crate::store::clickhouse::{ClickHouse, Error};
use crate::store::mirror;
use crate::store::table_states::{self, Stored, TableState};
use crate::store::{postgres, replication, table_shapes};

/// Reads the shapes of the published tables, once the catalog shows what `transactions` have changed, and makes their mirrors
/// follow. No batch may be under way: its rows have the shape of before.
pub(super) async fn refresh(
    settings: &Settings,
    clickhouse: &ClickHouse,
    status: &Status,
    decoder: &mut Decoder,
    transactions: &BTreeSet<u32>,
) -> anyhow::Result<()> {
    let pipeline = &settings.sink.pipeline;
    let client = postgres::connect(&settings.postgres, "platform sink").await?;
    replication::until_visible(&client, transactions).await?;
    let published = table_shapes::published(&client, pipeline, &settings.tables).await?;
    drop(client);
    let mut mirrors = mirror::mirrors(clickhouse).await?;
    let follow = Follow { clickhouse, pipeline, states: table_states::of_pipeline(clickhouse, pipeline).await? };
    let floors = mirror::floors(clickhouse).await?;
    let mut known = HashMap::new();
    let mut skipped = Vec::new();
    for (name, refusal) in published.refused {
        follow.refused(&name, &refusal).await?;
        skipped.push(format!("{name}: {refusal}"));
        known.insert(name, Known::Skipped);
    }
    for table in published.tables {
        let mirror = mirrors.remove(&table.name().mirror_name()).unwrap_or_default();
        let name = table.name().clone();
        let outcome = match compare(&mirror, &table) {
            Comparison::Follows(evolution) => {
                // Also when a column is gone: the view must lose it.
                let noted = table.relation().to_comment(&table.key_attnums()) == mirror.comment
                    && evolution.statements.is_empty();
                follow.follow(*evolution, !noted).await?
            }
            Comparison::Absent => Err("it is not loaded yet; the sink will see to it".to_owned()),
            Comparison::Replaced(why) => Err(format!("{why}; the sink will load it")),
            Comparison::Incompatible(why) => Err(follow.halted(&table, &why).await?),
        };
        match outcome {
            Ok(table) => {
                let floor = floors.get(&name.mirror_name()).copied().unwrap_or_default();
                known.insert(name, Known::Mirrored(table, floor));
            }
            Err(why) => {
                skipped.push(format!("{name}: {why}"));
                known.insert(name, Known::Skipped);
            }
        }
    }
    for table in &skipped {
        tracing::warn!(table, "not mirrored");
    }
    status.skipped(skipped);
    decoder.tables = known;
    Ok(())
}

struct Follow<'a> {
    clickhouse: &'a ClickHouse,
    pipeline: &'a str,
    states: std::collections::BTreeMap<String, Stored>,
}

impl Follow<'_> {
    fn stored(&self, name: &TableName) -> Option<&Stored> {
        self.states.get(&name.mirror_name())
    }

    /// Makes the mirror follow; `Err` says why its events are left out nevertheless.
    async fn follow(&self, evolution: Evolution, changed: bool) -> Result<Result<Arc<Table>, String>, Error> {
        let name = evolution.table.name().clone();
        let stored = self.stored(&name);
        if let Some(stored) = stored.filter(|stored| !stored.state.takes_events()) {
            return Ok(Err(format!("{}: {}; run `platform load {name}`", stored.state.name(), stored.reason)));
        }
        // A load that is under way looks for such a change itself when it ends.
        let loading = stored.is_some_and(|stored| stored.state == TableState::Loading);
        if let (Some(why), false) = (&evolution.reload, loading) {
            tracing::warn!(table = %name, reason = why, "the table will be loaded again");
            table_states::mark(self.clickhouse, self.pipeline, &name, TableState::Wanted, why, stored).await?;
        }
        if changed {
            mirror::evolve(self.clickhouse, &evolution).await?;
        }
        Ok(Ok(Arc::new(evolution.table)))
    }

    /// Halts a table that cannot follow, and says what mends it.
    async fn halted(&self, table: &Table, why: &str) -> Result<String, Error> {
        let name = table.name();
        let reason = format!("{why}; run `platform load {name}`");
        // What a load is making now is not there yet.
        if self.stored(name).is_none_or(|stored| stored.state != TableState::Loading) {
            tracing::error!(table = %name, reason, "halted: this table alone is not kept up to date");
            self.mark_halted(name, &reason).await?;
        }
        Ok(reason)
    }

    /// A table that was mirrored and cannot be any more.
    async fn refused(&self, name: &TableName, refusal: &Refusal) -> Result<(), Error> {
        if self.stored(name).is_none() {
            return Ok(());
        }
        self.mark_halted(name, &format!("{refusal}; then run `platform load {name}`")).await
    }

    async fn mark_halted(&self, name: &TableName, reason: &str) -> Result<(), Error> {
        table_states::mark(self.clickhouse, self.pipeline, name, TableState::Halted, reason, self.stored(name)).await
    }
}
