-- summary: Posts a minute, hour or day, without gaps
-- description: One row a bucket of posted_at, from the bucket of `from` to the last one before `to`; a bucket without
-- description: posts has zeros and a null mean_score. `time` is the bucket's first moment in UTC.
-- table: sentiment_social
-- span: from to
-- param from DateTime required: first moment of posted_at that counts
-- param to DateTime required: first moment of posted_at that no longer counts
-- param interval Enum(minute,hour,day) default hour: length of a bucket
-- param platform String optional: only this platform
-- param topic String optional: only this topic
-- param lang String optional: only this language
-- param label Enum(positive,neutral,negative,mixed) optional: only this sentiment label
with
    transform({interval:String}, ['minute', 'hour', 'day'], [60, 3600, 86400], 3600) as step,
    (x -> toInt64(floor(toUnixTimestamp64Micro(x) / 1000000 / step))) as bucket_of
select
    fromUnixTimestamp64Second(bucket * step, 'UTC') as time,
    sum(n) as posts,
    sum(if(label = 'positive', n, 0)) as positive,
    sum(if(label = 'neutral', n, 0)) as neutral,
    sum(if(label = 'negative', n, 0)) as negative,
    sum(if(label = 'mixed', n, 0)) as mixed,
    round(sum(score) / nullIf(sum(scored), 0), 6) as mean_score
from (
    select
        bucket_of(s.posted_at) as bucket,
        s.sentiment_label as label,
        count() as n,
        toFloat64(ifNull(sum(s.sentiment_score), 0)) as score,
        count(s.sentiment_score) as scored
    from analytics.sentiment_social as s
    where s.posted_at >= {from:DateTime64(6, 'UTC')} and s.posted_at < {to:DateTime64(6, 'UTC')}
        and ({platform:Nullable(String)} is null or s.platform = {platform:Nullable(String)})
        and ({topic:Nullable(String)} is null or s.topic = {topic:Nullable(String)})
        and ({lang:Nullable(String)} is null or s.lang = {lang:Nullable(String)})
        and ({label:Nullable(String)} is null or s.sentiment_label = {label:Nullable(String)})
    group by bucket, label
    union all
    select arrayJoin(range(
            bucket_of({from:DateTime64(6, 'UTC')}),
            bucket_of({to:DateTime64(6, 'UTC')} - toIntervalMicrosecond(1)) + 1)), '', 0, 0, 0
)
group by bucket
order by bucket
