"""The command `clip2video-pipe report`."""

import json
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from clip2video_pipe.manifests.addresses import is_remote
from clip2video_pipe.pipeline.config import load_config, public
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.events import RUNS
from clip2video_pipe.pipeline.options import AsJson, ConfigPath, Overrides
from clip2video_pipe.pipeline.plan import Plan, Step, make_plan
from clip2video_pipe.pipeline.results import measure


def report_of_run(
    config: ConfigPath,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="Where to write it; else beside what the last run said.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Show it in a browser.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write the report of what is there as one HTML file. Computes no embeddings and no scores."""
    from clip2video_pipe.pipeline.report.page import NAME, render, save

    plan = make_plan(load_config(config, overrides or []), again=False)
    if show and to is None and is_remote(plan.store.path()):
        raise RequestError(f"report: {plan.store.path()!r} is not on this machine; say where to write it with --to")
    scoring = plan.scoring() if plan.video_embeddings.manifest else []
    for step in (plan.video_embeddings, *scoring):
        if step.manifest is None:
            raise RequestError(f"{step.name} of {plan.config.name!r}: {step.why()}; start a 'run' first")
    results = measure(plan, scoring)
    stamp, said = _last(plan, [*plan.steps, *scoring])
    said = {**said, "metrics": results.metrics, "warnings": plan.warnings}
    page = render(plan, scoring, said, results.tables)
    if to is None:
        plan.store.write(page.encode(), RUNS, plan.config.name, stamp, NAME)
        where = plan.store.path(RUNS, plan.config.name, stamp, NAME)
    else:
        save(page, to, "report: --to")
        where = str(to)
    typer.echo(json.dumps({"report": where}) if as_json else where)
    if show and not webbrowser.open(Path(where).absolute().as_uri()):
        raise RequestError(f"report: no browser could be started; open {where!r} yourself")


def _last(plan: Plan, steps: Sequence[Step]) -> tuple[str, dict[str, object]]:
    """The folder of the last run of the config that made just these steps, and what it said. Raises RequestError."""
    made = {step.name: step.hash for step in steps if step.kept}
    score = json.loads(json.dumps(public(plan.config.score.model_dump())))
    for stamp in reversed(plan.store.folders(RUNS, plan.config.name)):
        files = ("run.json", "config.json")
        said, config = (plan.store.read_json(RUNS, plan.config.name, stamp, file) for file in files)
        if not isinstance(said, dict) or not isinstance(config, dict) or config.get("score") != score:
            continue
        if made == {row["stage"]: row["manifest"] for row in said["stages"] if row["manifest"]}:
            return stamp, said
    raise RequestError(
        f"report: no run of {plan.config.name!r} in {plan.store.path()!r} was of this dataset and these settings; "
        "start a 'run' first"
    )
