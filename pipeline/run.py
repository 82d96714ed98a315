"""A run: plan, compute what is missing, commit, score, write down how it went."""

import os
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from clip2video_pipe.manifests.addresses import shown
from clip2video_pipe.manifests.retries import LostConnection
from clip2video_pipe.manifests.schemas import FAILED, OK
from clip2video_pipe.manifests.shards import Outcome, Shard, ShardWriter, failed_table
from clip2video_pipe.manifests.store import Damaged, Store
from clip2video_pipe.pipeline.config import public
from clip2video_pipe.pipeline.engines import workers
from clip2video_pipe.pipeline.errors import EngineError, RequestError
from clip2video_pipe.pipeline.estimates import planned, spent
from clip2video_pipe.pipeline.events import RUNS, EventLog
from clip2video_pipe.pipeline.plan import Plan, Step, make_plan
from clip2video_pipe.pipeline.progress import Reporter
from clip2video_pipe.pipeline.results import Results, measure
from clip2video_pipe.pipeline.schedule import Job, Listener, Schedule, Unit, summary
from clip2video_pipe.pipeline.settings import Config
from clip2video_pipe.pipeline.sharing import Sharing
from clip2video_pipe.pipeline.spent import SpentFrames
from clip2video_pipe.pipeline.status import left_behind
from clip2video_pipe.pipeline.words import several
from clip2video_pipe.pipeline.worker import Feed, Given, Stored
from clip2video_pipe.stages import caption_embeddings, frames
from clip2video_pipe.stages.decoding.failures import OF_THE_MOMENT
from clip2video_pipe.stages.scoring import SOURCE

LISTING_ROWS = 65536  # of a shard of a listing
TAKEN = 5  # times that other runs may take away the same file

Compute = Callable[[Schedule, Store], None]
Done = TypeVar("Done")


@dataclass(frozen=True)
class Result:
    """What a run made: `summary` is what `run --json` prints and `run.json` holds."""

    config: Config
    summary: Mapping[str, Any]

    @property
    def metrics(self) -> Mapping[str, Any]:
        metrics: Mapping[str, Any] = self.summary["metrics"]
        return metrics

    @property
    def gaps(self) -> Mapping[str, int]:
        """How many videos, captions and files do not fit together, by class."""
        gaps: Mapping[str, int] = self.metrics["coverage"]["gaps"]
        return gaps

    def too_many_failures(self, allow_gaps: bool) -> bool:
        """Whether more videos failed than the config allows; files that are not there are gaps, where those are."""
        videos = self.metrics["coverage"]["videos"]
        gone = videos["errors"].get("missing", 0) if allow_gaps else 0
        return bool(videos["failed"] - gone > self.config.run.max_failure_rate * (videos["asked"] - gone))


def run(config: Config, reporter: Reporter, retry: Collection[str] = ()) -> Result:
    """Run a config to its end. Raises RequestError, StoreError, or what a stage raised; what is done is kept.

    Items that failed with a class of `retry` are tried again, once. What the store turns out to have in a damaged
    state is dropped and made anew.
    """
    return _carry_out(config, reporter, retry, _run)


def decode(config: Config, reporter: Reporter) -> Plan:
    """Make the frames of a config's videos, and nothing that comes after them; raises what `run` does.

    In the plan that it gives they are all there, or have failed.
    """
    return _carry_out(config, reporter, (), _decode)


def _carry_out(
    config: Config, reporter: Reporter, retry: Collection[str], compute_all: Callable[["Going"], Done]
) -> Done:
    plan = make_plan(config, remember=True, retry=retry)
    again = {step.name for step in plan.steps if step.missing}
    for note in (*plan.listing.notes, *plan.warnings, *left_behind(plan.store, config.name, again)):
        reporter.say(note)
    run_parts = (RUNS, config.name, _stamp())
    try:
        plan.store.write_json(public(config.model_dump()), *run_parts, "config.json")
    except LostConnection:
        raise
    except OSError as error:
        raise RequestError(f"store: {shown(config.store)!r} cannot be written to: {error.strerror or error}") from error
    with EventLog(plan.store, run_parts, reporter.say) as log:

        def listen(event: str, **said: Any) -> None:
            log.add(event, **said)
            reporter.event(event, **said)

        log.add("run", config=config.name, host=socket.gethostname(), pid=os.getpid())
        sharing = Sharing(plan.store, run_parts, retry)
        lost, tried = Counter[str](), defaultdict[str, set[str]](set)
        while True:
            try:
                with workers(config.run.engine, config.run.address, config.run.ship_code) as compute:
                    return compute_all(Going(plan, compute, log, listen, sharing, run_parts))
            except Damaged as found:
                lost[str(found)] += 1
                if lost[str(found)] > (1 if found.seen else TAKEN):
                    raise  # it was made anew, and is damaged again
                listen("damaged", stage="", items=0, why=f"{found}; it is made anew")
                found.drop()
            for step in plan.steps:
                tried[step.name].update(step.failures)
            plan = make_plan(config, remember=True, retry=retry, tried=tried)


@dataclass(frozen=True)
class Going:
    """A run that has begun: what is to be done, who does it, and who is told."""

    plan: Plan
    compute: Compute
    log: EventLog
    listen: Listener
    sharing: Sharing
    parts: Sequence[str]  # its folder

    def schedule(self, jobs: Sequence[Job]) -> None:
        """Carry these jobs out."""
        work = _schedule(self.plan.config, self.plan.store, jobs, self.listen, self.sharing)
        self.compute(work, self.plan.store)


def _decode(going: Going) -> Plan:
    plan = going.plan
    going.listen("planned", stage="", items=0, stages=planned([plan.frames]))
    _clear(plan.frames, going.listen)
    going.schedule([job for job in _embedding_jobs(plan) if job.stage is plan.frames.stage])
    plan.frames.commit()
    return plan


def _run(going: Going) -> Result:
    plan, log, listen = going.plan, going.log, going.listen
    store, run_parts = plan.store, going.parts
    listen("planned", stage="", items=0, stages=planned(plan.steps))
    _commit_listing(plan.videos, plan.listing.videos, listen)
    if plan.captions:
        _commit_listing(plan.captions, plan.listing.captions, listen)
    if plan.query_bank:
        _commit_listing(plan.query_bank, plan.bank, listen)
    for step in plan.steps:
        _clear(step, listen)
    going.schedule(_embedding_jobs(plan))
    for step in plan.steps:
        if step.kept:
            step.commit()
    scoring = plan.scoring()
    listen("planned", stage="", items=0, stages=planned(scoring))
    for step in scoring:  # one after the other: each holds all vectors
        _clear(step, listen)
        going.schedule(_scoring_jobs(plan, step))
        step.commit()
    results = measure(plan, scoring)
    events = log.events()
    spans, costs = summary(events), spent(events)
    shared = Counter[str]()
    for event in events:
        if event.get("shared"):
            shared[event["stage"]] += event["items"]
    said: dict[str, Any] = {
        "run_dir": store.path(*run_parts),
        "stages": [
            _report(step, spans.get(step.name), shared[step.name]) | {"spent": costs.get(step.name)}
            for step in [*plan.steps, *scoring]
        ],
        "metrics": results.metrics,
        "warnings": list(plan.warnings),
    }
    results.write(store, run_parts)
    if plan.config.report:
        said["report"] = _report_page(plan, scoring, said, results, going)
    store.write_json(said, *run_parts, "run.json")
    return Result(plan.config, said)


def _report_page(
    plan: Plan, scoring: Sequence[Step], said: Mapping[str, Any], results: Results, going: Going
) -> dict[str, Any] | None:
    """Write report.html. Whatever goes wrong with that, all else is done: it is told, and is no failure."""
    from clip2video_pipe.pipeline.report.page import write_report

    try:
        return write_report(plan, scoring, said, results.tables, going.parts)
    except Exception as error:
        why = str(error).partition("\n")[0] or type(error).__name__
        going.listen("warning", stage="", items=0, why=f"no report.html was written: {why}")
        return None


def _clear(step: Step, listen: Listener) -> None:
    """Make room for what has to be made anew, and say what that is."""
    if count := step.clear():
        what = several(count, "damaged shard is", "damaged shards are")
        listen("damaged", stage=step.name, items=0, why=f"{step.name}: {what} made anew")
    if not step.manifest and (count := step.known.unread):
        why = f"{count} shards changed since they were written and were not read; 'verify' reads them"
        if count == 1:
            why = "1 shard changed since it was written and was not read; 'verify' reads it"
        listen("damaged", stage=step.name, items=0, why=f"{step.name}: {why}")


def _stamp() -> str:
    now = time.time()
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}Z"


def _commit_listing(step: Step, rows: pa.Table, listen: Listener) -> None:
    """The rows of a listing are made by the plan; those that the store lacks are written here."""
    _clear(step, listen)
    if step.missing:
        new = rows.filter(pc.is_in(rows["item"], pa.array(step.missing)))
        for start in range(0, new.num_rows, LISTING_ROWS):
            part = new.slice(start, LISTING_ROWS)
            items = part["item"].to_pylist()
            with ShardWriter(step.store, step.name, step.identity.key, items, rows.schema) as writer:
                writer.write(part)
            step.places.add(writer.shard, items)
    step.commit()


def _embedding_jobs(plan: Plan) -> list[Job]:
    def files(items: Sequence[str]) -> Feed:
        found = [plan.listing.sources[item] for item in items]
        return Given(
            pa.table(
                {
                    "item": items,
                    "path": [os.fsencode(source.path) for source in found],
                    "start": [source.start for source in found],
                    "end": [source.end for source in found],
                },
                frames.SOURCE,
            ),
            together="path",
        )

    def stored_frames(items: Sequence[str]) -> Feed:
        places = [plan.frames.places[item] for item in items]
        return Stored(plan.frames.name, plan.frames.identity.key, [(p.shard, p.row) for p in places])

    def captions(items: Sequence[str]) -> Feed:
        columns = {"item": items, "text": [plan.texts[item] for item in items]}
        return Given(pa.table(columns, caption_embeddings.SOURCE))

    decode = _job(plan.frames, files)
    if decode:
        decode.together = lambda item: plan.listing.sources[item].path
    embed = _job(plan.video_embeddings, stored_frames, decode)
    if embed and not plan.frames.kept:
        spent = SpentFrames(plan.frames, plan.video_embeddings)
        embed.finished = spent.embedded
        if decode:
            decode.finished = spent.decoded
    read = None
    if plan.caption_embeddings:
        # Shorter ones first, so that captions of like length share a shard and with it a batch.
        read = _job(plan.caption_embeddings, captions, order=lambda item: len(plan.texts[item]))
    return [job for job in (decode, embed, read) if job]


def _job(
    step: Step,
    feed: Callable[[Sequence[str]], Feed],
    source: Job | None = None,
    order: Callable[[str], int] | None = None,
) -> Job | None:
    """What is to be done of a step, in the dataset's order or that of `order`; None where that is nothing."""
    if not step.missing:
        return None
    missing = sorted(step.missing, key=order) if order else step.missing
    completed = step.commit if step.kept else lambda: None
    return Job(_stage(step), missing, step.places, feed, source, completed=completed, kept=step.kept)


def _stage(step: Step) -> Any:
    assert step.stage is not None
    return step.stage


def _scoring_jobs(plan: Plan, step: Step) -> list[Job]:
    if not step.missing:
        return []
    # Queries of one video, and of neighbouring columns, in one shard: their own scores lie in few tiles.
    who = plan.entrants
    at = {item: n for n, item in enumerate([*who.captions["item"].to_pylist(), *who.videos["item"].to_pylist()])}
    job = _job(step, _rows_of_items, order=lambda item: at.get(item, -1))
    return [job] if job else []


def _rows_of_items(items: Sequence[str]) -> Feed:
    return Given(pa.table({"item": items}, SOURCE))


def _schedule(config: Config, store: Store, jobs: Sequence[Job], listen: Listener, sharing: Sharing) -> Schedule:
    def record(unit: Unit, failure: str, why: str) -> Shard:
        stage = unit.job.stage
        if stage.blameless:
            raise EngineError(
                f"{stage.name}: {why}, {unit.tries} times; is there memory enough (score.memory)? What is done is kept"
            )
        outcome = Outcome(FAILED, failure, why, passing=failure in OF_THE_MOMENT)
        with ShardWriter(store, stage.name, stage.identity.key, unit.items, stage.schema) as writer:
            writer.write(failed_table(stage.schema, unit.items, outcome))
        return writer.shard

    return Schedule(jobs, config.run.shard_items, record, listen, sharing.find, sharing.start)


def _failed(step: Step) -> int:
    made = [item for item in step.items if item in step.places]  # another run may have made the others, and used them
    return int(pc.sum(pc.not_equal(step.places.table(made)["status"], OK).cast(pa.int64())).as_py() or 0)


def _report(step: Step, span: tuple[float, float] | None, shared: int) -> dict[str, Any]:
    manifest = step.commit() if step.kept else None
    computed = max(0, len(step.missing) - shared)
    return {
        "stage": step.name,
        "key": step.identity.key,
        "manifest": manifest and manifest.hash,
        "status": "computed" if computed else step.status,
        "items": len(step.items),
        "computed": computed,
        "reused": len(step.items) - computed,
        "failed": manifest.counts["failed"] if manifest else _failed(step),
        "seconds": round(span[1] - span[0], 3) if span else 0.0,
    }
