-- summary: Posts by label and by platform over a span of time
-- description: One table of rows; `dimension` says what a row counts: `total` is everything, `label` one sentiment label,
-- description: `platform` one platform, `platform_label` one label on one platform. The columns that a row does not
-- description: distinguish are null. `share` is the row's part of all posts of the answer, `scored` the posts that have a score,
-- description: `mean_score` their mean, `likes`, `replies` and `shares` are sums.
-- table: sentiment_social
-- range: posted_at from to
-- param from DateTime required: first moment of posted_at that counts
-- param to DateTime required: first moment of posted_at that no longer counts
-- param platform String optional: only this platform
-- param topic String optional: only this topic
-- param lang String optional: only this language
-- param label Enum(positive,neutral,negative,mixed) optional: only this sentiment label
select
    multiIf(by_platform = 0 and by_label = 0, 'total', by_platform = 0, 'label', by_label = 0, 'platform', 'platform_label')
        as dimension,
    if(by_platform = 1, toNullable(platform), null) as platform,
    if(by_label = 1, toNullable(sentiment_label), null) as sentiment_label,
    posts,
    if(posts = 0, 0, round(posts / max(posts) over (), 6)) as share,
    scored,
    mean_score,
    likes,
    replies,
    shares
from (
    select
        s.platform as platform,
        s.sentiment_label as sentiment_label,
        1 - grouping(s.platform) as by_platform,
        1 - grouping(s.sentiment_label) as by_label,
        count() as posts,
        count(s.sentiment_score) as scored,
        round(avg(s.sentiment_score), 6) as mean_score,
        sum(s.likes) as likes,
        sum(s.replies) as replies,
        sum(s.shares) as shares
    from {rows} as s
    where ({platform:Nullable(String)} is null or s.platform = {platform:Nullable(String)})
        and ({topic:Nullable(String)} is null or s.topic = {topic:Nullable(String)})
        and ({lang:Nullable(String)} is null or s.lang = {lang:Nullable(String)})
        and ({label:Nullable(String)} is null or s.sentiment_label = {label:Nullable(String)})
    group by grouping sets ((), (s.sentiment_label), (s.platform), (s.platform, s.sentiment_label))
)
order by indexOf(['total', 'label', 'platform', 'platform_label'], dimension), platform, posts desc, sentiment_label
