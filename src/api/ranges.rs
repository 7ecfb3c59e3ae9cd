//! How the rows of an endpoint's range are read: what is known of the tables' views of keys and times, kept for a moment.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::problem::ApiResult;
use crate::catalog::endpoint::Endpoint;
use crate::domain::TableName;
use crate::store::clickhouse::{ClickHouse, Error};
use crate::store::moments::{self, Moments};

/// Age of what is known that is still good. Whatever the columns of the view are by then, no answer is wrong for it: only slow,
/// or refused while a table is made anew.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// What is known, by table: as many as the endpoints have.
#[derive(Debug, Default)]
pub(super) struct Ranges(Mutex<HashMap<TableName, (Instant, Option<Moments>)>>);

impl Ranges {
    /// An endpoint's SELECT as ClickHouse gets it.
    ///
    /// # Errors
    /// ClickHouse's.
    pub(super) async fn statement(&self, clickhouse: &ClickHouse, endpoint: &Endpoint) -> ApiResult<String> {
        let moments = match endpoint.ranged_table() {
            Some((table, _)) => self.find(clickhouse, table).await?,
            None => None,
        };
        Ok(endpoint.statement(|table, range| moments::rows(table, moments.as_ref(), &range.column, &range.condition())))
    }

    async fn find(&self, clickhouse: &ClickHouse, table: TableName) -> Result<Option<Moments>, Error> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&table).cloned();
        if let Some((at, moments)) = known
            && at.elapsed() < GOOD_FOR
        {
            return Ok(moments);
        }
        let began = Instant::now();
        let moments = Moments::find(clickhouse, &table).await?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(table, (began, moments.clone()));
        Ok(moments)
    }
}
