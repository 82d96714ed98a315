"""Published weights are fetched whole and verified, from servers that break off, ignore ranges, or send other bytes."""

import fcntl
import hashlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from clip2video_pipe.models import sources
from clip2video_pipe.models.errors import WeightsError
from clip2video_pipe.models.fetching import fetch
from clip2video_pipe.models.sources import CACHE_VARIABLE, PUBLISHED, cached_path, find_clip

CONTENT = bytes(range(256)) * 4096  # 1 MiB
BLOCK = 1 << 16
SHA256 = hashlib.sha256(CONTENT).hexdigest()
WAITS = (0.0, 0.0)


@dataclass
class Server:
    """How the local server behaves, and the `Range` of each request that it had."""

    address: str = ""
    content: bytes = CONTENT
    breaks: list[int] = field(default_factory=list)  # for each request, how many bytes are sent before it breaks off
    statuses: list[int] = field(default_factory=list)  # what the next requests are answered with, in place of the file
    knows_ranges: bool = True
    says_length: bool = True
    asked: list[str | None] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.address}/clip/models/{SHA256}/ViT-B-32.pt"


@pytest.fixture
def server() -> Iterator[Server]:
    says = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            says.asked.append(asked)
            if says.statuses:
                self.send_error(says.statuses.pop(0))
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and says.knows_ranges else 0
            whole = len(says.content)
            if start >= whole:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{whole}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = says.content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
            if says.says_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: says.breaks.pop(0)] if says.breaks else body)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        says.address = f"http://127.0.0.1:{http.server_port}"
        yield says
        http.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache"


def get(server: Server) -> Path:
    path, _ = fetch("ViT-B/32", server.url, waits=WAITS)
    return path


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "clip").iterdir() if path.name != "ViT-B-32.pt")


def test_a_file_is_fetched_once(server: Server, cache: Path) -> None:
    shown: list[tuple[int, int | None]] = []
    path, fetched = fetch("ViT-B/32", server.url, report=lambda there, total: shown.append((there, total)))
    assert fetched and path == cache / "clip" / "ViT-B-32.pt" == find_clip("ViT-B/32")
    assert path.read_bytes() == CONTENT and leftovers(cache) == []
    assert shown[0] == (0, len(CONTENT)) and shown[-1] == (len(CONTENT), len(CONTENT))
    assert fetch("ViT-B/32", server.url) == (path, False)
    assert len(server.asked) == 1


def test_the_address_is_openais_and_its_path_holds_the_sha256() -> None:
    assert PUBLISHED["ViT-B/32"].url == (
        "https://openaipublic.azureedge.net/clip/models/"
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt"
    )


def test_a_transfer_that_breaks_off_half_way_goes_on_there(server: Server) -> None:
    half = len(CONTENT) // 2
    server.breaks = [half, BLOCK, 0]
    said: list[str] = []
    path, _ = fetch("ViT-B/32", server.url, note=said.append, waits=WAITS)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={half}-", f"bytes={half + BLOCK}-", f"bytes={half + BLOCK}-"]
    assert len(said) == 3 and "trying again in 0 s" in said[0]


def test_the_next_command_goes_on_where_the_last_one_stopped(server: Server, cache: Path) -> None:
    server.breaks = [3 * BLOCK + 5, 0, 0]
    with pytest.raises(WeightsError, match="keeps breaking off"):
        get(server)
    assert len(leftovers(cache)) == 1 and not cached_path("ViT-B/32").exists()
    server.asked.clear()
    assert get(server).read_bytes() == CONTENT
    assert server.asked == [f"bytes={3 * BLOCK}-"] and leftovers(cache) == []


def test_a_server_that_ignores_ranges_sends_all_of_it_again(server: Server) -> None:
    server.knows_ranges = False
    server.breaks = [4 * BLOCK]
    assert get(server).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={4 * BLOCK}-"]


def test_a_server_that_ignores_ranges_and_always_breaks_off_is_given_up(server: Server) -> None:
    server.knows_ranges = False
    server.breaks = [4 * BLOCK] * 10
    with pytest.raises(WeightsError, match="keeps breaking off"):
        get(server)
    assert len(server.asked) == 3  # once, and twice in vain: nothing new came


@pytest.mark.parametrize("there", [len(CONTENT), len(CONTENT) + 7])
def test_a_partial_file_as_long_as_the_whole_or_longer_ends_well(there: int, server: Server, cache: Path) -> None:
    (cache / "clip").mkdir(parents=True)
    (cache / "clip" / f"ViT-B-32.pt.{SHA256[:16]}.part").write_bytes((CONTENT + bytes(7))[:there])
    assert get(server).read_bytes() == CONTENT


@pytest.mark.parametrize("says_length", [True, False])
def test_wrong_bytes_are_named_and_removed(says_length: bool, server: Server, cache: Path) -> None:
    server.content, server.says_length = b"<html>please log in</html>", says_length
    found = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(WeightsError, match=f"wrong bytes: sha256 {found}, not {SHA256}; removed them"):
        get(server)
    assert leftovers(cache) == [] and not cached_path("ViT-B/32").exists()


def test_a_damaged_file_in_the_cache_is_replaced(server: Server) -> None:
    path = get(server)
    path.write_bytes(b"damaged")
    assert get(server) == path and path.read_bytes() == CONTENT


def test_without_a_sha256_in_the_address_the_names_own_counts(server: Server) -> None:
    with pytest.raises(WeightsError, match=f"not {PUBLISHED['ViT-B/32'].sha256}"):
        fetch("ViT-B/32", f"{server.address}/ViT-B-32.pt", waits=WAITS)


def test_a_busy_server_is_asked_again_and_a_refusal_is_final(server: Server) -> None:
    server.statuses = [503, 429]
    assert get(server).read_bytes() == CONTENT
    server.statuses, server.asked = [404], []
    cached_path("ViT-B/32").unlink()
    with pytest.raises(WeightsError, match="the server says 404 Not Found"):
        get(server)
    assert len(server.asked) == 1


def test_without_a_network_the_way_out_is_said_at_once(cache: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/{SHA256}/x.pt"
    with pytest.raises(WeightsError, match=r"127\.0\.0\.1 cannot be reached \(.*refused.*put it at .*or set") as error:
        fetch("ViT-B/32", url, waits=(60,))
    assert "\n" not in str(error.value) and str(cache) in str(error.value)
    with pytest.raises(WeightsError, match=r"nowhere\.invalid cannot be reached"):
        fetch("ViT-B/32", f"http://nowhere.invalid/{SHA256}/x.pt", waits=(60,))


@pytest.mark.parametrize("url", ["ftp://host/file", "/some/file", "http://", "http://[1/x"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(WeightsError, match="has to be an http or https address"):
        fetch("ViT-B/32", url)


def test_two_fetches_do_not_write_one_file(server: Server, cache: Path) -> None:
    (cache / "clip").mkdir(parents=True)
    with (cache / "clip" / f"ViT-B-32.pt.{SHA256[:16]}.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(WeightsError, match="another fetch is writing it"):
            get(server)


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, server: Server, cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(WeightsError, match="cannot be written"):
        get(server)


@pytest.mark.parametrize(("name", "said"), [("vit-b/32", "did you mean 'ViT-B/32'"), ("RN50", "known: ViT-B/32, ")])
def test_an_unknown_name_is_refused(name: str, said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        fetch(name)


def test_a_name_that_was_not_fetched_says_how(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="get it with: clip2video-pipe weights fetch ViT-L/14"):
        find_clip("ViT-L/14")
    with pytest.raises(WeightsError, match=r"no such file or folder.*did you mean 'ViT-B/32'"):
        find_clip("vit-b-32")
    with pytest.raises(WeightsError, match=r"no such file or folder \(relative paths start at [^;]*$"):
        find_clip("weights/clip.pt")


def test_the_cache_is_the_users_own_unless_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert sources.cache_folder().name == "clip2video-pipe"
