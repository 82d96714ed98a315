"""`report.html`: one file that needs nothing else, written beside what a run says of itself."""

import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa

from clip2video_pipe.manifests import keys
from clip2video_pipe.manifests.shards import versions
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.advice import advice
from clip2video_pipe.pipeline.config import public
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.plan import Plan, Step
from clip2video_pipe.pipeline.report import plots
from clip2video_pipe.pipeline.report.gather import Facts, gather
from clip2video_pipe.pipeline.report.strips import strips
from clip2video_pipe.pipeline.search import Searched
from clip2video_pipe.pipeline.show import SHOWN
from clip2video_pipe.pipeline.words import duration, number, several, span
from clip2video_pipe.stages.frames import Frames

NAME = "report.html"
VERSION = 3  # raised when the page changes
HEAD = 1000  # bytes in which it says what it shows
LOOKED_AT = 3  # earlier runs
FAILURES = 50  # lines of failures that are listed


def write_report(
    plan: Plan,
    scoring: Sequence[Step],
    said: Mapping[str, Any],
    tables: Mapping[str, pa.Table],
    run: Sequence[str],
) -> dict[str, str]:
    """Write the page into the folder `run` of the store; gives its `path`, and the `digest` of what it shows.

    Where an earlier run of the config shows the same, its page is taken, with the seconds of when it was computed.
    """
    digest = _digest(plan, said)
    page = _earlier(plan, digest, run) or render(plan, scoring, said, tables).encode()
    plan.store.write(page, *run, NAME)
    return {"path": plan.store.path(*run, NAME), "digest": digest}


def save(page: str, to: Path, option: str) -> None:
    """Write a page to a file of the user's, given by `option`. Raises RequestError."""
    try:
        if to.is_dir():
            raise RequestError(f"{option} {str(to)!r} is a folder; give a file")
        Store(str(to.parent)).write(page.encode(), to.name)
    except UnicodeError as error:
        raise RequestError(f"{option} {str(to)!r}: the name is not UTF-8; give another") from error
    except OSError as error:
        raise RequestError(f"{option} {str(to)!r}: {error.strerror or error}") from error


def _digest(plan: Plan, said: Mapping[str, Any]) -> str:
    """Of all that the page shows, but for when it was made, where, and how long that took."""
    shown = {
        "metrics": said["metrics"],
        "warnings": said["warnings"],
        "stages": [[row["stage"], row["manifest"]] for row in said["stages"]],
        "kept": plan.frames.kept,
    }
    settings = plan.config.model_dump(mode="json", exclude={"run", "embed", "report", "strict"})
    return keys.digest({**shown, "settings": public(settings), "page": VERSION, "made by": versions()})


def _earlier(plan: Plan, digest: str, run: Sequence[str]) -> bytes | None:
    """The page of one of the last runs of the config, if it shows the same."""
    before = [stamp for stamp in plan.store.folders(*run[:-1]) if stamp != run[-1]]
    for stamp in before[: -1 - LOOKED_AT : -1]:
        page = plan.store.read(*run[:-1], stamp, NAME)
        if page and digest.encode() in page[:HEAD]:
            return page
    return None


def render(plan: Plan, scoring: Sequence[Step], said: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> str:
    """The page. `said` is what run.json says, `tables` what lies beside it. Raises Damaged, RequestError."""
    facts = gather(plan, tables.get("ranks"), scoring)
    metrics = dict(said["metrics"])
    coverage = metrics.pop("coverage")
    config = plan.config
    expected = {
        str(direction): {str(name): value for name, value in row.items()} for direction, row in config.expected.items()
    }
    missing = tables["missing"]
    return template("report.html.j2").render(
        name=config.name,
        digest=_digest(plan, said),
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        warnings=said["warnings"],
        stages=[_stage(row) for row in said["stages"]],
        figures=_figures(metrics, expected),
        sure={name: row for name, row in metrics.items() if "R@1_low" in row and "whole_query_set" not in row},
        untrained=config.model.seed is not None,
        coverage={name: coverage[name] for name in ("videos", "captions") if name in coverage},
        advice=_advice(plan, coverage),
        gaps=coverage.get("gaps", {}),
        missing=missing.slice(0, FAILURES).to_pylist(),
        more=max(0, len(missing) - FAILURES),
        facts=facts,
        plots=_plots(facts, expected),
        strips=_strips(plan, facts),
        kept=plan.frames.kept,
        settings=_settings(public(config.model_dump(mode="json", exclude_defaults=True))),
        versions=versions(),
        machine=f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
    )


def render_search(plan: Plan, names: Sequence[str], found: Searched) -> str:
    """The page of what a search found: each query's videos as strips, where their frames are in the store."""
    listed = plan.listing.videos.select(["video_id", "video"])
    contents = dict(zip(*(listed[name].to_pylist() for name in listed.column_names), strict=True))
    hits = [[(hit, contents.get(hit.video_id), span(hit.start, hit.end)) for hit in some] for some in found.hits]
    return template("search.html.j2").render(
        name=plan.config.name,
        videos=found.videos,
        found=list(zip(names, hits, strict=True)),
        strips=_strips_of(plan, [content for some in hits for _, content, _ in some if content is not None]),
    )


def template(name: str) -> jinja2.Template:
    """One of the pages' templates: what is put into it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clip2video_pipe.pipeline.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _stage(row: Mapping[str, Any]) -> dict[str, Any]:
    seconds, computed = row["seconds"], row["computed"]
    rate = f"{computed / seconds:,.1f}/s" if seconds and computed else ""
    by = ""
    if spent := row.get("spent"):
        by = f"{several(spent['workers'], 'worker')}, {spent['device'].upper()}"
        machines = spent.get("machines", 1)  # runs of earlier versions do not say
        by += f", {several(machines, 'machine')}" if machines > 1 else ""
    return {**row, "seconds": duration(seconds) if seconds else "", "rate": rate, "by": by}


def _advice(plan: Plan, coverage: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of each class of failures what would make something else of it."""
    decoding = plan.frames.manifest.counts["errors"] if plan.frames.manifest else None
    found = []
    for what in ("videos", "captions"):
        for error in coverage.get(what, {}).get("errors", {}):
            decoded = what == "videos" and (decoding is None or error in decoding)
            stage = plan.frames if decoded else plan.video_embeddings if what == "videos" else plan.caption_embeddings
            assert stage is not None, "of a dataset without captions none can fail"
            found.append((error, advice(error, stage.name, plan.config)))
    return found


def _figures(metrics: Mapping[str, Any], expected: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Names of the columns, and the rows: a label, its figures, and whether they are somebody else's."""
    names = [name for name in SHOWN if any(name in row for row in metrics.values())]
    rows = []
    for direction, row in metrics.items():
        rows.append((direction.replace("_", " "), [number(name, row.get(name)) for name in names], False))
        if direction in expected:
            rows.append(("published", [number(name, expected[direction].get(name)) for name in names], True))
    return {"names": names, "rows": rows}


def _plots(facts: Facts, expected: Mapping[str, Mapping[str, float]]) -> list[tuple[str, str]]:
    """Heading and SVG of each that there is something for."""
    found = []
    ranks = {name: values for name, values in facts.ranks.items() if len(values)}
    if ranks:
        found.append(("Recall at k", plots.recall_curves(ranks, expected)))
        found.append(("Ranks", plots.rank_histogram(ranks)))
    if facts.matrix is not None:
        found.append(("Scores", plots.matrix(facts.matrix)))
    if facts.seconds is not None and len(facts.seconds):
        found.append(("Length of the clips", plots.histogram(facts.seconds, "seconds")))
    return found


def _strips(plan: Plan, facts: Facts) -> dict[str, str]:
    """The strips of all videos that the page shows, by content."""
    answers = [answer for query in (*facts.wrong, *facts.narrow) for answer in (query.own, *query.answers)]
    contents = [answer.content for answer in answers] + [content for _, content in facts.some]
    contents += [content for pair in facts.alike for content in (pair[2], pair[4])]
    return _strips_of(plan, [content for content in contents if content is not None])


def _strips_of(plan: Plan, contents: Sequence[str]) -> dict[str, str]:
    """The strips of these contents; of none where frames were not kept."""
    if not plan.frames.kept:
        return {}
    assert isinstance(plan.frames.stage, Frames)
    return strips(plan.frames, plan.frames.stage.size, contents)


def _settings(said: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Dotted names and values of the settings that are not the defaults."""
    found = []
    for name, value in said.items():
        if isinstance(value, dict) and value:
            found += _settings(value, f"{above}{name}.")
        else:
            found.append((f"{above}{name}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return found
