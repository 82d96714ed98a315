"""The command line of `clip2video-pipe`: commands that run, plan and show here, the others in files of their own."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from clip2video_pipe.manifests.store import StoreError
from clip2video_pipe.models.errors import DeviceError, WeightsError
from clip2video_pipe.pipeline import errors
from clip2video_pipe.pipeline.compare_command import compare_runs
from clip2video_pipe.pipeline.config import load_config
from clip2video_pipe.pipeline.errors import EngineError, RequestError, TooManyFailures
from clip2video_pipe.pipeline.estimates import UNKNOWN, estimates
from clip2video_pipe.pipeline.explain_command import explain_video
from clip2video_pipe.pipeline.export_command import export_vectors
from clip2video_pipe.pipeline.gc_command import collect_garbage
from clip2video_pipe.pipeline.index_command import index_vectors
from clip2video_pipe.pipeline.interrupts import Interrupts
from clip2video_pipe.pipeline.options import AsJson, ConfigPath, Overrides
from clip2video_pipe.pipeline.pairs_command import pairs_of_videos
from clip2video_pipe.pipeline.plan import Plan, make_plan, open_store
from clip2video_pipe.pipeline.progress import Reporter
from clip2video_pipe.pipeline.report_command import report_of_run
from clip2video_pipe.pipeline.retrying import classes_to_retry
from clip2video_pipe.pipeline.run import run as run_config
from clip2video_pipe.pipeline.search_command import search_videos
from clip2video_pipe.pipeline.serve_command import serve_page
from clip2video_pipe.pipeline.settings import Config
from clip2video_pipe.pipeline.show import show_plan, show_result
from clip2video_pipe.pipeline.status_command import StatusCommand, status
from clip2video_pipe.pipeline.train_command import train_model
from clip2video_pipe.pipeline.verify_command import verify_stores
from clip2video_pipe.pipeline.weights_commands import weights
from clip2video_pipe.pipeline.words import counted


class Commands(TyperGroup):
    """Commands that say in one line what is wrong, and exit with the code for it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (RequestError, WeightsError, DeviceError) as error:
            code, message = errors.BAD_REQUEST, str(error)
        except TooManyFailures as error:
            code, message = errors.TOO_MANY_FAILURES, str(error)
        except BrokenPipeError:  # who read the output has enough: `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(errors.FAULT) from None
        except (StoreError, EngineError, OSError) as error:
            code, message = errors.FAULT, str(error)
        except KeyboardInterrupt:
            code, message = errors.INTERRUPTED, "stopped"
        _complain(message)
        raise typer.Exit(code)


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Videos and captions to embeddings, a similarity matrix and retrieval metrics, each stage cached.",
)

app.add_typer(weights, name="weights")
app.command("compare")(compare_runs)
app.command("status", cls=StatusCommand)(status)
app.command("explain")(explain_video)
app.command("export")(export_vectors)
app.command("gc")(collect_garbage)
app.command("index")(index_vectors)
app.command("pairs")(pairs_of_videos)
app.command("report")(report_of_run)
app.command("search")(search_videos)
app.command("serve")(serve_page)
app.command("train")(train_model)
app.command("verify")(verify_stores)

EngineName = Annotated[str | None, typer.Option("--engine", help="ray or inline; overrides run.engine.")]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="ADDR", help="A running Ray cluster, such as host:6379; overrides run.address."),
]


@app.command()
def run(
    context: typer.Context,
    config: ConfigPath,
    overrides: Overrides = None,
    as_json: AsJson = False,
    engine: EngineName = None,
    address: Address = None,
    allow_gaps: Annotated[
        bool,
        typer.Option(
            "--allow-gaps", help="Exit code 0 where files are missing, or a strict config's dataset has other gaps."
        ),
    ] = False,
    retry: Annotated[
        list[str] | None,
        typer.Option(
            "--retry", metavar="CLASS", help="Try again what failed with this class, such as timeout; failed: all."
        ),
    ] = None,
) -> None:
    """Compute what is missing and print the metrics.

    Exit code 3: more videos failed than run.max_failure_rate, or a strict config's dataset has gaps.
    """
    loaded = _load(config, overrides, engine, address)
    classes = classes_to_retry(retry, open_store(loaded)) if retry else ()
    reporter = Reporter(Console(stderr=True, quiet=as_json))
    interrupts: Interrupts = context.obj
    interrupts.last_words = lambda: _complain_stopped(reporter, interrupts)
    try:
        with reporter:
            result = run_config(loaded, reporter, classes)
    except KeyboardInterrupt:
        interrupts.say_last_words()
        raise typer.Exit(errors.INTERRUPTED) from None
    if as_json:
        _print_json(result.summary)
    else:
        show_result(Console(), result)
    if result.too_many_failures(allow_gaps):
        videos = result.metrics["coverage"]["videos"]
        _complain(
            f"{videos['failed']} of {videos['asked']} videos failed, more than run.max_failure_rate "
            f"{loaded.run.max_failure_rate} allows; all else is kept"
        )
        raise typer.Exit(errors.TOO_MANY_FAILURES)
    if loaded.strict and result.gaps and not allow_gaps:
        _complain(
            f"the dataset has gaps ({counted(result.gaps)}), so these are not the protocol's figures; "
            f"{result.summary['run_dir']}/missing.parquet names each, and --allow-gaps accepts them"
        )
        raise typer.Exit(errors.TOO_MANY_FAILURES)


@app.command()
def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    as_json: AsJson = False,
    engine: EngineName = None,
) -> None:
    """Show what is cached, what a run would compute, and why. Computes nothing."""
    loaded = _load(config, overrides, engine)
    made = make_plan(loaded)
    stages, total = _planned(made)
    if as_json:
        _print_json({"store": made.store.path(), "stages": stages, "estimate": total})
        return
    show_plan(Console(), f"{loaded.name}, in {made.store.path()}", stages, total)


@app.command("make-clips")
def make_clips(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Where to write the clips and their tables.")],
    seed: Annotated[int, typer.Option(min=0, help="Which clips: the same seed gives the same ones.")] = 0,
    train: Annotated[int, typer.Option(min=0, help="How many to train on.")] = 0,
    val: Annotated[int, typer.Option(min=0, help="How many to validate on.")] = 0,
    test: Annotated[int, typer.Option(min=0, help="How many to test on; 200 where no number is given at all.")] = 0,
) -> None:
    """Write short clips of moving coloured shapes, with captions, to train and to try things out on."""
    from clip2video_pipe.stages.datasets.shapes import write_splits

    if not (train or val or test):
        test = 200
    try:
        tables = write_splits(folder, seed, train=train, val=val, test=test)
    except (OSError, ValueError) as error:
        raise RequestError(f"make-clips {str(folder)!r}: {error}") from error
    typer.echo(f"{train + val + test} clips, captions in {', '.join(map(str, tables))}")


def _load(path: Path, overrides: Sequence[str] | None, engine: str | None, address: str | None = None) -> Config:
    said = [
        f"run.{key}={json.dumps(value)}"
        for key, value in (("engine", engine), ("address", address))
        if value is not None
    ]
    return load_config(path, [*(overrides or []), *said])


def _planned(made: Plan) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Each stage of a plan, and the estimate of all."""
    steps = list(made.steps)
    scoring = made.scoring() if made.embedded else []
    rows = [
        {
            "stage": step.name,
            "key": step.identity.key,
            "manifest": step.hash,
            "status": step.status,
            "items": len(step.items),
            "reused": len(step.items) - len(step.missing),
            "missing": len(step.missing),
            "failed": step.manifest.counts["failed"] if step.manifest else None,
            "why": step.why(),
        }
        for step in [*steps, *scoring]
    ]
    if made.captions and not scoring:
        unknown = dict.fromkeys(("key", "manifest", "reused", "failed"))
        queries = len(made.queries)
        waits = {"items": queries, "missing": queries, "why": "waits for the embeddings"}
        rows.append({"stage": "similarity", "status": "missing", **unknown, **waits})
    each, total = estimates(made, scoring)
    for row in rows:
        name = str(row["stage"])
        found = each.get(name)
        row["estimate"] = found.said() if found else dict(UNKNOWN) if name in each else None
    return rows, total


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))


def _complain(message: str) -> None:
    typer.echo(f"clip2video-pipe: {message}", err=True)


def _complain_stopped(reporter: Reporter, interrupts: Interrupts) -> None:
    reporter.hide()
    for line in reporter.kept():
        typer.echo(line, err=True)
    beside = ", with the passwords and queries of its addresses, which are left out here" if interrupts.hides else ""
    _complain(f"stopped; what is done is kept, and this goes on{beside}: {interrupts.command}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code. Ctrl-C stops in order; a second one leaves at once."""
    with Interrupts(argv) as interrupts:
        try:
            app(args=argv, prog_name="clip2video-pipe", obj=interrupts)
        except SystemExit as done:
            return done.code if isinstance(done.code, int) else errors.DONE
    return errors.DONE


if __name__ == "__main__":
    sys.exit(main())
