//! What the API's own role in PostgreSQL can do: no more than the API needs.

use tokio_postgres::error::SqlState;

use super::{Api, unique};
use platform::store::postgres;

/// Everything that the role must be refused; `schema` is another's.
fn forbidden(schema: &str) -> Vec<String> {
    vec![
        // Other schemas and tables.
        format!("select * from {schema}.t"),
        format!("select * from public.{schema}"),
        format!("insert into public.{schema} values (1)"),
        "select * from public.platform_migrations".into(),
        "delete from public.platform_migrations".into(),
        "select * from pg_authid".into(),
        // Debezium's and the sink's things.
        "select * from platform.heartbeat".into(),
        "update platform.heartbeat set counter = 0".into(),
        "update platform.pipelines set paused_at = now()".into(),
        "select unavailable_placeholder from platform.pipelines".into(),
        "update platform.sinks set state = 'running'".into(),
        "drop publication platform".into(),
        "alter publication platform drop table public.sentiment_social".into(),
        "create publication mine for all tables".into(),
        "select pg_create_logical_replication_slot('mine', 'pgoutput')".into(),
        "select pg_drop_replication_slot('platform')".into(),
        "select * from pg_logical_slot_get_changes('platform', null, null)".into(),
        "set role debezium".into(),
        "set role platform_owner".into(),
        // Keys are made and revoked, never changed, revived or removed.
        "update platform.api_keys set scopes = '{admin}'".into(),
        "update platform.api_keys set sha256 = sha256".into(),
        "update platform.api_keys set expires_at = null".into(),
        "delete from platform.api_keys".into(),
        "delete from platform.requests".into(),
        // DDL.
        "truncate public.sentiment_social".into(),
        "drop table public.sentiment_social".into(),
        "alter table public.sentiment_social add column x int".into(),
        "alter table public.sentiment_social disable trigger all".into(),
        "create index on public.sentiment_social (author)".into(),
        "create table public.mine (a int)".into(),
        "create table platform.mine (a int)".into(),
        "create schema mine".into(),
        "create function public.mine() returns int language sql as 'select 1'".into(),
        "create function mine() returns int language c as 'x', 'y'".into(),
        "create extension dblink".into(),
        "create role mine".into(),
        "alter role platform_api superuser".into(),
        // The server's files, programs and others' sessions.
        "select pg_read_file('/etc/passwd')".into(),
        "select pg_ls_dir('.')".into(),
        "select lo_import('/etc/passwd')".into(),
        "copy public.sentiment_social to '/tmp/x'".into(),
        "copy (select 1) to program 'id'".into(),
        "alter system set work_mem = '1GB'".into(),
        "select pg_reload_conf()".into(),
        "set session_replication_role = replica".into(),
        "select pg_switch_wal()".into(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_of_the_api_can_do_only_what_it_needs() {
    let api = Api::start().await;
    let administrator = api.postgres().await;
    let schema = unique("private").replace('-', "_");
    administrator
        .batch_execute(&format!(
            "create schema {schema}; create table {schema}.t (a int); create table public.{schema} (a int)"
        ))
        .await
        .expect("made");
    let client = postgres::connect(&api.settings.postgres, "test").await.expect("connected");
    let user: String = client.query_one("select current_user::text", &[]).await.expect("a name").get(0);
    assert_eq!(user, "platform_api");
    for sql in &forbidden(&schema) {
        let error = client.batch_execute(sql).await.expect_err(sql);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{sql}: {error:?}");
    }
    let pid: i32 = administrator.query_one("select pg_backend_pid()", &[]).await.expect("a number").get(0);
    let error = client.execute("select pg_terminate_backend($1)", &[&pid]).await.expect_err("another's session");
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    administrator
        .batch_execute(&format!("drop schema {schema} cascade; drop table public.{schema}"))
        .await
        .expect("removed");
}
