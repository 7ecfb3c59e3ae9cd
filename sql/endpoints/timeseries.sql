-- summary: Posts a minute, hour or day, without gaps
-- description: One row a bucket of posted_at, from the bucket of `from` to the last one before `to`; `time` is the bucket's first
-- description: moment in UTC. With `group_by` each bucket has one row a platform, label, topic or language that has posts in the
-- description: span; `group` names it, and is null for posts that have none. A bucket without posts has zeros, or nulls with
-- description: `fill=null`; its mean_score is null.
-- table: sentiment_social
-- range: posted_at from to
-- param from DateTime required: first moment of posted_at that counts
-- param to DateTime required: first moment of posted_at that no longer counts
-- param interval Enum(minute,hour,day) default hour: length of a bucket
-- param group_by Enum(none,platform,label,topic,lang) default none: what to tell apart
-- param fill Enum(zero,null) default zero: what buckets without posts have
-- param platform String optional: only this platform
-- param topic String optional: only this topic
-- param lang String optional: only this language
-- param label Enum(positive,neutral,negative,mixed) optional: only this sentiment label
with
    multiIf({interval:String} = 'minute', 60, {interval:String} = 'day', 86400, 3600) as step,
    (x -> toInt64(floor(toUnixTimestamp64Micro(x) / 1000000 / step))) as bucket_of,
    -- Constants without a lambda: the gaps are filled between them.
    toInt64(floor(toUnixTimestamp64Micro({from:DateTime64(6, 'UTC')}) / 1000000 / step)) as first_bucket,
    toInt64(floor((toUnixTimestamp64Micro({to:DateTime64(6, 'UTC')}) - 1) / 1000000 / step)) + 1 as end_bucket,
    (x -> if({fill:String} = 'null' and posts_found = 0, null, toNullable(x))) as filled
select
    fromUnixTimestamp64Second(bucket * step, 'UTC') as time,
    key as group,
    filled(posts_found) as posts,
    filled(labels_found.1) as positive,
    filled(labels_found.2) as neutral,
    filled(labels_found.3) as negative,
    filled(labels_found.4) as mixed,
    round(score / nullIf(scored, 0), 6) as mean_score
from (
    select
        bucket,
        key,
        sum(n) as posts_found,
        (sumIf(n, label = 'positive'), sumIf(n, label = 'neutral'), sumIf(n, label = 'negative'), sumIf(n, label = 'mixed')) as labels_found,
        sum(score_sum) as score,
        sum(score_count) as scored
    from (
        select
            bucket_of(s.posted_at) as bucket,
            multiIf(
                {group_by:String} = 'platform', toNullable(s.platform),
                {group_by:String} = 'label', toNullable(s.sentiment_label),
                {group_by:String} = 'topic', s.topic,
                {group_by:String} = 'lang', s.lang,
                null) as key,
            s.sentiment_label as label,
            count() as n,
            toFloat64(ifNull(sum(s.sentiment_score), 0)) as score_sum,
            count(s.sentiment_score) as score_count
        from {rows} as s
        where ({platform:Nullable(String)} is null or s.platform = {platform:Nullable(String)})
            and ({topic:Nullable(String)} is null or s.topic = {topic:Nullable(String)})
            and ({lang:Nullable(String)} is null or s.lang = {lang:Nullable(String)})
            and ({label:Nullable(String)} is null or s.sentiment_label = {label:Nullable(String)})
        group by bucket, key, label
        union all
        -- Without groups the buckets are there even if no post is.
        select first_bucket, null, '', 0, 0, 0 where {group_by:String} = 'none'
    )
    group by bucket, key
    -- Each group for itself.
    order by key, bucket with fill from first_bucket to end_bucket
    settings use_with_fill_by_sorting_prefix = 1
)
order by time, group
