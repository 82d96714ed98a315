"""The page's API: it finds what the pipeline does, serves the corpus' videos and nothing else, refuses in words."""

import asyncio
import contextlib
import itertools
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pyarrow.parquet as pq
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import booleans
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from clip2video_pipe.pipeline import serve_command
from clip2video_pipe.pipeline.cli import main
from clip2video_pipe.pipeline.config import load_config
from clip2video_pipe.pipeline.errors import INTERRUPTED, RequestError
from clip2video_pipe.pipeline.plan import make_plan
from clip2video_pipe.pipeline.serve import batching, connections
from clip2video_pipe.pipeline.serve.app import create_app
from clip2video_pipe.pipeline.serve.library import Library
from clip2video_pipe.pipeline.serve.limits import HEADERS, Rates
from clip2video_pipe.stages.datasets.shapes import write_clips

HOSTILE = "<script>alert('x')</script>\"&"
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
CONFIG = """\
name: served
dataset: {{kind: table, path: "{clips}/rows.jsonl", root: "{clips}"}}
model: {{preset: tiny, seed: 0}}
sampling: {{max_frames: 4}}
embed: {{precision: float32}}
score: {{ties: pessimistic}}
run: {{engine: inline, shard_items: 4}}
store: "{store}"
report: false
"""


class Served:
    """A corpus of six clips in two folders, one of them with a hostile name, that was run, and its API.

    A seventh video is a copy of one of them, an eighth a part of another, which says that it is longer.
    """

    def __init__(self, folder):
        self.clips, self.store, self.config = folder / "clips", folder / "store", folder / "served.yaml"
        write_clips(self.clips, 6, 0, seconds=0.5, size=(64, 48), fps=10)
        rows = [json.loads(line) for line in (self.clips / "clips.jsonl").read_text().splitlines()]
        self.rows = []
        for n, row in enumerate(rows):
            row["video_id"] = HOSTILE if n == 0 else f"{'even' if n % 2 else 'odd'}/{row['video']}"
            self.rows.append(row)
        (self.clips / "copy.mp4").write_bytes((self.clips / rows[3]["video"]).read_bytes())
        self.rows.append({**rows[3], "video": "copy.mp4", "video_id": "copy"})
        self.rows.append({**rows[4], "video_id": "part", "start": 0.2, "end": 5000.0})
        (self.clips / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        self.config.write_text(CONFIG.format(clips=self.clips, store=self.store))
        assert main(["run", str(self.config)]) == 0
        self.library = Library(make_plan(load_config(self.config), again=False))

    def client(self, rate=10_000.0):
        return TestClient(create_app(self.library, ["testserver"], rate), raise_server_exceptions=False)

    def ranks(self):
        """Rows of the last run's table of ranks, for texts."""
        path = sorted(self.store.glob("runs/served/*/ranks.parquet"))[-1]
        return [row for row in pq.read_table(path).to_pylist() if row["direction"] == "text_to_video"]

    def similarity(self):
        """Rows of the similarity stage."""
        return [row for path in self.store.glob("similarity/*/*.parquet") for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return Served(tmp_path_factory.mktemp("a corpus to serve"))


@pytest.fixture
def client(served):
    with served.client() as client:
        yield client


def test_a_search_finds_what_the_pipeline_does_with_the_same_scores(served, client):
    queries = [row for row in served.similarity() if row["direction"] == "text_to_video"]
    captions = pq.read_table(next(served.store.glob("captions/*"))).to_pylist()
    texts = {row["caption_id"]: row["text"] for row in captions}
    assert len(queries) >= 6
    for row in queries:
        hits = client.get("/api/search", params={"q": texts[row["query_id"]], "k": 8}).json()["hits"]
        assert [hit["score"] for hit in hits] == pytest.approx(row["top_scores"], rel=1e-4, abs=1e-4)
        gaps = -np.diff(row["top_scores"])
        if gaps[gaps > 0].min() > 1e-3:
            same = {"copy": served.rows[3]["video_id"]}  # which of the two comes first is another thing
            found, expected = ([same.get(name, name) for name in names] for names in (names_of(hits), row["top_ids"]))
            assert found == expected


def names_of(hits):
    return [hit["video_id"] for hit in hits]


def test_videos_of_the_same_content_have_the_same_score_in_the_datasets_order(served, client):
    one = served.rows[3]["video_id"]
    for n in range(20):
        hits = client.get("/api/search", params={"q": f"shape number {n}", "k": 8}).json()["hits"]
        scores = {hit["video_id"]: hit["score"] for hit in hits}
        assert scores[one] == scores["copy"]
        assert [name for name in names_of(hits) if name in (one, "copy")] == [one, "copy"]


def test_more_like_this_does_not_find_itself(served, client):
    one = served.library.videos[2]
    hits = client.get("/api/search", params={"like": one.key, "k": 100}).json()["hits"]
    assert sorted(hit["key"] for hit in hits) == sorted(video.key for video in served.library.videos if video != one)
    unit = served.library.vector(2)
    assert hits[0]["score"] == pytest.approx(
        max(float(unit @ served.library.vector(n)) for n in (0, 1, 3, 4, 5, 6, 7)), abs=1e-5
    )


def test_filters_by_folder_and_length(served, client):
    def found(**params):
        return {
            hit["video_id"]
            for hit in client.get("/api/search", params={"q": "a shape", "k": 100, **params}).json()["hits"]
        }

    everything = {row["video_id"] for row in served.rows}
    assert found() == everything
    assert found(folder="odd") == {name for name in everything if name.startswith("odd/")}
    assert found(folder="od") == set()
    assert found(shortest=0.4, longest=0.6) == everything - {"part"} and found(shortest=0.6) == set()
    assert found(longest=0.4) == {"part"}, "as long as what there is of it"
    assert client.get("/api/corpus").json() == {
        "name": "served",
        "videos": 8,
        "folders": ["", HOSTILE.rpartition("/")[0], "even", "odd"],
    }


def test_a_video_its_captions_its_poster_and_a_part_of_its_file(served, client):
    for row in served.rows:
        [video] = [video for video in served.library.videos if video.video_id == row["video_id"]]
        said = client.get(f"/api/videos/{video.key}").json()
        length = 0.3 if row["video_id"] == "part" else 0.5
        assert said["video_id"] == row["video_id"] and said["playable"] and said["seconds"] == pytest.approx(length)
        ranks = [r["rank"] for r in served.ranks() if r["video_id"] == row["video_id"]]
        assert len(ranks) >= 2 and sorted(caption["rank"] for caption in said["captions"]) == sorted(ranks)
        poster = client.get(f"/api/videos/{video.key}/poster")
        assert poster.headers["content-type"] == "image/jpeg" and poster.content[:2] == b"\xff\xd8"
        data = (served.clips / row["video"]).read_bytes()
        part = client.get(f"/api/videos/{video.key}/file", headers={"Range": "bytes=5-14"})
        assert part.status_code == 206 and part.content == data[5:15] and part.headers["content-type"] == "video/mp4"


@pytest.mark.parametrize(
    "path",
    [
        "/api/videos/..%2f..%2fetc%2fpasswd",
        "/api/videos/..%2f..%2fetc%2fpasswd/file",
        "/api/videos/%2e%2e",
        "/..%2f..%2fetc%2fpasswd",
        "/app.py",
        "/index.html",
        "/api/nothing",
        "/api/videos/" + "0" * 32,
    ],
)
def test_what_is_no_video_of_the_corpus_is_not_there(client, path):
    assert client.get(path).status_code == 404


def test_what_has_gone_is_said(served):
    folder = served.clips
    hidden = folder.rename(folder.with_name("elsewhere"))
    try:
        with served.client() as client:
            key = served.library.videos[0].key
            assert client.get(f"/api/videos/{key}/file").status_code == 404
            assert client.get(f"/api/videos/{key}").json()["playable"] is False
            assert client.get("/api/search", params={"q": "a shape"}).status_code == 200
    finally:
        hidden.rename(folder)


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({}, 400),
        ({"q": "  "}, 400),
        ({"q": "\xa0"}, 400),
        ({"q": "\0"}, 400),
        ({"q": "x", "like": "0" * 32}, 400),
        ({"like": "0" * 32}, 404),
        ({"like": "../x"}, 404),
        ({"q": "x" * 501}, 422),
        ({"q": "x", "k": 0}, 422),
        ({"q": "x", "k": 101}, 422),
        ({"q": "x", "shortest": "nan"}, 422),
        ({"q": "x", "longest": -1}, 422),
    ],
)
def test_what_cannot_be_searched_for_is_refused(client, params, code):
    assert client.get("/api/search", params=params).status_code == code


def test_no_request_that_can_be_thought_of_is_an_error_of_ours(served):
    """Requests as the API describes them and others, a good half of those about a video about one that is there."""
    app = create_app(served.library, ["testserver"], 10_000.0)
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", app)
    codes = Counter()
    there = itertools.cycle(video.key for video in served.library.videos)

    def ask(case, known):
        for parameters, name in ((case.path_parameters, "key"), (case.query, "like")):
            if known and name in (parameters or ()):
                parameters[name] = next(there)
        codes[case.call_and_validate(checks=CHECKS).status_code] += 1

    for operation in schema.get_all_operations():
        for mode in GenerationMode:
            cases = operation.ok().as_strategy(mode)
            some = settings(max_examples=100, derandomize=True, suppress_health_check=list(HealthCheck))
            with contextlib.suppress(Unsatisfiable):  # nothing can be wrong with what takes no parameters
                some(given(cases, booleans())(ask))()
    assert sum(codes.values()) >= 500
    assert {200, 400, 404, 422} <= codes.keys(), codes


def test_every_answer_has_strict_headers_and_strangers_names_reach_nothing(client):
    for path in ("/", "/app.js", "/api/health", "/api/nothing"):
        answer = client.get(path)
        assert HEADERS.items() <= dict(answer.headers).items() or all(
            answer.headers[name] == value for name, value in HEADERS.items()
        )
    assert client.get("/api/health", headers={"Host": "evil.example"}).status_code == 400
    page = client.get("/").text
    assert '<script src="app.js" defer></script>' in page and "http://" not in page and "https://" not in page


def test_an_error_of_ours_has_them_too_and_says_no_more_than_that(served, client, monkeypatch, caplog):
    monkeypatch.setattr(served.library, "embed", lambda _: 1 / 0)
    answer = client.get("/api/search", params={"q": "a shape"})
    assert answer.status_code == 500 and answer.json() == {"detail": "the server failed; its messages say why"}
    assert answer.headers["x-content-type-options"] == "nosniff" and "ZeroDivisionError" in caplog.text


def test_pictures_that_have_gone_are_not_there(served, client):
    hidden = [path.rename(path.with_suffix(".gone")) for path in served.store.glob("frames/*/[!.]*.parquet")]
    try:
        answer = client.get(f"/api/videos/{served.library.videos[0].key}/poster")
        assert answer.status_code == 404 and "detail" in answer.json()
    finally:
        for path in hidden:
            path.rename(path.with_suffix(".parquet"))


@pytest.fixture
def listening(served):
    """Starts a server as the command has it, and gives its address."""
    with contextlib.ExitStack() as stack:

        def start(rate=1000.0):
            taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            server = uvicorn.Server(connections.settings(create_app(served.library, ["127.0.0.1"], rate)))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
            thread.start()
            stack.callback(thread.join)
            stack.callback(setattr, server, "should_exit", True)
            return taken.getsockname()

        yield start


def url(address):
    return "http://{}:{}/api/health".format(*address)


def test_who_asks_for_nothing_is_let_go(listening, monkeypatch):
    monkeypatch.setattr(connections, "PATIENCE", 0.5)
    address = listening()
    for before in (b"", b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"):
        with socket.create_connection(address, timeout=60) as one:
            one.sendall(before)
            got = b""
            while before and not got.endswith(b"}"):
                got += one.recv(10_000)
            one.sendall(b"GET / HTTP/1.1\r\nX-Slow: a")
            with contextlib.suppress(ConnectionResetError):
                assert one.recv(1) == b"", "closed"
    assert httpx2.get(url(address)).status_code == 200


def test_nobody_holds_too_much(listening, monkeypatch):
    monkeypatch.setattr(connections, "EACH", 4)
    monkeypatch.setattr(connections, "PATIENCE", 600.0)
    address = listening()
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(address, timeout=60)) for _ in range(4)]
        with pytest.raises(httpx2.TransportError):  # four are all that one client may have
            httpx2.get(url(address))
        held[0].sendall(b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + b"a" * 100_000)
        assert held[0].recv(100).startswith(b"HTTP/1.1 400")


def test_a_client_is_who_the_connection_is_with(listening):
    with httpx2.Client() as client:
        address = url(listening(rate=1.0))
        codes = {client.get(address, headers={"X-Forwarded-For": f"10.0.0.{n}"}).status_code for n in range(20)}
    assert codes == {200, 429}


def test_the_page_makes_no_markup_of_what_it_is_told():
    script = (Path(batching.__file__).parent / "static" / "app.js").read_text()
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert way not in script


def test_too_many_requests_wait():
    now = [0.0]
    rates = Rates(3, clock=lambda: now[0])
    assert [rates.allows("a") for _ in range(4)] == [True, True, True, False]
    assert rates.allows("b"), "each client has its own"
    now[0] += 0.4
    assert [rates.allows("a") for _ in range(2)] == [True, False]


def test_one_client_is_told_to_wait(served):
    with served.client(rate=2) as client:
        answers = [client.get("/api/health") for _ in range(4)]
    assert [answer.status_code for answer in answers][:2] == [200, 200] and answers[-1].status_code == 429
    assert answers[-1].headers["retry-after"] == "1"


def test_queries_that_come_together_are_computed_together(served, monkeypatch):
    sizes = []
    compute = batching.answers

    def counted(library, asked):
        sizes.append(len(asked))
        return compute(library, asked)

    monkeypatch.setattr(batching, "answers", counted)
    with served.client() as client, ThreadPoolExecutor(16) as pool:
        alone = client.get("/api/search", params={"q": "a red circle", "k": 3}).json()
        found = list(
            pool.map(lambda _: client.get("/api/search", params={"q": "a red circle", "k": 3}).json(), range(64))
        )
    assert len(sizes) < 65 and max(sizes) > 1
    for said in found:
        assert [hit["score"] for hit in said["hits"]] == pytest.approx(
            [hit["score"] for hit in alone["hits"]], rel=1e-4
        )


def test_a_query_that_fails_fails_alone_and_who_has_gone_is_not_answered(served, monkeypatch):
    asked = []

    def answers(library, some):
        asked.append([one.what for one in some])
        if "bad" in asked[-1]:
            raise ValueError("a bad one")
        return [batching.Found([0], [1.0]) for _ in some]

    monkeypatch.setattr(batching, "answers", answers)

    async def ask():
        batcher = batching.Batcher(served.library)
        queries = [batching.Asked(what, None, 1) for what in ("first", "bad", "good", "gone")]
        tasks = [asyncio.create_task(batcher.ask(query)) for query in queries]
        await asyncio.sleep(0)
        tasks[3].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        batcher.close()
        return found

    found = asyncio.run(ask())
    assert [type(one).__name__ for one in found] == ["Found", "ValueError", "Found", "CancelledError"]
    assert not any("gone" in some for some in asked)


def test_a_query_that_comes_when_all_others_have_gone_is_answered(served, monkeypatch):
    wait, asked = threading.Event(), []

    def answers(library, some):
        asked.append([one.what for one in some])
        wait.wait(20)
        return [batching.Found([0], [1.0]) for _ in some]

    monkeypatch.setattr(batching, "answers", answers)

    async def ask():
        batcher = batching.Batcher(served.library)

        def query(what):
            return asyncio.create_task(batcher.ask(batching.Asked(what, None, 1)))

        first = query("first")
        while not asked:
            await asyncio.sleep(0.01)
        gone = query("gone")
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        wait.set()
        await first
        found = await asyncio.wait_for(query("last"), 20)
        batcher.close()
        return found

    assert asyncio.run(ask()) == batching.Found([0], [1.0]) and asked == [["first"], ["last"]]


@pytest.mark.parametrize("name", ["*ample.org", "a b", "https://a.org", ""])
def test_a_name_that_is_none_is_one_line(served, capsys, name):
    assert main(["serve", str(served.config), "--port", "0", "--name", name]) == 2
    assert "--name" in capsys.readouterr().err


def test_an_address_with_colons_stands_in_brackets():
    assert serve_command._shown("::1") == "[::1]" and "[::1]" in serve_command._names("::1", [])
    everywhere = "0.0.0.0"  # noqa: S104
    assert serve_command._shown(everywhere) == "127.0.0.1" and serve_command._names(everywhere, []) == ["*"]


def test_a_port_that_is_taken_and_a_corpus_that_is_not_there_are_one_line(served, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(served.config), "--port", str(port)]) == 2
        assert str(port) in capsys.readouterr().err
    assert main(["serve", str(served.config), "--set", f"store='{tmp_path}/none'"]) == 2
    assert "run" in capsys.readouterr().err


def test_replicas_on_ray_serve_answer_as_one_process_does(served, client):
    words = ["serve", str(served.config), "--engine", "ray", "--port", "0"]
    command = [sys.executable, "-m", "clip2video_pipe.pipeline.cli", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            said = server.stdout.readline()
            assert said, server.stderr.read()
            address = re.search(r"http://127\.0\.0\.1:\d+", said)[0]
            with httpx2.Client(base_url=address, timeout=30) as http:
                for n in range(20):  # of both replicas
                    query = {"q": f"a shape {n}", "k": 3}
                    there, here = (who.get("/api/search", params=query).json()["hits"] for who in (http, client))
                    assert [hit["key"] for hit in there] == [hit["key"] for hit in here]
                    assert [hit["score"] for hit in there] == pytest.approx([hit["score"] for hit in here], rel=1e-4)
                    part = http.get(f"/api/videos/{here[0]['key']}/file", headers={"Range": "bytes=0-9"})
                    assert part.status_code == 206 and len(part.content) == 10
                refused = http.get("/api/health", headers={"Host": "evil.example"})
                assert refused.status_code == 400 and refused.headers["x-content-type-options"] == "nosniff"
        finally:
            server.send_signal(signal.SIGINT)
            out, err = server.communicate(timeout=60)
    # A loaded machine may take longer than an interrupt is given.
    assert server.returncode in (0, INTERRUPTED) and "Traceback" not in out + err


def test_more_replicas_than_cores_are_one_line(served, ray_session, capsys):
    assert main(["serve", str(served.config), "--engine", "ray", "--replicas", "99", "--port", "0"]) == 2
    assert "--replicas is 99" in capsys.readouterr().err


def test_a_page_on_a_cluster_is_reached_by_its_head(served, ray_session, monkeypatch, capsys):
    from clip2video_pipe.pipeline.serve import replicas

    assert replicas._reached("127.0.0.1") == "127.0.0.1", "this machine is the head"
    monkeypatch.setattr(replicas.ray.util, "get_node_ip_address", lambda: "192.0.2.77")
    [head] = [node["NodeManagerAddress"] for node in ray_session.nodes()]
    everywhere = "0.0.0.0"  # noqa: S104
    assert replicas._reached(everywhere) == head and replicas._reached("10.1.1.1") == "10.1.1.1"
    with pytest.raises(RequestError, match=f"give --host {head}"):
        replicas._reached("127.0.0.1")
    words = ["--engine", "ray", "--port", "0", "--set", "run.engine=ray", "--set", "run.address=auto"]
    assert main(["serve", str(served.config), *words]) == 2
    assert "--port 0" in capsys.readouterr().err
