"""What all tests share: a home of their own, one Ray for the session, and a small dataset."""

import contextlib
import hashlib
import importlib.util
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from clip2video_pipe.manifests import retries

# Before the first product of any test: runs in this process then have the same bits as those in others.
os.environ.setdefault("MKL_CBWR", "AUTO")
# As a run does for a cluster of its own.
os.environ.setdefault("RAY_enable_metrics_collection", "0")

settings.register_profile("no time limits", deadline=None)
settings.load_profile("no time limits")

GOLDEN = Path(__file__).parent / "golden"
SITE = Path(__file__).parent / "chaos" / "site"
SECRET = "hunter2/hunter2+hunter2"  # noqa: S105
MEDIA = Path(__file__).parents[2] / "shared" / "media"


class ByFile(LoadFileScheduling):
    """With `-n 2` a file's tests stay in one process, and those that start clusters in the same one."""

    def _split_scope(self, nodeid):
        file = super()._split_scope(nodeid)
        return "clusters" if "/hosts/" in file or file.endswith("test_workers.py") else file


def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    """A home folder without anyone's settings; the file keeps Ray from asking for a cloud's metadata server."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "ray_bootstrap_config.yaml").write_text("provider: {type: local}\n")
    before = os.environ.get("HOME")
    os.environ["HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["HOME"]
    else:
        os.environ["HOME"] = before


@pytest.fixture(scope="session")
def golden_inputs():
    """The module that makes the golden figures' inputs, and whole models' weights, from names and shapes."""
    spec = importlib.util.spec_from_file_location("golden_inputs", GOLDEN / "inputs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def media():
    """The real clips, which are not part of the product."""
    if not MEDIA.is_dir():
        pytest.skip(f"the real clips are not here: {MEDIA}")
    return MEDIA


@pytest.fixture(scope="session")
def ray_session(home):
    """One local Ray for all tests that need one: the engine uses the one that is there.

    Its workers have the faults that the file says which is in CHAOS_FILE; mostly it says nothing.
    """
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["CHAOS_FILE"] = str(home / "chaos.json")
    os.environ["PYTHONPATH"] = str(SITE)
    # The GPUs are pretended: Ray hands them out, and torch does not see them.
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(address="local", num_cpus=2, num_gpus=2, **quiet)
    del os.environ["PYTHONPATH"], os.environ["CHAOS_FILE"]
    yield ray
    ray.shutdown()


@pytest.fixture(scope="session")
def s3_server():
    spec = importlib.util.spec_from_file_location("s3_server", Path(__file__).parent / "chaos" / "s3_server.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.serving() as server:
        server.Fault = module.Fault
        yield server


@pytest.fixture
def s3(s3_server, monkeypatch):
    """`s3://bucket/...` and `gs://bucket/...` lie on a server, this one (a `Server`); nobody waits between tries."""
    from clip2video_pipe.manifests import buckets

    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    keys = {"AWS_ACCESS_KEY_ID": "a-key", "AWS_SECRET_ACCESS_KEY": SECRET, "GOOGLE_BEARER_TOKEN": SECRET}
    ends = dict.fromkeys(("AWS_ENDPOINT_URL", "GOOGLE_BASE_URL"), s3_server.address)
    for name, value in {**keys, **ends, "AWS_REGION": "us-east-1", "no_proxy": "*"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(retries, "WAITS", (0, 0, 0))
    monkeypatch.setattr(retries, "_silent", {})
    buckets.bucket.cache_clear()
    buckets._client.cache_clear()
    s3_server.reset()
    return s3_server


@pytest.fixture(scope="session")
def full_size_weights(tmp_path_factory, golden_inputs):
    """A checkpoint of ViT-B/32's size, every value made from its name."""
    import torch

    from clip2video_pipe.models.clip2video import Clip2Video
    from clip2video_pipe.models.presets import PRESETS, Variant

    with torch.device("meta"):
        shapes = {name: tuple(v.shape) for name, v in Clip2Video(PRESETS["vit-b-32"], Variant()).state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / "pytorch_model.bin.2"
    torch.save({name: torch.from_numpy(golden_inputs.array(name, shape)) for name, shape in shapes.items()}, path)
    return path


@dataclass
class Web:
    """A web server of this process: what it serves, how it fails, and what it was asked for."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)  # by path, with the first slash
    statuses: list[int] = field(default_factory=list)  # of the next answers, in place of the file; 0: none at all
    breaks: list[int] = field(default_factory=list)  # after how many bytes the next answers break off
    knows_ranges: bool = True
    says_length: bool = True
    says_etag: bool = True
    modified: str | None = None
    headers: dict[str, str] = field(default_factory=dict)  # sent with every refusal
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path and range

    def url(self, name: str, query: str = "") -> str:
        return f"{self.address}/{name}{query}"

    @property
    def ranges(self) -> list[str | None]:
        return [said for _, said in self.asked]


@pytest.fixture
def web(monkeypatch):
    """A `Web` that runs; nobody waits between tries."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(retries, "WAITS", (0, 0, 0))
    monkeypatch.setattr(retries, "_silent", {})
    says = Web()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            path, said = unquote(self.path.partition("?")[0]), self.headers["Range"]
            says.asked.append((path, said))
            status = says.statuses.pop(0) if says.statuses else 200 if path in says.files else 404
            if status != 200:
                self.refuse(status)
                return
            content = says.files[path]
            span = re.fullmatch(r"bytes=(\d+)-(\d+)", said or "") if says.knows_ranges else None
            start, stop = (int(span[1]), min(int(span[2]) + 1, len(content))) if span else (0, len(content))
            if span and start >= len(content):
                self.refuse(416, {"Content-Range": f"bytes */{len(content)}"})
                return
            body = content[start:stop]
            self.send_response(206 if span else 200)
            if span:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
            if says.says_length:
                self.send_header("Content-Length", str(len(body)))
            if says.says_etag:
                self.send_header("ETag", f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"')
            if says.modified:
                self.send_header("Last-Modified", says.modified)
            self.close_connection = bool(says.breaks) or not says.says_length
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body[: says.breaks.pop(0)] if says.breaks else body)

        def refuse(self, status, headers=None):
            if not status:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in (headers or says.headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # who asked has gone
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        says.address = f"http://127.0.0.1:{server.server_port}"
        yield says
        server.shutdown()


@pytest.fixture
def decoded_here(monkeypatch):
    """Videos are decoded in this process, so that what a test has put in place of something is there."""
    from clip2video_pipe.stages import frames
    from clip2video_pipe.stages.decoding import decode_segments

    def here(limits, path, segments, **how):
        return decode_segments(path, segments=segments, **how)

    monkeypatch.setattr(frames, "decode_apart", here)
