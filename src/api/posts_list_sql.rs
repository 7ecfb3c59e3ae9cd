//! The statements behind lists of posts. Values are bound; what is written into a statement comes from our own tables only.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Row};

use super::conditions::Count;
use super::cursor;
use super::post_json::Fields;
use super::post_sort::{Order, PlaceValue, Step};
use super::posts_sql::Bound;
use super::problem::{ApiError, ApiResult};

/// Which posts a list shows.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    /// Exact values of columns; the names are ours.
    pub equal: Vec<(&'static str, String)>,
    /// A hashtag that posts have.
    pub hashtag: Option<String>,
    /// A text that occurs in the content, in any case.
    pub text: Option<String>,
    /// First `posted_at`.
    pub posted_from: Option<DateTime<Utc>>,
    /// First `posted_at` that is too late.
    pub posted_to: Option<DateTime<Utc>>,
}

/// A part of a list.
#[derive(Debug)]
pub(super) struct Page<'a> {
    /// Which posts.
    pub filter: &'a Filter,
    /// In which order.
    pub order: &'a Order,
    /// Which members of them.
    pub fields: &'a Fields,
    /// Behind this place, or before it.
    pub from: Option<&'a [PlaceValue]>,
    /// Before the place instead of behind it; the rows then come last first.
    pub backward: bool,
    /// Rows at most.
    pub limit: i64,
}

impl Filter {
    /// A text that no other filter with an order has.
    pub(super) fn identity(&self, order: &Order) -> Vec<u8> {
        let moment = |moment: Option<DateTime<Utc>>| {
            moment.map_or_else(String::new, |moment| moment.timestamp_micros().to_string())
        };
        let mut parts =
            vec!["sentiment-social 2".to_owned(), order.text(), moment(self.posted_from), moment(self.posted_to)];
        for (name, value) in [("hashtag", &self.hashtag), ("text", &self.text)] {
            parts.extend(value.iter().flat_map(|value| [name.to_owned(), value.clone()]));
        }
        parts.extend(self.equal.iter().flat_map(|(name, value)| [(*name).to_owned(), value.clone()]));
        cursor::join(parts.iter().map(String::as_bytes))
    }

    /// LIKE's pattern of the text, in which no sign has a meaning.
    fn pattern(&self) -> Option<String> {
        self.text
            .as_ref()
            .map(|text| format!("%{}%", text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")))
    }

    fn conditions<'a>(&'a self, pattern: Option<&'a String>, bound: &mut Bound<'a>) -> String {
        let mut conditions = String::from("true");
        for (column, value) in &self.equal {
            let written = bound.add(Some((value, Type::TEXT)), |number| format!("${number}"));
            // Writing to a String cannot fail.
            let _ = write!(conditions, " and {column} = {written}");
        }
        for (operator, moment) in [(">=", &self.posted_from), ("<", &self.posted_to)] {
            if let Some(moment) = moment {
                let written = bound.add(Some((moment, Type::TIMESTAMPTZ)), |number| format!("${number}"));
                let _ = write!(conditions, " and posted_at {operator} {written}");
            }
        }
        if let Some(hashtag) = &self.hashtag {
            let written = bound.add(Some((hashtag, Type::TEXT)), |number| format!("${number}"));
            let _ = write!(conditions, " and hashtags @> array[{written}]");
        }
        if let Some(pattern) = pattern {
            let written = bound.add(Some((pattern, Type::TEXT)), |number| format!("${number}"));
            let _ = write!(conditions, " and content ilike {written}");
        }
        conditions
    }
}

/// The rows of a page: the columns of its fields, then the expressions of its order.
///
/// # Errors
/// The driver's.
pub(super) async fn rows(client: &impl GenericClient, page: &Page<'_>) -> Result<Vec<Row>, tokio_postgres::Error> {
    let pattern = page.filter.pattern();
    let mut bound = Bound::default();
    let mut conditions = page.filter.conditions(pattern.as_ref(), &mut bound);
    let steps: Vec<(&Step, bool)> = page.order.0.iter().map(|step| (step, step.descending != page.backward)).collect();
    if let Some(place) = page.from {
        let places: Vec<String> =
            place.iter().map(|value| bound.add(Some(value.bound()), |number| format!("${number}"))).collect();
        let _ = write!(conditions, " and {}", beyond(&steps, &places));
    }
    let limit = bound.add(Some((&page.limit, Type::INT8)), |number| format!("${number}"));
    let keys: Vec<&str> = steps.iter().map(|(step, _)| step.column.expression).collect();
    let order: Vec<String> = steps
        .iter()
        .map(|(step, descending)| format!("{} {}", step.column.expression, if *descending { "desc" } else { "asc" }))
        .collect();
    let sql = format!(
        "select {}, {} from public.sentiment_social where {conditions} order by {} limit {limit}",
        page.fields.columns(),
        keys.join(", "),
        order.join(", ")
    );
    client.query_typed(&sql, &bound.0).await
}

/// Whether a row comes behind a place. One comparison of rows, which an index can serve, where all steps go one way.
fn beyond(steps: &[(&Step, bool)], places: &[String]) -> String {
    let sign = |descending: bool| if descending { "<" } else { ">" };
    let first = steps.first().is_some_and(|(_, descending)| *descending);
    if steps.iter().all(|(_, descending)| *descending == first) {
        let keys: Vec<&str> = steps.iter().map(|(step, _)| step.column.expression).collect();
        return format!("({}) {} ({})", keys.join(", "), sign(first), places.join(", "));
    }
    let pairs: Vec<_> = steps.iter().zip(places).collect();
    pairs.into_iter().rev().fold(String::new(), |rest, ((step, descending), place)| {
        let key = step.column.expression;
        let further = format!("{key} {} {place}", sign(*descending));
        if rest.is_empty() { further } else { format!("({further} or ({key} = {place} and {rest}))") }
    })
}

/// How many posts a filter shows.
///
/// # Errors
/// The driver's, as a problem.
pub(super) async fn count(client: &impl GenericClient, filter: &Filter, how: Count) -> ApiResult<i64> {
    let pattern = filter.pattern();
    let mut bound = Bound::default();
    let conditions = filter.conditions(pattern.as_ref(), &mut bound);
    match how {
        Count::Exact => {
            let sql = format!("select count(*) from public.sentiment_social where {conditions}");
            Ok(client.query_typed_one(&sql, &bound.0).await?.try_get(0)?)
        }
        Count::Estimated => {
            let sql = format!("explain (format json) select 1 from public.sentiment_social where {conditions}");
            let plan: serde_json::Value = client.query_typed_one(&sql, &bound.0).await?.try_get(0)?;
            let rows = plan.pointer("/0/Plan/Plan Rows").and_then(serde_json::Value::as_i64);
            rows.ok_or_else(|| ApiError::internal("a plan without a number of rows"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(order: &str, backward: bool) -> String {
        let order = Order::parse(order).expect("an order");
        let steps: Vec<_> = order.0.iter().map(|step| (step, step.descending != backward)).collect();
        let places: Vec<String> = (1..=steps.len()).map(|number| format!("${number}")).collect();
        beyond(&steps, &places)
    }

    #[test]
    fn places_are_compared_step_by_step() {
        assert_eq!(written("newest", false), "(posted_at, id) < ($1, $2)");
        assert_eq!(written("newest", true), "(posted_at, id) > ($1, $2)");
        assert_eq!(
            written("-likes,platform", false),
            "(likes::int8 < $1 or (likes::int8 = $1 and (platform > $2 or (platform = $2 and id > $3))))"
        );
    }

    #[test]
    fn no_two_filters_have_one_identity() {
        let order = Order::parse("newest").expect("an order");
        let with =
            |column: &'static str, value: &str| Filter { equal: vec![(column, value.to_owned())], ..Filter::default() };
        let others = [
            Filter::default(),
            with("topic", "a"),
            with("author", "a"),
            with("topic", "b"),
            Filter { hashtag: Some("a".into()), ..Filter::default() },
            Filter { text: Some("a".into()), ..Filter::default() },
            Filter { posted_from: Some(DateTime::UNIX_EPOCH), ..Filter::default() },
            Filter { posted_to: Some(DateTime::UNIX_EPOCH), ..Filter::default() },
        ];
        let mut identities: Vec<_> = others.iter().map(|filter| filter.identity(&order)).collect();
        identities.push(Filter::default().identity(&Order::parse("oldest").expect("an order")));
        let count = identities.len();
        identities.sort();
        identities.dedup();
        assert_eq!(identities.len(), count);
    }

    #[test]
    fn patterns_have_no_meaning() {
        let filter = Filter { text: Some(r"50%_\x".into()), ..Filter::default() };
        assert_eq!(filter.pattern().as_deref(), Some(r"%50\%\_\\x%"));
    }
}
