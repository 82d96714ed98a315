"""The command line of `clip2video-pipe`: commands that run, plan and show here, the others in files of their own."""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from clip2video_pipe.manifests.store import StoreError
from clip2video_pipe.models.errors import DeviceError, WeightsError
from clip2video_pipe.pipeline import errors
from clip2video_pipe.pipeline.compare_command import compare_runs
from clip2video_pipe.pipeline.config import load_config
from clip2video_pipe.pipeline.errors import EngineError, RequestError
from clip2video_pipe.pipeline.explain_command import explain_video
from clip2video_pipe.pipeline.export_command import export_vectors
from clip2video_pipe.pipeline.gc_command import collect_garbage
from clip2video_pipe.pipeline.options import AsJson, ConfigPath, Overrides
from clip2video_pipe.pipeline.plan import Plan, make_plan, open_store
from clip2video_pipe.pipeline.progress import Reporter
from clip2video_pipe.pipeline.run import run as run_config
from clip2video_pipe.pipeline.settings import Config
from clip2video_pipe.pipeline.show import counted, show_metrics, show_result
from clip2video_pipe.pipeline.status import last_run
from clip2video_pipe.pipeline.verify_command import verify_stores
from clip2video_pipe.pipeline.weights_commands import weights


class Commands(TyperGroup):
    """Commands that say in one line what is wrong, and exit with the code for it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (RequestError, WeightsError, DeviceError) as error:
            code, message = errors.BAD_REQUEST, str(error)
        except BrokenPipeError:  # who read the output has enough: `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(errors.FAULT) from None
        except (StoreError, EngineError, OSError) as error:
            code, message = errors.FAULT, str(error)
        except KeyboardInterrupt:
            code, message = errors.INTERRUPTED, "stopped; finished shards are kept, and the same command goes on"
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
app.command("explain")(explain_video)
app.command("export")(export_vectors)
app.command("gc")(collect_garbage)
app.command("verify")(verify_stores)

EngineName = Annotated[str | None, typer.Option("--engine", help="ray or inline; overrides run.engine.")]


@app.command()
def run(
    config: ConfigPath,
    overrides: Overrides = None,
    as_json: AsJson = False,
    engine: EngineName = None,
    allow_gaps: Annotated[
        bool,
        typer.Option(
            "--allow-gaps", help="Exit code 0 where files are missing, or a strict config's dataset has other gaps."
        ),
    ] = False,
) -> None:
    """Compute what is missing and print the metrics.

    Exit code 3: more videos failed than run.max_failure_rate, or a strict config's dataset has gaps.
    """
    loaded = _load(config, overrides, engine)
    with Reporter(Console(stderr=True, quiet=as_json)) as reporter:
        result = run_config(loaded, reporter)
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
    stages = _planned(made)
    if as_json:
        _print_json({"store": made.store.path(), "stages": stages})
        return
    table = Table(title=f"{loaded.name}, in {made.store.path()}", title_justify="left", box=None)
    for column in ("stage", "status", "items", "there", "missing", "failed", "why"):
        right = column in ("items", "there", "missing", "failed")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in stages:
        shown = ("stage", "status", "items", "reused", "missing", "failed", "why")
        table.add_row(*("" if row[name] is None else str(row[name]) for name in shown))
    Console().print(table)


@app.command()
def status(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show how the last run of a config went, or how far it is."""
    loaded = load_config(config, overrides or [], files=False)
    found = last_run(open_store(loaded), loaded.name)
    if as_json:
        _print_json(found)
        return
    console = Console()
    console.print(f"{found['run_dir']}: {found['state']}", highlight=False, soft_wrap=True)
    table = Table(box=None)
    for column in ("stage", "items", "done", "failed", "rate"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for row in found["stages"]:
        rate = f"{row['rate']:.1f}/s" if row["rate"] else ""
        table.add_row(row["stage"], str(row["items"]), str(row["done"]), str(row["failed"]), rate)
    if found["stages"]:
        console.print(table)
    else:
        console.print("nothing had to be computed", highlight=False)
    if found["metrics"]:
        show_metrics(console, found["metrics"])


@app.command("make-clips")
def make_clips(
    folder: Annotated[Path, typer.Argument(help="Where to write the clips and clips.jsonl.")],
    count: Annotated[int, typer.Option(min=1, help="How many clips.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Which clips: the same seed gives the same ones.")] = 0,
) -> None:
    """Write short clips of moving coloured shapes, with captions, to try things out on."""
    from clip2video_pipe.stages.datasets.shapes import write_clips

    try:
        table = write_clips(folder, count, seed)
    except (OSError, ValueError) as error:
        raise RequestError(f"make-clips {str(folder)!r}: {error}") from error
    typer.echo(f"{count} clips, captions in {table}")


def _load(path: Path, overrides: Sequence[str] | None, engine: str | None) -> Config:
    return load_config(path, [*(overrides or []), *([f"run.engine={engine}"] if engine else [])])


def _planned(made: Plan) -> list[dict[str, Any]]:
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
    return rows


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))


def _complain(message: str) -> None:
    typer.echo(f"clip2video-pipe: {message}", err=True)


def _interrupted(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # whatever Ray is in the middle of, the next one is not waited for
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code. Ctrl-C stops in order; a second one leaves at once."""
    before = {number: signal.signal(number, _interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        app(args=argv, prog_name="clip2video-pipe")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else errors.DONE
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return errors.DONE


if __name__ == "__main__":
    sys.exit(main())
