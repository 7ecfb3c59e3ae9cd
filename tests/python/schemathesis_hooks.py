"""What schemathesis cannot know from the OpenAPI document of the API: each hook says why it is there."""

import itertools

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
    # An offset could move the first and the last day out of the range.
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"


schemathesis.openapi.format("date-time", moments())


@schemathesis.hook
def map_query(context, query):
    """A cursor is what an earlier page gave, so no made-up text is one: refusals of them are tested in listing_order.rs."""
    if query:
        query.pop("cursor", None)
    return query


@schemathesis.hook
def map_headers(context, headers):
    """An Idempotency-Key stands for one request, so each gets its own; a consistency token is what a write gave."""
    if headers:
        if "Idempotency-Key" in headers:
            headers["Idempotency-Key"] = f"schemathesis-{next(NUMBERS)}"
        headers.pop("X-Consistency-Token", None)
    return headers


def rounded(value):
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {name: item if name == "raw" else rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value


@schemathesis.hook
def map_body(context, body):
    """Numbers have at most three decimals: `multipleOf: 0.001` is made of binary floats, which have more."""
    return rounded(body)
