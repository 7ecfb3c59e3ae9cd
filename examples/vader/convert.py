"""Turns the rated texts of the source package vaderSentiment 3.3.2 into posts: NDJSON for `platform import`, on stdout.

    python convert.py vaderSentiment-3.3.2.tar.gz > posts.ndjson

Nothing but Python's standard library is needed. The same package always gives the same posts.
"""

import io
import json
import sys
import tarfile
from datetime import datetime, timedelta, timezone
from decimal import Decimal

INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
# Each file has lines of an id, the mean rating of about 20 people from -4 to 4, and the text.
FILES = {
    "twitter": "tweets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "rottentomatoes": "movieReviewSnippets_GroundTruth.txt",
    "nytimes": "nytEditorialSnippets_GroundTruth.txt",
}
# The package says nothing about when a text was written: the posts are spread over 90 days in steps that visit every day.
FIRST = datetime(2014, 1, 1, tzinfo=timezone.utc)
SPAN_S = 90 * 86_400
STEP_S = 30 * 86_400 + 5_905


def label(rating: Decimal) -> str:
    if rating >= Decimal("0.5"):
        return "positive"
    return "negative" if rating <= Decimal("-0.5") else "neutral"


def texts(package: str):
    """(platform, id, rating, text) of every rated text."""
    with tarfile.open(package) as outer:
        inner = outer.extractfile(INNER)
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as archive:
            for platform, name in FILES.items():
                file = archive.extractfile(f"hutto_ICWSM_2014/{name}").read().decode("utf-8")
                for line in file.splitlines():
                    number, rating, text = line.split("\t", 2)
                    yield platform, number, Decimal(rating), text


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.stdout.reconfigure(encoding="utf-8")
    for position, (platform, number, rating, text) in enumerate(texts(sys.argv[1])):
        posted_at = FIRST + timedelta(seconds=position * STEP_S % SPAN_S)
        post = {
            "platform": platform,
            "post_id": number,
            "content": text.strip(),
            "lang": "en",
            "sentiment_label": label(rating),
            "sentiment_score": str((rating / 4).quantize(Decimal("0.001"))),
            "model_name": "human-raters",
            "posted_at": posted_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        print(json.dumps(post, ensure_ascii=False))


if __name__ == "__main__":
    main()
