"""The page in a real browser: search, play, share an address, the keyboard alone, and names that would be markup."""

import contextlib
import json
import subprocess
import sys
import time

import pytest

from clip2video_pipe.pipeline.cli import main
from clip2video_pipe.stages.datasets.shapes import write_clips

HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\" ' & \u202e\u05d0 "
    + "long" * 75
)
WATCH = """
film = document.querySelector('.hit:focus video');
seen = [];
film.addEventListener('timeupdate', () => seen.push(film.currentTime));
"""
CONFIG = """\
name: served
dataset: {{kind: table, path: "{clips}/rows.jsonl", root: "{clips}"}}
model: {{preset: tiny, checkpoint: demo}}
sampling: {{policy: uniform}}
run: {{engine: inline}}
store: "{store}"
report: false
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory, browser):
    """Of a page over eight clips, one of them with a hostile name and caption."""
    folder = tmp_path_factory.mktemp("page")
    clips = folder / "clips"
    write_clips(clips, 8, 0, seconds=1.0, size=(96, 64), fps=10)
    rows = [json.loads(line) for line in (clips / "clips.jsonl").read_text().splitlines()]
    for n, row in enumerate(rows):
        row["video_id"] = f"folder {n % 2}/{row['video']}"
    rows[0] |= {"video_id": HOSTILE, "captions": [HOSTILE]}
    rows[1] |= {"video_id": "folder 1/part", "start": 0.4, "end": 0.8}
    (clips / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = folder / "served.yaml"
    config.write_text(CONFIG.format(clips=clips, store=folder / "store"))
    with serving(config) as address:
        yield address


@contextlib.contextmanager
def serving(config, *words):
    assert main(["run", str(config), *words]) == 0
    command = [sys.executable, "-m", "clip2video_pipe.pipeline.cli", "serve", str(config), "--port", "0", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        said = server.stdout.readline()
        yield next(word for word in said.split() if word.startswith("http")).rstrip(";")
        server.terminate()


def until(page, condition):
    """Wait for a condition in JavaScript; the page's own policy lets nobody wait inside of it."""
    give_up = time.monotonic() + 20
    while not page.evaluate(condition):
        assert time.monotonic() < give_up, condition
        page.wait_for_timeout(20)


def names(page):
    return page.eval_on_selector_all(".hit bdi", "all => all.map(one => one.textContent)")


def test_the_keyboard_alone_searches_plays_and_opens(page, address):
    page.goto(address)
    until(page, "document.activeElement.id === 'q'")  # the browser puts it there when it has drawn the page
    page.keyboard.type("a shape is moving")
    page.keyboard.press("Enter")
    page.wait_for_selector(".hit")
    assert page.url == f"{address}?q=a+shape+is+moving" and len(names(page)) == 8
    page.keyboard.press("ArrowDown")
    until(page, "document.querySelector('.hit:focus video')?.currentTime > 0")
    page.keyboard.press("ArrowRight")
    until(page, "document.querySelectorAll('.hit')[1] === document.activeElement")
    assert page.locator(".hit video").count() == 1, "only the one that is looked at plays"
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open] video")
    assert page.inner_text("#name") == names(page)[1] and "&v=" in page.url
    page.keyboard.press("Escape")
    until(page, "!location.search.includes('v=')")
    assert page.evaluate("document.activeElement === document.querySelectorAll('.hit')[1]")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"


def test_an_address_shows_the_same_to_others(page, address):
    page.goto(f"{address}?q=a+shape&folder=folder+1")
    page.wait_for_selector(".hit")
    found = names(page)
    assert len(found) == 4 and all(name.startswith("folder 1/") for name in found)
    until(page, "document.getElementById('folder').value === 'folder 1'")
    page.click(".hit >> nth=0")
    page.wait_for_selector("dialog[open]")
    shared = page.url
    page.goto("about:blank")
    page.goto(shared)
    page.wait_for_selector("dialog[open]")
    assert page.inner_text("#name") == found[0] and names(page) == found
    page.click("#like")
    until(page, "document.getElementById('status').textContent.includes(' like ')")
    assert found[0] not in names(page) and not page.evaluate("document.getElementById('one').open")
    page.go_back()
    page.wait_for_selector("dialog[open]")
    assert page.url == shared


@pytest.mark.parametrize("width", [360, 1280])
def test_names_and_captions_stay_text_and_fit(page, address, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{address}?q=anything")
    page.wait_for_selector(".hit")
    assert HOSTILE.strip() in [name.strip() for name in names(page)]
    page.locator(".hit", has_text="onerror").click()
    page.wait_for_selector("dialog[open]")
    assert "owned" in page.inner_text("#captions") and page.title() != "owned"
    assert page.evaluate("document.querySelectorAll('#captions script, #captions img').length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.getElementById('one').scrollWidth <= document.getElementById('one').clientWidth")


def test_what_fits_no_filter_and_what_says_nothing_are_told(page, address):
    page.goto(f"{address}?q=a+shape&shortest=60")
    until(page, "document.getElementById('status').textContent.startsWith('None of 8 videos')")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{address}?q=%20")
    until(page, "document.getElementById('q').placeholder.includes('served')")  # the last thing that a page does
    assert page.locator(".hit").count() == 0 and not [url for url in asked if "api/search" in url]
    page.goto(f"{address}?q=a+shape&folder=nowhere")
    until(page, "document.getElementById('status').textContent.startsWith('None of 8 videos')")
    assert page.evaluate("document.getElementById('folder').value") == "nowhere", "what is filtered by is said"


def test_a_part_of_a_film_is_repeated_and_nothing_before_it_is_shown(page, address):
    page.goto(f"{address}?q=a+shape")
    page.wait_for_selector(".hit")
    page.locator(".hit", has_text="folder 1/part").focus()
    until(page, "document.querySelector('.hit:focus video')?.currentTime > 0")
    page.evaluate(WATCH)
    until(page, "seen.filter((now, n) => n && now < seen[n - 1]).length >= 2")
    assert page.evaluate("seen.every((now) => 0.3 < now)") and page.evaluate("!film.paused")


def test_what_has_neither_pictures_nor_a_file_is_not_asked_for(page, tmp_path, web):
    """No frames were kept, and the videos lie on a server elsewhere."""
    clips = tmp_path / "clips"
    write_clips(clips, 3, 0, seconds=0.5, size=(64, 48), fps=10)
    rows = [json.loads(line) for line in (clips / "clips.jsonl").read_text().splitlines()]
    for row in rows:
        web.files[f"/{row['video']}"] = (clips / row["video"]).read_bytes()
        row["video"] = f"{web.address}/{row['video']}"
    (clips / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tmp_path / "served.yaml"
    config.write_text(CONFIG.format(clips=clips, store=tmp_path / "store"))
    with serving(config, "--set", "run.keep_frames=false") as address:
        page.goto(f"{address}?q=a+shape")
        page.wait_for_selector(".hit")
        page.locator(".hit >> nth=0").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("dialog[open]")
        assert page.locator("video").count() == 0 and "not on this machine" in page.inner_text("#facts")
        assert page.locator(".hit img").count() == 0 and "no picture" in page.inner_text(".hit >> nth=0")
