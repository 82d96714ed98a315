"""Addresses: what they name, how names are joined to them, and what of them people may see."""

from pathlib import Path

import pytest

from clip2video_pipe.manifests.addresses import Url, location, shown


@pytest.mark.parametrize(
    ("address", "name", "joined"),
    [
        ("s3://bucket", "a b.mp4", "s3://bucket/a b.mp4"),
        ("s3://bucket/clips/?region=x", "50%#1.mp4", "s3://bucket/clips/50%#1.mp4?region=x"),
        ("gs://user@bucket/clips", "x/y.mp4", "gs://user@bucket/clips/x/y.mp4"),
        ("https://host:8080/clips/", "a b/50%.mp4", "https://host:8080/clips/a%20b/50%25.mp4"),
        ("HTTPS://u:p@host?token=t", "é?.mp4", "https://u:p@host/%C3%A9%3F.mp4?token=t"),
    ],
)
def test_names_are_joined_before_the_query_and_quoted_for_the_web(address, name, joined):
    assert (Url(address) / name).full == joined


@pytest.mark.parametrize(
    ("address", "seen"),
    [
        ("https://me:secret@host/a%20b.mp4?signature=secret", "https://host/a%20b.mp4"),
        ("s3://key:secret@bucket/a b.mp4?region=secret", "s3://bucket/a b.mp4"),
        ("s3://key:sec/ret@bucket/a.mp4", "s3://..."),
        ("http://me:sec/ret@host/a.mp4", "http://..."),
        ("/a/local?path.mp4", "/a/local?path.mp4"),
    ],
)
def test_what_may_be_secret_is_not_shown(address, seen):
    assert shown(address) == seen
    if seen.endswith(".mp4") and "://" in seen:
        url = Url(address)
        assert "secret" not in f"{url} {url!r} {url.hashed()}"
        assert url.hashed() != Url(address.replace("=secret", "=other")).hashed()


@pytest.mark.parametrize(
    "address", ["http://", "http://[1/x", "http://host:x/", "s3:///key", "s3://", "http://h/a#t=1"]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError, match=r"has to name|'#'"):
        location(address)


def test_anything_else_is_a_path():
    assert location("http:/x") == Path("http:/x") and location("ftp://host/x") == Path("ftp://host/x")
