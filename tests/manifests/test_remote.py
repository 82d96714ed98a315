"""Remote files read like local ones, in few requests, and say so when they cannot."""

import os
import socket
import time
from email.utils import formatdate

import pytest

from clip2video_pipe.manifests import http, retries
from clip2video_pipe.manifests.addresses import Url
from clip2video_pipe.manifests.objects import list_objects
from clip2video_pipe.manifests.remote import BLOCK, open_remote
from clip2video_pipe.manifests.retries import Changed, LostConnection

CONTENT = os.urandom(5 * BLOCK + 12345)


@pytest.fixture
def film(web):
    web.files["/a film.mp4"] = CONTENT
    return Url(web.url("a%20film.mp4", "?signature=secret"))


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("length", [True, False])
def test_a_file_of_the_web_reads_like_any_other(web, film, ranges, length):
    web.knows_ranges, web.says_length = ranges, length
    with open_remote(film) as file:
        assert file.size == len(CONTENT) and file.seekable()
        assert file.read(10) == CONTENT[:10] and file.tell() == 10
        assert file.seek(-7, 2) == len(CONTENT) - 7 and file.read(100) == CONTENT[-7:] and file.read(1) == b""
        file.seek(0)
        assert file.readall() == CONTENT
        assert file.at(BLOCK - 1, 3) == CONTENT[BLOCK - 1 : BLOCK + 2]
    assert len(web.asked) < 10, "blocks are kept and read ahead"
    assert ranges or web.ranges.count(None) == 1, "a server without ranges sends it once"


def test_an_empty_file_is_empty(web):
    web.files["/x"] = b""
    with open_remote(Url(web.url("x"))) as file:
        assert file.size == 0 and file.read(5) == b"" and file.at(0, 5) == b""


def test_what_breaks_off_goes_on_where_it_stopped(web, film):
    with open_remote(film) as file:
        web.breaks, web.asked = [1 << 17] * 7, []  # seven times, each a little further: more often than there are waits
        assert file.at(0, BLOCK) == CONTENT[:BLOCK]
    assert web.ranges == [f"bytes={n << 17}-{BLOCK - 1}" for n in range(8)]


def test_a_server_without_ranges_that_breaks_off_starts_again(web, film):
    web.knows_ranges = False
    with open_remote(film) as file:
        web.breaks = [5, BLOCK]
        assert file.readall() == CONTENT


@pytest.mark.parametrize("trouble", [503, 500, 429, 0])
def test_trouble_that_passes_is_not_seen(web, film, trouble):
    web.statuses = [trouble] * 3
    with open_remote(film) as file:
        web.statuses = [trouble] * 3
        assert file.read(4) == CONTENT[:4]


@pytest.mark.parametrize("trouble", [503, 0])
def test_trouble_that_stays_is_a_lost_connection(web, film, trouble):
    with open_remote(film) as file:
        web.statuses = [trouble] * 4
        with pytest.raises(LostConnection, match="tried 4 times") as caught:
            file.read(4)
        assert file.error is caught.value and "secret" not in str(caught.value)
        asked = len(web.asked)
        with pytest.raises(OSError, match="could not be read before"):
            file.read(4)
        assert len(web.asked) == asked, "what was given up is not tried again by who reads on"


def test_a_host_that_gives_no_answer_is_not_waited_for_again_and_again(web):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = Url(f"http://127.0.0.1:{free.getsockname()[1]}/x.mp4?signature=secret")
        for times in ("tried 4 times", "tried once"):
            with pytest.raises(LostConnection, match=f"{times}: .*refused") as caught:
                open_remote(url)
            assert "secret" not in str(caught.value)


def test_waits_grow_and_a_server_may_ask_for_longer_ones(web, film, monkeypatch):
    slept = []
    monkeypatch.setattr(retries.time, "sleep", slept.append)
    monkeypatch.setattr(retries, "WAITS", (1.0, 2.0, 4.0))
    web.statuses, web.headers = [503, 503], {"Retry-After": "0"}
    open_remote(film).close()
    assert 0.5 <= slept[0] <= 1.5 and 1 <= slept[1] <= 3
    for said, low, high in (("7", 7, 7), ("999999", 30, 30), (formatdate(time.time() + 20, usegmt=True), 15, 21)):
        slept.clear()
        web.statuses, web.headers = [429], {"Retry-After": said}
        open_remote(film).close()
        assert low <= slept[0] <= high


@pytest.mark.parametrize(("status", "kind"), [(404, FileNotFoundError), (403, PermissionError), (401, PermissionError)])
def test_a_refusal_is_final(web, film, status, kind):
    web.statuses = [status]
    with pytest.raises(kind, match=f"the server says {status}"):
        open_remote(film)
    assert len(web.asked) == 1


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("other", [CONTENT[::-1], CONTENT[:-1]])
def test_a_file_that_changes_under_way_is_no_mixture(web, film, ranges, other):
    web.knows_ranges = ranges
    with open_remote(film) as file:
        web.files["/a film.mp4"] = other
        with pytest.raises(Changed):
            file.read(4)


def mark(url):
    with open_remote(url) as file:
        return file.mark


def test_the_mark_follows_the_content(web, film):
    first = mark(film)
    assert first and first == mark(film)
    web.files["/a film.mp4"] = CONTENT[::-1]
    assert mark(film) not in (first, None)
    web.says_etag = False
    assert mark(film) is None, "nothing tells when it changes"
    web.modified = formatdate(time.time() - 100, usegmt=True)
    assert web.modified in mark(film)
    web.modified = formatdate(time.time(), usegmt=True)
    assert mark(film) is None, "it may change again within the same second"


def test_a_certificate_that_does_not_hold_is_not_asked_for_again(monkeypatch):
    import ssl

    import requests

    tries = []

    def get(*_, **__):
        tries.append(1)
        raise requests.exceptions.SSLError(ssl.SSLCertVerificationError("self-signed certificate"))

    monkeypatch.setattr(http.requests.Session, "get", get)
    with pytest.raises(OSError, match="self-signed"):
        open_remote(Url("https://host/x"))
    assert len(tries) == 1


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_an_object_reads_like_a_file(s3, scheme):
    s3.put("50% #1.mp4", CONTENT)
    with open_remote(Url(f"{scheme}://bucket/50% #1.mp4")) as file:
        assert (file.size, file.read(3), file.at(BLOCK - 1, 2)) == (len(CONTENT), CONTENT[:3], CONTENT[BLOCK - 1 :][:2])
        file.seek(0)
        assert file.readall() == CONTENT and file.mark
        s3.put("50% #1.mp4", CONTENT[::-1])
        with pytest.raises(Changed):
            file.at(0, 4)
    with open_remote(Url(f"{scheme}://bucket/50% #1.mp4")) as again:
        assert again.mark != file.mark
    with pytest.raises(FileNotFoundError, match="no such object"):
        open_remote(Url(f"{scheme}://bucket/nothing"))
    with pytest.raises(OSError, match="folder"):
        open_remote(Url(f"{scheme}://bucket"))


def test_objects_are_listed_by_their_paths(s3):
    for name in ("clips/b.mp4", "clips/deep/a b.mp4", "clips2/c.mp4"):
        s3.put(name, b"x")
    query = f"endpoint_override={s3.address}&region=x"
    url = Url(f"s3://key:secret@bucket/clips/?{query}")
    assert [(name, found.full) for name, found in list_objects(url)] == [
        ("b.mp4", f"s3://key:secret@bucket/clips/b.mp4?{query}"),
        ("deep/a b.mp4", f"s3://key:secret@bucket/clips/deep/a b.mp4?{query}"),
    ]
    with pytest.raises(FileNotFoundError):
        list_objects(Url("s3://bucket/nothing"))
    with pytest.raises(FileNotFoundError, match="bucket"):
        list_objects(Url("s3://no-bucket/clips"))
    with pytest.raises(NotADirectoryError):
        list_objects(url.at("clips/b.mp4"))
