# One day of statistics by pandas (psycopg, groupby, clickhouse-connect insert), or by a GROUP BY in PostgreSQL and an insert.
# Arguments: pandas|postgres, the first moment of the day, the first of the next. Prints its own time, without the interpreter's start.
import json, os, resource, sys, time
import psycopg, pandas as pd, clickhouse_connect

PGDSN = os.environ["PEER_POSTGRES"]
HOST, PORT = os.environ["PEER_CLICKHOUSE"].rsplit(":", 1)
USER, PASSWORD = os.environ["PEER_USER"], os.environ["PEER_PASSWORD"]
WHO, A, Z = sys.argv[1:4]
DAY = A[:10]
cl = clickhouse_connect.get_client(host=HOST, port=int(PORT), username=USER, password=PASSWORD, database="k", compress=False, autogenerate_session_id=False)


def clear():
    cl.command(f"ALTER TABLE k.daily DROP PARTITION '{DAY}'")


def pand():
    with psycopg.connect(PGDSN) as c, c.cursor() as cur:
        cur.execute("select platform,sentiment,topic,score::float8 as score,likes,shares,author,posted_at from social where posted_at>=%s and posted_at<%s", (A, Z))
        df = pd.DataFrame(cur.fetchall(), columns=[d.name for d in cur.description])
    n = len(df)
    df["day"] = df.posted_at.dt.date
    g = df.groupby(["day", "platform", "sentiment", "topic"], observed=True, sort=False, dropna=False).agg(n=("likes", "size"), avg_score=("score", "mean"), likes=("likes", "sum"), shares=("shares", "sum"), authors=("author", "nunique")).reset_index()
    clear()
    cl.insert_df("daily", g)
    return n, len(g)


def pgagg():
    with psycopg.connect(PGDSN) as c:
        rows = c.execute("select (posted_at at time zone 'UTC')::date,platform,sentiment,topic,count(*),avg(score)::float8,sum(likes),sum(shares),count(distinct author) from social where posted_at>=%s and posted_at<%s group by 1,2,3,4", (A, Z)).fetchall()
    clear()
    cl.insert("daily", rows, column_names=["day", "platform", "sentiment", "topic", "n", "avg_score", "likes", "shares", "authors"])
    return sum(row[4] for row in rows), len(rows)


begun = time.time()
rows, groups = {"pandas": pand, "postgres": pgagg}[WHO]()
print(json.dumps(dict(seconds=time.time() - begun, rows=rows, groups=groups, peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)))
