# FastAPI peer.  DRIVER=psycopg|asyncpg uvicorn api_fast:app --workers N --loop uvloop --http httptools
import os, asyncio, orjson
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict
import clickhouse_connect
DRIVER=os.environ.get('DRIVER','psycopg'); POOL=int(os.environ.get('POOL','16'))
DSN=os.environ['PEER_POSTGRES']
class Post(BaseModel):
    id:int; platform:str; author:str|None; content:str; sentiment:str; score:float|None; lang:str|None; tags:list[str]|None; metadata:dict|None; likes:int; shares:int; replies:int|None
    url:str|None; external_id:str|None; is_verified:bool; followers:int|None; topic:str|None; posted_at:datetime; created_at:datetime; updated_at:datetime
class NewPost(BaseModel):
    platform:str; author:str|None=None; content:str; sentiment:str; score:float|None=None; lang:str|None=None; tags:list[str]|None=None; metadata:dict|None=None; likes:int=0; shares:int=0; posted_at:datetime
class Page(BaseModel): items:list[Post]; next_cursor:int|None
class Sum(BaseModel): sentiment:str; count:int; avg_score:float|None
COLS='id,platform,author,content,sentiment,score::float8 as score,lang,tags,metadata,likes,shares,replies,url,external_id,is_verified,followers,topic,posted_at,created_at,updated_at'
class OJ(Response):
    media_type='application/json'
    def render(self,c): return orjson.dumps(c)
S={}
@asynccontextmanager
async def life(app):
    if DRIVER=='psycopg':
        from psycopg_pool import AsyncConnectionPool
        from psycopg.rows import dict_row
        async def conf(c): c.prepare_threshold=1
        S['p']=AsyncConnectionPool(DSN,min_size=POOL,max_size=POOL,open=False,configure=conf,kwargs=dict(autocommit=True,row_factory=dict_row)); await S['p'].open(wait=True)
    else:
        import asyncpg
        async def init(c): await c.set_type_codec('jsonb',encoder=lambda v: orjson.dumps(v).decode(),decoder=orjson.loads,schema='pg_catalog')
        S['p']=await asyncpg.create_pool(DSN,min_size=POOL,max_size=POOL,init=init)
    S['ch']=await clickhouse_connect.get_async_client(dsn=os.environ['PEER_CLICKHOUSE'],database='k',autogenerate_session_id=False,compress=False)
    yield
app=FastAPI(lifespan=life)
async def fetch(sql_pg,sql_a,args,one=False):
    if DRIVER=='psycopg':
        async with S['p'].connection() as c:
            cur=await c.execute(sql_pg,args,binary=True) if False else await c.execute(sql_pg,args)
            return await cur.fetchone() if one else await cur.fetchall()
    async with S['p'].acquire() as c:
        r=await c.fetchrow(sql_a,*args) if one else await c.fetch(sql_a,*args)
        return (dict(r) if r else None) if one else [dict(x) for x in r]
def out(m): return Response(m.model_dump_json(),media_type='application/json')
@app.get('/posts/{id}')
async def get(id:int):
    r=await fetch(f'select {COLS} from social where id=%s',f'select {COLS} from social where id=$1',(id,),True)
    if r is None: raise HTTPException(404)
    return OJ(Post(**r).model_dump())
@app.get('/posts')
async def lst(limit:int=Query(50,ge=1,le=200),cursor:int=0):
    r=await fetch(f'select {COLS} from social where id>%s order by id limit %s',f'select {COLS} from social where id>$1 order by id limit $2',(cursor,limit))
    return OJ(Page(items=r,next_cursor=r[-1]['id'] if len(r)==limit else None).model_dump())
INS='insert into posts_new(platform,author,content,sentiment,score,lang,tags,metadata,likes,shares,posted_at) values(%s) returning id'
@app.post('/posts',status_code=201)
async def post(p:NewPost):
    if DRIVER=='psycopg':
        from psycopg.types.json import Jsonb
        r=await fetch(INS%','.join(['%s']*11),None,(p.platform,p.author,p.content,p.sentiment,p.score,p.lang,p.tags,Jsonb(p.metadata),p.likes,p.shares,p.posted_at),True)
    else: r=await fetch(None,INS%','.join('$5::float8::numeric' if i==5 else f'${i}' for i in range(1,12)),(p.platform,p.author,p.content,p.sentiment,p.score,p.lang,p.tags,p.metadata,p.likes,p.shares,p.posted_at),True)
    return OJ({'id':r['id']},201)
@app.get('/analytics/summary')
async def summary(f:datetime=Query(alias='from'),to:datetime=Query()):
    r=await S['ch'].query('select sentiment,count(),avg(score) from k.mirror where posted_at>={f:DateTime64(6)} and posted_at<{t:DateTime64(6)} group by sentiment order by sentiment',parameters={'f':f,'t':to})
    return OJ([Sum(sentiment=a,count=b,avg_score=c).model_dump() for a,b,c in r.result_rows])
