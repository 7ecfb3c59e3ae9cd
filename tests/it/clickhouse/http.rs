//! Raw requests, as curl sends them: statuses, users, and what is refused.

use super::with_posts;
use crate::support::clickhouse_server::ClickHouseServer;

/// Status, error number and text of an answer.
async fn outcome(request: reqwest::RequestBuilder) -> (u16, Option<u32>, String) {
    let answer = request.send().await.expect("an answer");
    let code = answer
        .headers()
        .get("X-ClickHouse-Exception-Code")
        .map(|code| code.to_str().expect("a text").parse().expect("a number"));
    (answer.status().as_u16(), code, answer.text().await.expect("a text"))
}

#[tokio::test]
async fn statuses_follow_the_error_as_on_a_server() {
    let server = with_posts().await;
    for (sql, status, code) in [
        ("SELECT * FROM mirror.nothing", 404, 60),
        ("SELECT * FROM nowhere.posts", 404, 81),
        ("SELECT nofunction(1)", 404, 46),
        ("SELEC", 400, 62),
        ("", 400, 62),
        ("1 + 1", 400, 62),
        ("SELECT 1; SELECT 2", 400, 62),
        ("INSERT INTO mirror.posts FORMAT CSV\nx,y,z", 400, 27),
        ("INSERT INTO mirror.posts FORMAT NoFormat\n1", 404, 73),
        ("SELECT throwIf(1)", 500, 395),
        ("CREATE USER u", 403, 497),
        ("SELECT 1 INTO OUTFILE '/tmp/platform-test-outfile'", 500, 392),
        ("INSERT INTO mirror.posts FROM INFILE '/etc/passwd' FORMAT CSV", 500, 392),
        ("SET max_threads = 1", 501, 48),
        ("SELECT {missing:UInt8}", 500, 456),
    ] {
        let (seen, number, text) = outcome(server.post("").body(sql)).await;
        assert_eq!((seen, number), (status, Some(code)), "{sql}: {text}");
        assert!(text.starts_with(&format!("Code: {code}. DB::Exception: ")), "{text}");
        assert_eq!(outcome(server.post("").body("SELECT 42")).await, (200, None, "42\n".into()), "after {sql}");
    }
    assert!(!std::path::Path::new("/tmp/platform-test-outfile").exists());
    for (query, status, code) in [
        ("no_such_setting=1", 404, 115),
        ("database=nowhere", 404, 81),
        ("role=x", 404, 511),
        ("a%3D1%2Cb=1", 404, 115),
    ] {
        let (seen, number, text) = outcome(server.post(query).body("SELECT 1")).await;
        assert_eq!((seen, number), (status, Some(code)), "{query}: {text}");
    }
}

#[tokio::test]
async fn with_wait_end_of_query_even_a_late_error_is_a_status() {
    let server = ClickHouseServer::start().await;
    let sql = "SELECT number, throwIf(number = 4000000) FROM numbers(5000000)";
    let (status, code, _) = outcome(server.post("wait_end_of_query=1").body(sql)).await;
    assert_eq!((status, code), (500, Some(395)));
    // Without it the answer has begun: it ends in the error's block and a broken connection.
    let mut answer = server.post("").body(sql).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 200);
    let tag = answer.headers()["X-ClickHouse-Exception-Tag"].to_str().expect("a text").to_owned();
    let mut end = Vec::new();
    let broken = loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => {
                end.extend_from_slice(&chunk);
                end.drain(..end.len().saturating_sub(2000));
            }
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    let end = String::from_utf8_lossy(&end);
    assert!(broken, "a broken answer must not look whole");
    assert!(end.contains("Code: 395.") && end.ends_with(&format!("{tag}\r\n__exception__\r\n")), "{end}");
    // A good answer larger than memory's share comes whole, with its length and its counts.
    let answer =
        server.post("wait_end_of_query=1").body("SELECT number FROM numbers(5000000)").send().await.expect("an answer");
    let summary = answer.headers()["X-ClickHouse-Summary"].to_str().expect("a text").to_owned();
    assert!(summary.contains("\"result_rows\":\"5000000\""), "{summary}");
    let length: usize = answer.headers()["Content-Length"].to_str().expect("a text").parse().expect("a number");
    assert_eq!((answer.bytes().await.expect("bytes").len(), length), (38_888_890, 38_888_890));
}

#[tokio::test]
async fn headers_say_what_the_answer_is() {
    let server = with_posts().await;
    let request = server.post("query_id=mine&default_format=JSONEachRow").body("SELECT 1 AS a");
    let answer = request.send().await.expect("an answer");
    let header = |name: &str| answer.headers()[name].to_str().expect("a text").to_owned();
    assert_eq!(header("X-ClickHouse-Query-Id"), "mine");
    assert_eq!(header("X-ClickHouse-Format"), "JSONEachRow");
    assert_eq!(header("X-ClickHouse-Timezone"), "UTC");
    assert_eq!(header("Content-Type"), "application/x-ndjson; charset=UTF-8");
    assert!(!header("X-ClickHouse-Server-Display-Name").is_empty());
    assert_eq!(answer.text().await.expect("a text"), "{\"a\":1}\n");
    let insert =
        server.post("").body("INSERT INTO mirror.posts (id) VALUES (1), (2), (3)").send().await.expect("an answer");
    let summary = insert.headers()["X-ClickHouse-Summary"].to_str().expect("a text").to_owned();
    assert!(summary.contains("\"written_rows\":\"3\""), "{summary}");
    for path in ["/ping", "/", "/replicas_status"] {
        let answer = reqwest::get(format!("{}{path}", server.url())).await.expect("an answer");
        assert_eq!(answer.text().await.expect("a text"), "Ok.\n", "{path}");
    }
    assert_eq!(reqwest::get(format!("{}/play", server.url())).await.expect("an answer").status().as_u16(), 404);
}

#[tokio::test]
async fn only_the_right_password_opens_and_every_way_to_give_it_works() {
    let server = ClickHouseServer::start().await;
    let (user, password) = (ClickHouseServer::READER, ClickHouseServer::READER_PASSWORD);
    let client = reqwest::Client::new();
    let url = format!("{}/?query=SELECT%201", server.url());
    let encoded = password.replace(' ', "%20");
    for request in [
        client.get(&url).basic_auth(user, Some(password)),
        client.get(&url).header("X-ClickHouse-User", user).header("X-ClickHouse-Key", password),
        client.get(format!("{url}&user={user}&password={encoded}")),
    ] {
        assert_eq!(outcome(request).await, (200, None, "1\n".into()));
    }
    for request in [
        client.get(&url),
        client.get(&url).basic_auth(user, Some("wrong")),
        client.get(&url).basic_auth("nobody", Some(password)),
        client.get(&url).basic_auth(ClickHouseServer::USER, Some(password)),
        client.get(&url).basic_auth("", Some("")),
        client.get(&url).header("X-ClickHouse-User", user),
        client.get(&url).header("X-ClickHouse-User", user).basic_auth(user, Some(password)),
        client.get(&url).header("Authorization", "Bearer x"),
        // A large body is refused too, and the refusal can be read.
        client.post(&url).body(vec![b'x'; 4 << 20]),
    ] {
        let (status, code, text) = outcome(request).await;
        assert_eq!((status, code), (403, Some(516)), "{text}");
        assert!(!text.contains(password));
    }
    assert!(!server.log().contains(password), "passwords stay out of the log");
}

#[tokio::test]
async fn the_reader_cannot_write_however_it_asks() {
    let server = with_posts().await;
    server.run("INSERT INTO mirror.posts (id) VALUES (1)").await;
    let ask = |query: &str, sql: &str| {
        let (user, password) = (ClickHouseServer::READER, ClickHouseServer::READER_PASSWORD);
        outcome(server.post_as(user, password, query).body(sql.to_owned()))
    };
    for sql in ["SELECT count() FROM mirror.posts", "SELECT 1 SETTINGS max_threads = 1", "WITH 1 AS x SELECT x"] {
        assert_eq!(ask("max_threads=1&wait_end_of_query=1", sql).await, (200, None, "1\n".into()), "{sql}");
    }
    for sql in ["SHOW TABLES FROM mirror", "DESCRIBE mirror.posts", "EXPLAIN SELECT 1", "EXISTS mirror.posts"] {
        assert_eq!(ask("", sql).await.0, 200, "{sql}");
    }
    for sql in [
        "INSERT INTO mirror.posts (id) VALUES (2)",
        "INSERT INTO mirror.posts (id) SELECT 2",
        "WITH x AS (SELECT 2) INSERT INTO mirror.posts (id) SELECT 2",
        "ALTER TABLE mirror.posts DELETE WHERE 1",
        "DELETE FROM mirror.posts WHERE 1",
        "TRUNCATE TABLE mirror.posts",
        "DROP TABLE mirror.posts",
        "CREATE TABLE mirror.other (a UInt8) ENGINE = Memory",
        "OPTIMIZE TABLE mirror.posts FINAL",
        "DETACH TABLE mirror.posts",
        "RENAME TABLE mirror.posts TO mirror.gone",
        "KILL QUERY WHERE 1",
        "SYSTEM STOP MERGES",
        "CREATE FUNCTION f AS (x) -> x",
        "SELECT 1 SETTINGS readonly = 0",
        "SELECT 1; DROP TABLE mirror.posts",
        "INSERT INTO mirror.posts (id) VALUES (1); DROP TABLE mirror.posts",
    ] {
        for query in ["", "allow_ddl=1", "readonly=2", "readonly=1"] {
            let (status, code, text) = ask(query, sql).await;
            assert!(status >= 400 && matches!(code, Some(164 | 62)), "{sql} {query}: {status} {text}");
        }
        assert_eq!(ask("readonly=0", sql).await.1, Some(164), "readonly cannot be turned off");
    }
    for function in [
        "file('/etc/passwd', 'LineAsString')",
        "url('http://127.0.0.1:1/', 'CSV', 'a String')",
        "remote('127.0.0.1:1', system.one)",
        "postgresql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
        "mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
        "sqlite('/etc/passwd', 'b')",
    ] {
        let (status, code, text) = ask("", &format!("SELECT * FROM {function}")).await;
        assert_eq!((status, code), (403, Some(497)), "{function}: {text}");
        let (_, code, text) = outcome(server.post("").body(format!("SELECT * FROM {function}"))).await;
        assert_eq!(code, Some(497), "nor may the administrator: {function}: {text}");
    }
    assert_eq!(server.run("SELECT count(), max(id) FROM mirror.posts").await, "1\t1\n");
}

#[tokio::test]
async fn get_never_writes() {
    let server = with_posts().await;
    let url = format!("{}/?query=DROP%20TABLE%20mirror.posts", server.url());
    let request = reqwest::Client::new().get(&url).basic_auth(ClickHouseServer::USER, Some(ClickHouseServer::PASSWORD));
    assert_eq!(outcome(request).await.1, Some(164));
    assert_eq!(server.run("EXISTS mirror.posts").await, "1\n");
}

#[tokio::test]
async fn parameters_and_names_cannot_break_out() {
    let server = with_posts().await;
    for value in ["1; DROP TABLE mirror.posts", "1' OR '1'='1", "1 UNION ALL SELECT 2", "'", "\\", "{b:UInt8}"] {
        let encoded: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let (_, code, text) = outcome(server.post(&format!("param_a={encoded}")).body("SELECT {a:UInt8}")).await;
        assert_eq!(code, Some(457), "{value}: {text}");
        for query in [format!("database={encoded}"), format!("max_threads={encoded}"), format!("{encoded}=1")] {
            let (status, _, text) = outcome(server.post(&query).body("SELECT 1")).await;
            assert!(status >= 400, "{query}: {text}");
        }
        // As a text it is a text; as the name of a table it is only a name.
        let sql = "SELECT {a:String} = unhex({hex:String})";
        let hex: String = value.bytes().map(|byte| format!("{byte:02X}")).collect();
        let escaped: String = value.replace('\\', "\\\\").bytes().map(|byte| format!("%{byte:02X}")).collect();
        let found = outcome(server.post(&format!("param_a={escaped}&param_hex={hex}")).body(sql)).await;
        assert_eq!(found, (200, None, "1\n".into()), "{value}");
        let (_, code, text) =
            outcome(server.post(&format!("param_t={escaped}")).body("SELECT * FROM mirror.{t:Identifier}")).await;
        assert_eq!(code, Some(60), "{value}: {text}");
    }
    assert_eq!(server.run("EXISTS mirror.posts").await, "1\n");
}
