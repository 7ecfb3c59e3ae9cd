"""Drives `platform clickhouse` with clickhouse-connect as its users would. Exit 0 when everything holds.

usage: clickhouse_connect_check.py HOST PORT USER PASSWORD READER READER_PASSWORD
"""

import datetime
import decimal
import io
import re
import sys
import threading
import uuid

import clickhouse_connect
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError, ProgrammingError

HOST, PORT, USER, PASSWORD, READER, READER_PASSWORD = sys.argv[1:7]
CHECKS = []


def check(function):
    """Registers a check; its name says the behaviour."""
    CHECKS.append(function)
    return function


def connect(user=USER, password=PASSWORD, **options):
    return clickhouse_connect.get_client(host=HOST, port=int(PORT), username=user, password=password, **options)


def refused(code, action):
    """Runs `action`, which must fail with ClickHouse's error `code`."""
    try:
        action()
    except (DatabaseError, OperationalError, ProgrammingError) as error:
        assert re.search(rf"code:? {code}\b", str(error), re.IGNORECASE), error
        return
    raise AssertionError(f"error {code} was expected, there was none")


@check
def the_server_is_recognised():
    client = connect()
    assert client.server_version.startswith("26."), client.server_version
    assert str(client.server_tz) in ("UTC", "Etc/UTC"), client.server_tz
    assert client.ping()


ROWS = [
    (1, "plain", 0.1, None, decimal.Decimal("1.500"), datetime.datetime(2026, 1, 2, 3, 4, 5), ["a", "b"], uuid.UUID(int=1)),
    (2, "tab\t quote' newline\n \\ ✓", -1e300, "x", decimal.Decimal("-9.999"), datetime.datetime(1971, 1, 1), [], uuid.UUID(int=2)),
    (2**64 - 1, "", float("inf"), "", decimal.Decimal("0.000"), datetime.datetime(2100, 1, 1), ["\0"], uuid.UUID(int=2**128 - 1)),
]
COLUMNS = ["id", "text", "score", "maybe", "price", "at", "tags", "key"]


def make_table(client, table):
    client.command("CREATE DATABASE IF NOT EXISTS py")
    client.command(f"DROP TABLE IF EXISTS py.{table}")
    client.command(
        f"CREATE TABLE py.{table} (id UInt64, text String, score Float64, maybe Nullable(String), price Decimal(9, 3), "
        "at DateTime, tags Array(String), key UUID) ENGINE = MergeTree ORDER BY id"
    )


@check
def rows_come_back_as_they_went_with_every_compression():
    for compress in (False, "lz4", "zstd", "gzip"):
        client = connect(compress=compress)
        make_table(client, "typed")
        client.insert("typed", ROWS, column_names=COLUMNS, database="py")
        found = client.query("SELECT * FROM py.typed ORDER BY id").result_rows
        assert list(found) == ROWS, (compress, found)


@check
def parameters_are_values_never_sql():
    for form in (False, True):
        client = connect(form_encode_query_params=form)
        hostile = "'); DROP TABLE py.typed; -- {x:String} \\ \n\t"
        row = client.query("SELECT {a:String}, {b:Array(UInt8)}, {c:Nullable(Date)}",
                           parameters={"a": hostile, "b": [1, 2], "c": None}).result_rows[0]
        assert row == (hostile, [1, 2], None), row
        refused(457, lambda: client.query("SELECT {n:UInt8}", parameters={"n": "1 OR 1"}))


@check
def settings_belong_to_their_request_alone():
    client = connect()
    sql = "SELECT getSetting('max_threads'), getSetting('max_block_size')"
    before = client.query(sql).result_rows[0]
    assert client.query(sql, settings={"max_threads": 3, "max_block_size": 77}).result_rows[0] == (3, 77)
    assert client.query(sql).result_rows[0] == before
    refused(115, lambda: connect(settings={"no_such_setting": 1}).query("SELECT 1"))


@check
def errors_carry_their_number_and_the_next_answer_is_clean():
    client = connect()
    for _ in range(5):
        refused(60, lambda: client.query("SELECT * FROM py.no_such_table"))
        refused(62, lambda: client.query("SELEC 1"))
        refused(395, lambda: client.query("SELECT throwIf(number = 250000) FROM numbers(300000)"))
        assert client.query("SELECT 42").result_rows == [(42,)]


@check
def a_failure_in_the_middle_of_a_stream_is_seen():
    client = connect()
    seen = 0
    try:
        with client.query_row_block_stream("SELECT number, throwIf(number = 9000000) FROM numbers(10000000)") as stream:
            for block in stream:
                seen += len(block)
    except Exception as error:  # what it raises depends on where in a block the end comes
        assert 0 < seen < 10_000_000, seen
        assert "395" in str(error) or "throwIf" in str(error), error
    else:
        raise AssertionError(f"a part of {seen} rows passed for the whole")


@check
def a_million_rows_stream():
    client = connect()
    total = count = 0
    with client.query_column_block_stream("SELECT number FROM numbers(1000000)") as stream:
        for (column,) in stream:
            total += sum(column)
            count += len(column)
    assert (count, total) == (1_000_000, 499_999_500_000), (count, total)


@check
def raw_inserts_and_raw_queries_work():
    client = connect()
    client.command("DROP TABLE IF EXISTS py.raw")
    client.command("CREATE TABLE py.raw (a UInt32, b String) ENGINE = MergeTree ORDER BY a")
    client.raw_insert("py.raw", ["a", "b"], insert_block=b"1,x\n2,\"y\ny\"\n", fmt="CSV")
    client.raw_insert("py.raw", ["a", "b"], insert_block=io.BytesIO(b"3\tz\n"), fmt="TSV")
    assert client.raw_query("SELECT * FROM py.raw ORDER BY a", fmt="JSONCompactEachRow") == b'[1, "x"]\n[2, "y\\ny"]\n[3, "z"]\n'
    summary = client.insert("raw", [[4, "w"]], column_names=["a", "b"], database="py")
    assert summary.written_rows == 1, summary.summary
    assert client.command("SELECT count() FROM py.raw;") == 4
    client.command("INSERT INTO py.raw VALUES (5, 'v')")
    assert client.query("SELECT max(a) FROM py.raw").first_row == (5,)


@check
def a_database_is_chosen_by_the_client():
    client = connect()
    make_table(client, "chosen")
    chosen = connect(database="py")
    assert chosen.command("SELECT count() FROM chosen") == 0
    refused(81, lambda: connect(database="no_such_database"))


@check
def an_empty_result_keeps_its_columns():
    result = connect().query("SELECT 1 AS a, 'x' AS b WHERE 0")
    assert result.result_rows == [], result.result_rows
    assert connect().query("SELECT 1 AS a, 'x' AS b LIMIT 0").column_names == ("a", "b")


@check
def the_reader_reads_and_nothing_else():
    client = connect()
    make_table(client, "guarded")
    reader = connect(READER, READER_PASSWORD)
    assert reader.query("SELECT count() FROM py.guarded").result_rows == [(0,)]
    refused(164, lambda: reader.command("DROP TABLE py.guarded"))
    refused(164, lambda: reader.insert("guarded", ROWS, column_names=COLUMNS, database="py"))
    refused(164, lambda: reader.query("SELECT 1 SETTINGS readonly = 0"))
    refused(497, lambda: reader.query("SELECT * FROM file('/etc/passwd', 'LineAsString')"))
    assert client.query("SELECT count() FROM py.guarded").result_rows == [(0,)]
    refused(516, lambda: connect(READER, "wrong"))


@check
def many_clients_at_once_get_their_own_answers():
    failures = []

    def work(number):
        try:
            client = connect()
            for step in range(20):
                value = number * 1000 + step
                row = client.query("SELECT {v:UInt32}, getSetting('max_block_size')", parameters={"v": value},
                                   settings={"max_block_size": value + 1}).result_rows[0]
                assert row == (value, value + 1), row
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


def main():
    failed = 0
    for function in CHECKS:
        try:
            function()
            print(f"ok      {function.__name__}")
        except Exception as error:
            failed += 1
            print(f"FAILED  {function.__name__}: {type(error).__name__}: {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
