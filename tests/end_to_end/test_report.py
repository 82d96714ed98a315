"""The report of a run: what is in the page, that it needs nothing else, and that hostile names stay text."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.axes import Axes

from clip2video_pipe.pipeline.config import load_config
from clip2video_pipe.pipeline.plan import make_plan
from clip2video_pipe.pipeline.report import gather, plots
from clip2video_pipe.stages.datasets.shapes import write_clips
from clip2video_pipe.stages.vectors import Vectors

HOSTILE = "<script>alert('x')</script> \" ' & \u202eright to left \u05d0\u05d1 " + "long" * 75


class Page(HTMLParser):
    """Tags by name with their attributes, and the text that a reader sees."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def report(project, **settings):
    """What a run with a report says, and the page."""
    words = [word for name, value in settings.items() for word in ("--set", f"{name.replace('__', '.')}={value}")]
    code, out, err = project.command("run", "--set", "report=true", *words, "--json")
    assert code == 0, err
    said = json.loads(out)
    return said, Page(Path(said["report"]["path"]).read_text(encoding="utf-8"))


@pytest.fixture
def reported(project):
    return report(project)


def needs_nothing_else(page):
    addresses = [
        value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href", "xlink:href")
    ]
    return not page.all("script") and not page.all("link") and all(a.startswith(("data:", "#")) for a in addresses)


def test_it_says_what_the_run_found(reported):
    said, page = reported
    for direction in ("text_to_video", "video_to_text"):
        figures = said["metrics"][direction]
        row = [direction.replace("_", " "), *(f"{figures[f'R@{k}']:.1f}" for k in (1, 5, 10))]
        assert " ".join(row) in page.words
        assert f"R@1 lies between {figures['R@1_low']:.1f} and {figures['R@1_high']:.1f}" in page.words
    for stage in said["stages"]:
        assert f"{stage['stage']} {stage['status']} {stage['items']} {stage['computed']}" in page.words
        if stage.get("spent"):
            assert f"{stage['spent']['workers']} worker, CPU" in page.words
    assert "6 of 6 videos" in page.words and "12 of 12 captions" in page.words
    assert "model.preset tiny" in page.words
    assert len(page.all("svg")) == 4, "recalls, ranks, scores, lengths"
    assert needs_nothing_else(page)


def test_it_shows_the_videos_of_the_worst_queries(reported, project):
    said, page = reported
    ranks = pq.read_table(f"{said['run_dir']}/ranks.parquet").to_pylist()
    worst = max((row for row in ranks if row["direction"] == "text_to_video"), key=lambda row: row["rank"])
    assert f"rank {worst['rank']:g}" in page.words
    assert worst["video_id"] in page.words and worst["wrong_id"] in page.words
    strips = page.all("img")
    assert strips and all(strip["src"].startswith("data:image/jpeg;base64,") for strip in strips)


def test_a_run_that_shows_the_same_takes_the_page_that_is_there(reported, project, monkeypatch):
    said, _ = reported
    monkeypatch.setattr("clip2video_pipe.pipeline.report.page.render", None)
    code, out, err = project.command("run", "--set", "report=true", "--json")
    assert code == 0 and "report.html" not in err
    again = json.loads(out)["report"]
    assert again["digest"] == said["report"]["digest"] and again["path"] != said["report"]["path"]
    assert Path(again["path"]).read_bytes() == Path(said["report"]["path"]).read_bytes()


def test_a_run_that_shows_another_thing_makes_its_own_page(project, clips):
    videos = project.folder / "videos"
    videos.mkdir()
    for clip in sorted(clips.glob("*.mp4"))[:3]:
        (videos / clip.name).write_bytes(clip.read_bytes())
    settings = {"dataset": f"{{kind: folder, path: '{videos}'}}", "run__max_failure_rate": 1}
    shown = [report(project, **settings)]
    sorted(videos.iterdir())[0].write_bytes(sorted(clips.glob("*.mp4"))[4].read_bytes())
    shown.append(report(project, **settings))
    shutil.rmtree(project.store)
    shown.append(report(project, **settings, run__keep_frames="false"))
    shown.append(report(project, **settings))
    pictures = [[strip["src"] for strip in page.all("img")] for _, page in shown]
    assert pictures[0] != pictures[1] and not pictures[2] and pictures[3] == pictures[1]


def test_a_report_of_other_settings_is_not_put_beside_a_run(project):
    before = report(project)
    code, _, err = project.command("report", "--set", "report=true", "--set", "score.ties=optimistic")
    assert code == 2 and "start a 'run' first" in err
    (Path(before[0]["run_dir"]) / "report.html").write_text("<head></head> of another kind")
    words = report(project)[1].words
    assert "of another kind" not in words and "R@1 lies between" in words


def test_a_report_that_cannot_be_written_is_told_and_fails_nothing(project, monkeypatch):
    def broken(*_):
        raise ValueError("no ink")

    monkeypatch.setattr("clip2video_pipe.pipeline.report.page.render", broken)
    code, out, err = project.command("run", "--set", "report=true")
    assert code == 0 and "no ink" in err and "Traceback" not in err
    assert "text to video" in out


def test_names_and_captions_stay_text(project, tmp_path):
    hostile_report(project, tmp_path)


def hostile_report(project, tmp_path):
    """The path of a report on videos with names that would be markup."""
    folder = tmp_path / "hostile"
    rows = [
        json.loads(line)
        for line in (
            write_clips(folder, 3, 0, seconds=0.5, size=(64, 48), fps=10),
            (folder / "clips.jsonl").read_text(),
        )[1].splitlines()
    ]
    for n, row in enumerate(rows):
        row["caption"] = f"{n} {HOSTILE}"
        row["video_id"] = f"{n}{HOSTILE}"
    rows.append({"video": "gone.mp4", "video_id": f"gone {HOSTILE}", "caption": "none"})
    (folder / "hostile.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = f"{{kind: table, path: '{folder}/hostile.jsonl', root: '{folder}'}}"
    said, page = report(project, dataset=data, run__max_failure_rate=1)
    assert "<script>alert('x')</script>" in page.words and "gone <script>" in page.words
    assert needs_nothing_else(page)
    return said["report"]["path"]


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_as_it_is(project, tmp_path, page, width, scheme):
    path = hostile_report(project, tmp_path)
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    told = []
    page.on("dialog", lambda dialog: (told.append(dialog.message), dialog.dismiss()))
    page.goto(Path(path).as_uri())
    assert told == [] and "small" in page.title()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    broken = "[...document.images].filter(one => !(one.complete && one.naturalWidth)).length"
    assert page.evaluate("document.images.length") > 3 and page.evaluate(broken) == 0
    assert "<script>alert('x')</script>" in page.inner_text("body")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)[0] < 128")
    assert dark == (scheme == "dark")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 800})  # A4 without its margins
    assert page.evaluate("document.documentElement.scrollWidth") <= 718


@pytest.mark.parametrize("kept", ["true", "false"])
def test_a_corpus_without_captions_gets_what_applies(project, clips, kept):
    (project.folder / "videos").mkdir()
    for clip in clips.glob("*.mp4"):
        (project.folder / "videos" / clip.name).write_bytes(clip.read_bytes())
    (project.folder / "videos" / "broken.mp4").write_bytes(b"no video")
    data = f"{{kind: folder, path: '{project.folder}/videos'}}"
    _, page = report(project, dataset=data, run__keep_frames=kept, run__max_failure_rate=1)
    assert "Metrics" not in page.words and "6 of 7 videos" in page.words and "broken.mp4" in page.words
    assert "unreadable: mend the file" in page.words
    assert "Look alike" in page.words and re.search(r"cosine 0\.9\d+", page.words), "untrained, they are all alike"
    assert bool(page.all("img")) == (kept == "true")
    assert ("run.keep_frames is false" in page.words) == (kept == "false")


def test_the_command_writes_it_again(project, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    assert project.command("report")[0] == 2, "nothing is there yet"
    assert project.command("run")[0] == 0
    code, out, _ = project.command("report", "--open")
    assert code == 0 and opened == [f"file://{out.strip().replace(' ', '%20')}"]
    other = tmp_path / "a page.html"
    assert project.command("report", "--to", str(other), "--set", "score.save_matrix=false")[0] == 2
    code, _, err = project.command("report", "--to", str(tmp_path))
    assert code == 2 and "is a folder" in err
    code, out, _ = project.command("report", "--to", str(other))
    assert code == 0 and out.strip() == str(other) and "<h2>Metrics</h2>" in other.read_text()


def test_the_command_holds_to_what_a_run_has_made(project, clips):
    assert project.command("run")[0] == 0
    folder = project.folder / "videos"
    folder.mkdir()
    for clip in clips.glob("*.mp4"):
        (folder / clip.name).write_bytes(clip.read_bytes())
    code, _, err = project.command("report", "--set", f"dataset={{kind: folder, path: '{folder}'}}")
    assert code == 2 and "start a 'run' first" in err, (
        "the vectors are there, but no run of these videos without captions"
    )


def test_what_is_most_wrong_has_no_gap_at_top_k_zero(project):
    _, page = report(project, score="{top_k: 0, save_matrix: false}")
    assert "score.save_matrix is false" in page.words and "1. with" in page.words


def test_a_tie_for_the_first_place_is_not_drawn_as_the_first(monkeypatch):
    drawn, bar = [], Axes.bar

    def noted(axes, at, counts, *more, **how):
        drawn.append(list(counts))
        return bar(axes, at, counts, *more, **how)

    monkeypatch.setattr(Axes, "bar", noted)
    plots.rank_histogram({"text_to_video": np.array([1, 1.5, 2, 4])})
    assert drawn == [[1, 3]]


def test_a_vector_that_is_not_finite_hides_no_look_alikes(project, monkeypatch):
    assert project.command("run")[0] == 0
    plan = make_plan(load_config(project.config), again=False)
    found = gather.video_vectors(plan)
    rows = found.vectors.read(0, 6).copy()
    rows[0], rows[1] = np.nan, 0
    monkeypatch.setattr(gather, "video_vectors", lambda *_: found._replace(vectors=Vectors.of(rows)))
    pairs = gather._alike(plan)
    names = found.ids["video_id"].to_pylist()
    assert {name for pair in pairs for name in (pair[1], pair[3])} == set(names[2:]), "untrained, they are all alike"


def test_of_ten_thousand_videos_it_is_no_larger_than_a_mail_may_be(project, clips):
    names = [clip.name for clip in sorted(clips.glob("*.mp4"))]
    rows = [
        {"video": names[n % len(names)], "video_id": f"video {n:05}", "caption": f"a shape, number {n}"}
        for n in range(10_000)
    ]
    table = project.rows(*rows).partition("dataset.path=")[2]
    said, page = report(project, dataset__path=table, run__shard_items=2048)
    assert "10000 of 10000 videos" in page.words
    assert Path(said["report"]["path"]).stat().st_size < 8_000_000
