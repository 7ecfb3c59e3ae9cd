-- summary: Posts, authors and sentiment of an hour by platform, topic, language and label.
-- table: sentiment_social
-- bucket: hour(posted_at)
-- keys: hour, platform, topic, lang, sentiment_label
-- rows: sum(posts)
-- check scores: ifNull(sum(toInt64(sentiment_score * 1000)), 0)
--     postgres: coalesce(sum(sentiment_score) * 1000, 0)::bigint
-- check scored: count(sentiment_score)
-- check labels: arrayStringConcat(arraySort(groupUniqArray(sentiment_label)), ',')
--     postgres: coalesce(string_agg(distinct sentiment_label collate "C", ',' order by sentiment_label collate "C"), '')
-- check authors: uniqExact(author)
--     postgres: count(distinct author)
-- check engagement: sum(likes) + sum(replies) + sum(shares)
--     postgres: coalesce(sum(likes) + sum(replies) + sum(shares), 0)

-- Scores have three decimals: they are added up as whole thousandths. The mean is rounded to six decimals, halves away
-- from zero, as PostgreSQL's round(avg(sentiment_score), 6) does.
select
    hour,
    platform,
    topic,
    lang,
    sentiment_label,
    posts,
    authors,
    if(scored = 0, null, toDecimal64(sign(thousandths) * intDiv(abs(thousandths) * 2000 + scored, 2 * scored), 6) / 1000000) as mean_score,
    min_score,
    max_score,
    median_score,
    likes,
    replies,
    shares
from (
    select
        {hour} as hour,
        platform,
        topic,
        lang,
        sentiment_label,
        count() as posts,
        uniqExact(author) as authors,
        count(sentiment_score) as scored,
        ifNull(sum(toInt64(sentiment_score * 1000)), 0) as thousandths,
        min(sentiment_score) as min_score,
        max(sentiment_score) as max_score,
        -- Of an even number of scores the lower of the two in the middle: PostgreSQL's percentile_disc(0.5).
        quantileExactLow(0.5)(sentiment_score) as median_score,
        sum(source.likes) as likes,
        sum(source.replies) as replies,
        sum(source.shares) as shares
    from {source} as source
    group by hour, platform, topic, lang, sentiment_label
)
