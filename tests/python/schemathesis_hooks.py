"""What schemathesis cannot know from the OpenAPI document of the API: each step says why it is there.

Only valid requests are changed. What is made wrong on purpose is sent as it was made.
"""

import datetime
import itertools
import os

import schemathesis
from hypothesis import strategies as st

NUMBERS = itertools.count()


@st.composite
def moments(draw):
    """RFC 3339 from 1900 to 2299 with at most microseconds: the years that both databases can hold."""
    year = draw(st.integers(1900, 2299))
    month, day = draw(st.integers(1, 12)), draw(st.integers(1, 28))
    hour, minute, second = draw(st.integers(0, 23)), draw(st.integers(0, 59)), draw(st.integers(0, 59))
    fraction = draw(st.sampled_from(["", ".5", ".123", ".000001"]))
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"


@st.composite
def dates(draw):
    """The same years; the last day is left out, so that it can have a next one."""
    return draw(st.dates(datetime.date(1900, 1, 1), datetime.date(2299, 12, 30))).isoformat()


schemathesis.openapi.format("date-time", moments())
schemathesis.openapi.format("date", dates())


def rounded(value):
    """Numbers have at most three decimals: `multipleOf: 0.001` is made of binary floats, which have more."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {name: item if name == "raw" else rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value


def mend_query(query):
    # A cursor is what an earlier page gave, so no made-up text is one: tests/it/api/listing_order.rs forges them.
    query.pop("cursor", None)
    # A range ends after it begins, which OpenAPI cannot say; a day is short enough for every interval.
    if isinstance(query.get("from"), str) and "to" in query:
        first = query["from"]
        day = datetime.date.fromisoformat(first[:10])
        following = min(day, datetime.date(2299, 12, 30)) + datetime.timedelta(days=1)
        query["to"] = following.isoformat() + first[10:]


def mend_headers(headers):
    # An Idempotency-Key stands for one request, so each request gets its own.
    if "Idempotency-Key" in headers:
        headers["Idempotency-Key"] = f"schemathesis-{os.getpid()}-{next(NUMBERS)}"
    # The coverage phase loses the quotes of the shortest entity tag, "0".
    for name in ("If-Match", "If-None-Match"):
        if str(headers.get(name, "")).isdigit():
            headers[name] = f'"{headers[name]}"'
    # A consistency token is what a write gave; tests/it/api/consistency.rs has those and others.
    headers.pop("X-Consistency-Token", None)


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if case.query:
        mend_query(case.query)
    if case.headers:
        mend_headers(case.headers)
    if isinstance(case.body, (dict, list)):
        case.body = rounded(case.body)
    # One day, or the first and the last one, which OpenAPI cannot say.
    if case.operation.path == "/v1/etl/runs" and isinstance(case.body, dict):
        case.body.pop("from", None)
        case.body.pop("to", None)
        if not isinstance(case.body.get("date"), str):
            case.body["date"] = "2014-01-01"
    # A key must not end before it is made.
    if case.operation.path == "/v1/keys" and isinstance(case.body, dict) and case.body.get("expires_at"):
        case.body["expires_at"] = "2299-01-01T00:00:00Z"
