-- How far `platform import` has read a file, kept in the transaction of its rows. Only an import that was interrupted leaves
-- a row; it is used again while the file's first bytes are the same ones.
create table platform.imports (
    input         text not null,
    options       text not null,
    bytes         bigint not null,
    sha256        bytea not null check (octet_length(sha256) = 32),
    records       bigint not null,
    lines         bigint not null,
    rejects_bytes bigint not null,
    reasons_bytes bigint not null,
    updated_at    timestamptz not null default now(),
    primary key (input, options)
);
grant select, insert, update, delete on platform.imports to platform_etl;
