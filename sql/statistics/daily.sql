-- summary: Daily statistics, built by `platform etl` and by the refresher
-- description: One row a day, platform, topic, language and label, as `analytics.sentiment_daily` has it. `builds` says of
-- description: each day which build the rows are of, what it had seen, and when it was made; a day that is not in it
-- description: has not been built.
-- table: sentiment_daily
-- span: from to
-- param from Date required: first day, in UTC
-- param to Date required: the day after the last one
-- param platform String optional: only this platform
-- param topic String optional: only this topic
-- param lang String optional: only this language
-- param label Enum(positive,neutral,negative,mixed) optional: only this sentiment label
select
    day,
    platform,
    topic,
    lang,
    sentiment_label,
    posts,
    authors,
    mean_score,
    min_score,
    max_score,
    median_score,
    likes,
    replies,
    shares
from analytics.sentiment_daily
where day >= {from:Date32} and day < {to:Date32}
    and ({platform:Nullable(String)} is null or platform = {platform:Nullable(String)})
    and ({topic:Nullable(String)} is null or topic = {topic:Nullable(String)})
    and ({lang:Nullable(String)} is null or lang = {lang:Nullable(String)})
    and ({label:Nullable(String)} is null or sentiment_label = {label:Nullable(String)})
order by day, platform, topic, lang, sentiment_label
