create schema platform;

-- One row whose counter rises by one: the proof that the log has no hole. Published, never mirrored.
create table platform.heartbeat (
    id                int primary key check (id = 1),
    counter           bigint not null,
    system_identifier text not null,
    timeline          int not null,
    beat_at           timestamptz not null
);

insert into platform.heartbeat
select 1, 0, (select system_identifier::text from pg_control_system()), (select timeline_id from pg_control_checkpoint()), now();

-- SHA-256 of the whole key, which is never stored; the prefix finds the row.
create table platform.api_keys (
    prefix     text primary key,
    sha256     bytea not null check (octet_length(sha256) = 32),
    scopes     text[] not null check (scopes <@ array['read', 'write', 'admin'] and scopes <> '{}'),
    label      text not null default '',
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz
);

-- The answer to a POST, stored in the transaction of its write.
create table platform.idempotency_keys (
    key_prefix   text not null,
    key          text not null check (octet_length(key) between 1 and 255),
    request_hash bytea not null,
    status       int not null,
    headers      jsonb not null,
    body         bytea not null,
    created_at   timestamptz not null default now(),
    primary key (key_prefix, key)
);
create index idempotency_keys_created_at on platform.idempotency_keys (created_at);

-- What a command asks of a running sink.
create table platform.requests (
    id          bigint generated always as identity primary key,
    pipeline    text not null,
    kind        text not null,
    arguments   jsonb not null default '{}',
    created_at  timestamptz not null default now(),
    finished_at timestamptz,
    outcome     jsonb
);

-- One row a pipeline. The placeholder stands in events for a TOAST value that did not change: random, so that no text of a
-- user is taken for it.
create table platform.pipelines (
    name                    text primary key,
    unavailable_placeholder text not null default 'platform-unavailable-' || gen_random_uuid()
);
insert into platform.pipelines (name) values ('platform');
