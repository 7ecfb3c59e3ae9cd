-- summary: The topics, authors or hashtags with the most posts
-- description: One row a topic, author or hashtag, the greatest first; equal ones in the order of their names. Posts
-- description: without the property do not count; a post with several hashtags counts once for each.
-- table: sentiment_social
-- range: posted_at from to
-- param from DateTime required: first moment of posted_at that counts
-- param to DateTime required: first moment of posted_at that no longer counts
-- param by Enum(topics,authors,hashtags) required: what to count
-- param metric Enum(posts,likes,replies,shares) default posts: what decides the order
-- param limit UInt32 default 10 min 1 max 100: rows of the answer
-- param platform String optional: only this platform
-- param lang String optional: only this language
-- param label Enum(positive,neutral,negative,mixed) optional: only this sentiment label
select
    assumeNotNull(key) as name,
    count() as posts,
    round(avg(s.sentiment_score), 6) as mean_score,
    sum(s.likes) as likes,
    sum(s.replies) as replies,
    sum(s.shares) as shares
from {rows} as s
array join multiIf(
    {by:String} = 'topics', [s.topic],
    {by:String} = 'authors', [s.author],
    arrayDistinct(s.hashtags)) as key
where key is not null
    and ({platform:Nullable(String)} is null or s.platform = {platform:Nullable(String)})
    and ({lang:Nullable(String)} is null or s.lang = {lang:Nullable(String)})
    and ({label:Nullable(String)} is null or s.sentiment_label = {label:Nullable(String)})
group by key
order by
    multiIf({metric:String} = 'posts', toInt64(posts), {metric:String} = 'likes', likes, {metric:String} = 'replies', replies, shares) desc,
    name
limit {limit:UInt32}
