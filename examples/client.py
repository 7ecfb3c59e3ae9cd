#!/usr/bin/env python3
"""A small client of the API with nothing but Python's standard library.

    . .platform/env && python3 examples/client.py

It writes a post twice under one Idempotency-Key, sees the write in ClickHouse by its consistency token, changes the post
only if nobody else has, and walks through a list.
"""

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid


class Problem(Exception):
    """An error of the API: RFC 9457, with a stable `code`."""

    def __init__(self, status, problem):
        super().__init__(f"{status} {problem['code']}: {problem['detail']}")
        self.status, self.code, self.problem = status, problem["code"], problem


class Client:
    """Calls the API, and repeats what the API says may be repeated."""

    def __init__(self, url, key, attempts=5):
        self.url, self.key, self.attempts = url, key, attempts

    def call(self, method, path, body=None, parameters=None, **headers):
        """Returns the answer's body and headers."""
        query = "?" + urllib.parse.urlencode(parameters) if parameters else ""
        request = urllib.request.Request(self.url + path + query, method=method)
        request.add_header("Authorization", f"Bearer {self.key}")
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", headers.get("Content_Type", "application/json"))
        for attempt in range(1, self.attempts + 1):
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    text = answer.read()
                    return json.loads(text) if text else None, answer.headers
            except urllib.error.HTTPError as error:
                problem = Problem(error.code, json.loads(error.read()))
                wait = error.headers.get("Retry-After")
                if wait is None or attempt == self.attempts:
                    raise problem from None
                time.sleep(int(wait))

    def pages(self, path, **parameters):
        """Every item of a list."""
        while True:
            page, _ = self.call("GET", path, parameters=parameters)
            yield from page["items"]
            if page["next"] is None:
                return
            parameters["cursor"] = page["next"]


def main():
    client = Client(os.environ["PLATFORM_API_URL"], os.environ["PLATFORM_API_KEY"])
    source = f"example-{uuid.uuid4()}"
    post = {
        "platform": source, "post_id": "1", "content": "It simply works.", "sentiment_label": "positive",
        "sentiment_score": "0.9", "posted_at": "2026-11-22T10:00:00Z",
    }
    key = str(uuid.uuid4())
    created, headers = client.call("POST", "/v1/sentiment-social", post, Idempotency_Key=key)
    repeated, _ = client.call("POST", "/v1/sentiment-social", post, Idempotency_Key=key)
    assert repeated["id"] == created["id"], "a repeated request creates nothing"

    # The token carries the write in PostgreSQL to the read in ClickHouse.
    token = headers["X-Consistency-Token"]
    span = {"from": "2026-11-22", "to": "2026-11-23", "platform": source}
    summary, headers = client.call(
        "GET", "/v1/analytics/summary", parameters=span, X_Consistency_Token=token, Prefer="wait=10"
    )
    total = next(row for row in summary["data"] if row["dimension"] == "total")
    print(f"ClickHouse has {total['posts']} post, as of {headers['X-Data-As-Of']}")
    assert total["posts"] == 1

    path = f"/v1/sentiment-social/{created['id']}"
    _, headers = client.call("PATCH", path, {"likes": 10}, Content_Type="application/merge-patch+json", If_Match='"1"')
    try:
        client.call("PATCH", path, {"likes": 11}, Content_Type="application/merge-patch+json", If_Match='"1"')
    except Problem as problem:
        print(f"a change on an old state is refused: {problem.code}")
        assert problem.code == "precondition-failed"

    posts = list(client.pages("/v1/sentiment-social", platform=source, limit=1))
    print(f"PostgreSQL has {len(posts)} post with {posts[0]['likes']} likes")
    client.call("DELETE", path, If_Match=headers["ETag"])


if __name__ == "__main__":
    main()
