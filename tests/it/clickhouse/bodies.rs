//! Bodies of every kind arrive as they were sent.

use std::io::{Read as _, Write as _};

use super::with_posts;
use crate::support::clickhouse_server::ClickHouseServer;

/// Beginnings that a parser of SQL might take for its own.
const BEGINNINGS: [&[u8]; 12] =
    [b"\n", b" ", b"\t\r\n", b"'", b"\"", b"`", b"\0", b"--", b"/*", b";", b"FORMAT CSV\n1", b"\xff\xfe"];

async fn with_binary() -> ClickHouseServer {
    let server = ClickHouseServer::start().await;
    server.run("CREATE DATABASE d").await;
    server.run("CREATE TABLE d.b (s FixedString(16)) ENGINE = MergeTree ORDER BY tuple()").await;
    server
}

fn value(beginning: &[u8]) -> [u8; 16] {
    let mut value = *b"................";
    value[..beginning.len()].copy_from_slice(beginning);
    value
}

async fn stored(server: &ClickHouseServer) -> Vec<u8> {
    let answer = server.post("").body("SELECT s FROM d.b FORMAT RowBinary").send().await.expect("an answer");
    answer.bytes().await.expect("bytes").to_vec()
}

#[tokio::test]
async fn binary_rows_arrive_unchanged_whatever_they_begin_with() {
    let server = with_binary().await;
    for beginning in BEGINNINGS {
        let value = value(beginning);
        for (format, block) in [
            ("RowBinary", value.to_vec()),
            // One column, one row, its name, its type, the value.
            ("Native", [b"\x01\x01\x01s\x0fFixedString(16)".as_slice(), &value].concat()),
        ] {
            let sql = format!("INSERT INTO d.b FORMAT {format}");
            // The statement in the URL, the data in the body; both in the body; through the crate.
            server.run("TRUNCATE TABLE d.b").await;
            let url = format!("query={}", sql.replace(' ', "%20"));
            let answer = server.post(&url).body(block.clone()).send().await.expect("an answer");
            assert!(answer.status().is_success(), "{}", answer.text().await.expect("a text"));
            let both = [sql.as_bytes(), b"\n", &block].concat();
            let answer = server.post("").body(both).send().await.expect("an answer");
            assert!(answer.status().is_success(), "{}", answer.text().await.expect("a text"));
            let mut insert = server.client().insert_formatted_with(sql);
            insert.send(block.into()).await.expect("sent");
            insert.end().await.expect("stored");
            assert_eq!(stored(&server).await, value.repeat(3), "{format} {beginning:?}");
        }
    }
}

#[tokio::test]
async fn the_url_and_the_body_are_one_text() {
    let server = with_posts().await;
    let answer = server.post("query=SELECT%201%20%2B").body("2").send().await.expect("an answer");
    assert_eq!(answer.text().await.expect("a text"), "3\n");
    for (url, body) in [
        ("query=INSERT%20INTO%20mirror.posts%20(id)", "FORMAT CSV\n1\n"),
        ("query=INSERT%20INTO%20mirror.posts%20(id)%20VALUES", "(2),(3)"),
        ("query=INSERT%20INTO%20mirror.posts%20(id)%20VALUES%20(4)", ""),
        ("", "insert into mirror.posts (id) settings async_insert=0 format JSONEachRow {\"id\":5}\n{\"id\":6}"),
        ("", "/* FORMAT CSV */ INSERT INTO mirror.posts (id) VALUES (7), (4 + 4);"),
        ("", "INSERT INTO mirror.posts (id) SELECT 9 WHERE 1"),
        ("param_t=posts", "INSERT INTO mirror.{t:Identifier} (id) FORMAT TSV\n10\n"),
    ] {
        let answer = server.post(url).body(body).send().await.expect("an answer");
        assert!(answer.status().is_success(), "{url} {body}: {}", answer.text().await.expect("a text"));
    }
    assert_eq!(
        server.run("SELECT groupArray(id) FROM (SELECT id FROM mirror.posts ORDER BY id)").await,
        "[1,2,3,4,5,6,7,8,9,10]\n"
    );
}

#[tokio::test]
async fn http_encodings_work_both_ways() {
    let server = with_posts().await;
    let csv = "INSERT INTO mirror.posts (id, text) FORMAT CSV\n1,\"x\"\n";
    let pack = |encoding: &str| -> Vec<u8> {
        match encoding {
            "gzip" => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(csv.as_bytes()).expect("packed");
                encoder.finish().expect("packed")
            }
            "deflate" => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(csv.as_bytes()).expect("packed");
                encoder.finish().expect("packed")
            }
            "zstd" => zstd::encode_all(csv.as_bytes(), 1).expect("packed"),
            _ => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                encoder.write_all(csv.as_bytes()).expect("packed");
                encoder.finish().expect("packed")
            }
        }
    };
    for encoding in ["gzip", "deflate", "zstd", "lz4"] {
        let request = server.post("").header("Content-Encoding", encoding).body(pack(encoding));
        let answer = request.send().await.expect("an answer");
        assert!(answer.status().is_success(), "{encoding}: {}", answer.text().await.expect("a text"));
        let sql = "SELECT number, repeat('text', 10) FROM numbers(300000)";
        let answer = server.post("").header("Accept-Encoding", encoding).body(sql).send().await.expect("an answer");
        assert_eq!(answer.headers()["Content-Encoding"], encoding);
        let packed = answer.bytes().await.expect("bytes");
        let mut text = String::new();
        let mut reader: Box<dyn std::io::Read> = match encoding {
            "gzip" => Box::new(flate2::read::GzDecoder::new(&packed[..])),
            "deflate" => Box::new(flate2::read::ZlibDecoder::new(&packed[..])),
            "zstd" => Box::new(zstd::Decoder::new(&packed[..]).expect("a decoder")),
            _ => Box::new(lz4_flex::frame::FrameDecoder::new(&packed[..])),
        };
        reader.read_to_string(&mut text).expect("unpacked");
        assert_eq!(text.lines().count(), 300_000, "{encoding}");
        assert!(packed.len() * 4 < text.len(), "{encoding} packs");
    }
    assert_eq!(server.run("SELECT count() FROM mirror.posts").await, "4\n");
    let answer = server.post("").header("Content-Encoding", "br").body("x").send().await.expect("an answer");
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["X-ClickHouse-Exception-Code"]),
        (415, &"779".parse().expect("a value"))
    );
}

/// ClickHouse's own blocks, made by an independent implementation: LZ4 by the crate's insert, here by hand for ZSTD.
fn block(method: u8, data: &[u8], unpacked: usize) -> Vec<u8> {
    let mut block = vec![method];
    block.extend_from_slice(&u32::try_from(data.len() + 9).expect("small").to_le_bytes());
    block.extend_from_slice(&u32::try_from(unpacked).expect("small").to_le_bytes());
    block.extend_from_slice(data);
    let checksum = cityhash_rs::cityhash_102_128(&block).rotate_right(64).to_le_bytes();
    [checksum.to_vec(), block].concat()
}

#[tokio::test]
async fn clickhouses_own_blocks_work_both_ways() {
    let server = with_posts().await;
    let rows = b"1,a\n2,b\n";
    let url = "decompress=1&query=INSERT%20INTO%20mirror.posts%20(id,text)%20FORMAT%20CSV";
    let lz4 = block(0x82, &lz4_flex::block::compress(rows), rows.len());
    let zstd = block(0x90, &zstd::bulk::compress(rows, 1).expect("packed"), rows.len());
    let answer = server.post(url).body([lz4.clone(), zstd].concat()).send().await.expect("an answer");
    assert!(answer.status().is_success(), "{}", answer.text().await.expect("a text"));
    assert_eq!(server.run("SELECT count() FROM mirror.posts").await, "4\n");

    let mut damaged = lz4;
    damaged[30] ^= 1;
    let answer = server.post(url).body(damaged).send().await.expect("an answer");
    assert_eq!(answer.headers()["X-ClickHouse-Exception-Code"], "271");
    assert_eq!(server.run("SELECT count() FROM mirror.posts").await, "4\n", "nothing of a damaged body is stored");

    let sql = "SELECT number FROM numbers(1000000)";
    let answer = server.post("compress=1").body(sql).send().await.expect("an answer");
    let packed = answer.bytes().await.expect("bytes");
    let (mut at, mut text) = (0, Vec::new());
    while at < packed.len() {
        let size =
            |at: usize| usize::try_from(u32::from_le_bytes(packed[at..at + 4].try_into().expect("4"))).expect("fits");
        let (length, unpacked) = (size(at + 17), size(at + 21));
        let block = &packed[at + 16..at + 16 + length];
        assert_eq!(packed[at..at + 16], cityhash_rs::cityhash_102_128(block).rotate_right(64).to_le_bytes());
        text.extend(lz4_flex::block::decompress(&block[9..], unpacked).expect("unpacked"));
        at += 16 + length;
    }
    assert_eq!(text, (0..1_000_000).map(|number| format!("{number}\n")).collect::<String>().into_bytes());
}

#[tokio::test]
async fn every_format_gives_the_same_rows_however_large_the_answer() {
    let server = ClickHouseServer::start().await;
    // Several blocks, so that pieces are put together; names that need quotes.
    let sql = "SELECT number AS `a,\"\n\tb`, toString(number) AS s FROM numbers(200000)";
    for format in [
        "CSVWithNames",
        "TSVWithNamesAndTypes",
        "JSONCompactEachRowWithNames",
        "RowBinaryWithNamesAndTypes",
        "Native",
        "JSON",
    ] {
        let streamed = server.post("").body(format!("{sql} FORMAT {format}")).send().await.expect("an answer");
        assert_eq!(streamed.headers()["X-ClickHouse-Format"], format);
        let streamed = streamed.bytes().await.expect("bytes");
        // With one block there is one piece: nothing to put together.
        let whole = format!("{sql} FORMAT {format} SETTINGS max_block_size = 1000000");
        let whole = server.post("").body(whole).send().await.expect("an answer").bytes().await.expect("bytes");
        if format == "JSON" || format == "Native" {
            // Their statistics and blocks differ; what they say is compared by reading them back.
            let back = |bytes: bytes::Bytes| {
                let url = format!("query=INSERT%20INTO%20d.t%20FORMAT%20{format}");
                server.post(&url).body(bytes).send()
            };
            if format == "Native" {
                server.run("CREATE DATABASE d").await;
                server.run("CREATE TABLE d.t (`a,\"\n\tb` UInt64, s String) ENGINE = MergeTree ORDER BY s").await;
                assert!(back(streamed).await.expect("an answer").status().is_success());
                assert_eq!(server.run("SELECT count(), sum(toUInt64(s)) FROM d.t").await, "200000\t19999900000\n");
            } else {
                let rows: serde_json::Value = serde_json::from_slice(&streamed).expect("one document");
                assert_eq!(rows["data"].as_array().expect("rows").len(), 200_000);
            }
        } else {
            assert_eq!(streamed, whole, "{format}");
        }
    }
    let totals =
        "SELECT number % 2 AS a, count() FROM numbers(10) GROUP BY a WITH TOTALS ORDER BY a FORMAT CSVWithNames";
    assert_eq!(server.run(totals).await, "\"a\",\"count()\"\n0,5\n1,5\n\n0,10\n");
}
