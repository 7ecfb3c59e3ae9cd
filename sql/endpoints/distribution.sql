-- summary: How posts spread over labels or over scores
-- description: `of=labels`: one row a sentiment label. `of=scores`: a histogram, one row for each of `bins` equal parts of the range
-- description: from -1 to 1; a part has its lower end and not its upper one, but for the last, which has both. Posts without a
-- description: score are in no part. Labels and parts without posts are there with 0. `share` is the row's part of all posts of the answer.
-- table: sentiment_social
-- range: posted_at from to
-- param from DateTime required: first moment of posted_at that counts
-- param to DateTime required: first moment of posted_at that no longer counts
-- param of Enum(labels,scores) default labels: what to spread over
-- param bins UInt32 default 20 min 1 max 200: parts of the histogram
-- param platform String optional: only this platform
-- param topic String optional: only this topic
-- param lang String optional: only this language
-- param label Enum(positive,neutral,negative,mixed) optional: only this sentiment label
select
    if({of:String} = 'labels', toNullable(key), null) as sentiment_label,
    if({of:String} = 'scores', toNullable(round(2 * bin / {bins:UInt32} - 1, 6)), null) as lower,
    if({of:String} = 'scores', toNullable(round(2 * (bin + 1) / {bins:UInt32} - 1, 6)), null) as upper,
    sum(n) as posts,
    if(sum(posts) over () = 0, 0, round(posts / sum(posts) over (), 6)) as share
from (
    -- Scores have three decimals: whole thousandths decide exactly where one belongs.
    select
        if({of:String} = 'labels', s.sentiment_label, '') as key,
        if({of:String} = 'labels', 0,
            least(intDiv((toInt64(ifNull(s.sentiment_score, 0) * 1000) + 1000) * toInt64({bins:UInt32}), 2000), toInt64({bins:UInt32}) - 1)) as bin,
        count() as n
    from {rows} as s
    where ({of:String} = 'labels' or s.sentiment_score is not null)
        and ({platform:Nullable(String)} is null or s.platform = {platform:Nullable(String)})
        and ({topic:Nullable(String)} is null or s.topic = {topic:Nullable(String)})
        and ({lang:Nullable(String)} is null or s.lang = {lang:Nullable(String)})
        and ({label:Nullable(String)} is null or s.sentiment_label = {label:Nullable(String)})
    group by key, bin
    union all
    select
        arrayJoin(if({of:String} = 'labels', ['positive', 'neutral', 'negative', 'mixed'], [''])) as key,
        toInt64(arrayJoin(range(if({of:String} = 'labels', 1, {bins:UInt32})))) as bin,
        0 as n
)
group by key, bin
order by indexOf(['positive', 'neutral', 'negative', 'mixed'], key), key, bin
