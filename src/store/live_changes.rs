//! Changes of single posts, many in a statement: what `platform generate --live` writes beside new posts.

use super::posts::{PostWriter, other};

/// A change of a post's measures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// `platform` and `post_id`.
    pub key: (String, String),
    /// The new `sentiment_label`.
    pub label: &'static str,
    /// The new `sentiment_score`, in thousandths.
    pub score_thousandths: i32,
    /// The new `likes`.
    pub likes: i32,
    /// Days by which `posted_at` moves back.
    pub days_back: i32,
}

impl PostWriter {
    /// Changes posts inside the transaction; those that do not exist are left out. The number of those that did.
    ///
    /// # Errors
    /// The connection broke, or a value does not fit the table.
    pub async fn update(&self, updates: &[Update]) -> anyhow::Result<u64> {
        if updates.is_empty() {
            return Ok(0);
        }
        let (platforms, ids) = split(updates.iter().map(|update| &update.key));
        let labels: Vec<&str> = updates.iter().map(|update| update.label).collect();
        let column = |number: fn(&Update) -> i32| updates.iter().map(number).collect::<Vec<i32>>();
        let (scores, likes, days) = (
            column(|update| update.score_thousandths),
            column(|update| update.likes),
            column(|update| update.days_back),
        );
        let sql = "update public.sentiment_social t set sentiment_label = c.label, sentiment_score = c.score / 1000.0, \
                   likes = c.likes, posted_at = t.posted_at - make_interval(days => c.days) \
                   from unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::int[], $6::int[]) \
                   as c (platform, post_id, label, score, likes, days) \
                   where t.platform = c.platform and t.post_id = c.post_id";
        let changed = self.client.execute(sql, &[&platforms, &ids, &labels, &scores, &likes, &days]).await;
        changed.map_err(|error| other(&error))
    }

    /// Removes posts inside the transaction. The number of those that existed.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn delete(&self, keys: &[(String, String)]) -> anyhow::Result<u64> {
        if keys.is_empty() {
            return Ok(0);
        }
        let (platforms, ids) = split(keys.iter());
        let sql = "delete from public.sentiment_social t using unnest($1::text[], $2::text[]) as c (platform, post_id) \
                   where t.platform = c.platform and t.post_id = c.post_id";
        self.client.execute(sql, &[&platforms, &ids]).await.map_err(|error| other(&error))
    }
}

fn split<'a>(keys: impl Iterator<Item = &'a (String, String)>) -> (Vec<&'a str>, Vec<&'a str>) {
    keys.map(|(platform, post_id)| (platform.as_str(), post_id.as_str())).unzip()
}
