"""The command `clip2video-pipe explain`."""

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from clip2video_pipe.pipeline.config import load_config
from clip2video_pipe.pipeline.explain import Entry, explain
from clip2video_pipe.pipeline.options import AsJson, ConfigPath, Overrides
from clip2video_pipe.pipeline.plan import make_plan
from clip2video_pipe.pipeline.words import several, sized, span


def explain_video(
    config: ConfigPath,
    video_id: Annotated[str, typer.Argument(metavar="VIDEO_ID", help="A video, a window, or a file of windows.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show a video's way through every stage: where its rows are, what failed, and which setting would change it."""
    found = explain(make_plan(load_config(config, overrides or []), again=False), video_id)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    for line in _windows(found) if "windows" in found else _lines(found):
        typer.echo(line)


def _windows(found: Any) -> Iterator[str]:
    yield f"{found['video_id']}: {several(len(found['windows']), 'window')}; 'explain' one of them:"
    yield from (f"  {name}" for name in found["windows"])


def _lines(found: Any) -> Iterator[str]:
    size = "" if found["bytes"] is None else f", {sized(found['bytes'])}"
    segment = span(found["start"], found["end"])
    yield f"{found['video_id']}: {found['file']}{size}{segment and f', {segment}'}"
    yield f"in {found['store']}"
    if found["same_content"]:
        yield f"  the same content as {', '.join(found['same_content'])}"
    below = f"{found['store']}/"
    yield from (line for entry in found["stages"] for line in _entry(entry, below))
    for caption in found["captions"]:
        yield f"{caption['caption_id']}: {caption['text']!r}"
        yield from (line for entry in caption["stages"] for line in _entry(entry, below))


def _entry(entry: Entry, below: str) -> Iterator[str]:
    facts = [fact.replace(below, "") for fact in _facts(entry)]
    yield f"  {entry['stage']:<18} {entry['status']:<8} {facts[0] if facts else ''}".rstrip()
    yield from (f"{'':<30}{fact}" for fact in facts[1:])


def _facts(entry: Entry) -> Iterator[str]:
    if entry.get("error"):
        yield f"{entry['error']}: {entry.get('message') or ''}"
    elif entry.get("message"):
        yield entry["message"]
    if "advice" in entry:
        yield f"what would change it: {entry['advice']}"
    if "rank" in entry:
        wrong = f"; best wrong match {entry['wrong_id']} {entry['wrong_score']:.4g}" if entry.get("wrong_id") else ""
        yield f"{entry['direction'].replace('_', ' ')}: rank {entry['rank']:g}, score {entry['score']:.4g}{wrong}"
    if "times" in entry:
        times = ", ".join(f"{seconds:g}" for seconds in entry["times"])
        lost = f", {several(entry['lost'], 'packet')} lost" if entry.get("lost") else ""
        yield f"pictures at {times} s; {entry['width']} x {entry['height']}, {entry['rate']:g} frames/s{lost}"
    if entry["item"]:
        yield f"item {entry['item']}"
    if "shard" in entry:
        yield f"row {entry['row']} of {entry['path']}"
    if computed := entry.get("computed"):
        if "run" in computed:
            items = several(computed["items"], "item")
            yield f"{computed['began']}, {items} in {computed['seconds']:g} s, {computed['run']}"
        else:
            yield f"written {computed['written']}"
