"""How far each stage of a run is, from its events. Pure: the same for a run that goes and for one that has ended."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from clip2video_pipe.pipeline.events import Event
from clip2video_pipe.pipeline.schedule import TRIES

RECENT = 60.0  # seconds that a recent rate looks back
FEWEST = 4  # units that it looks back at, however long they took


@dataclass
class StageCount:
    """A stage of a run. Items and units of this run, but for `asked` and `there`."""

    stage: str
    asked: int | None = None  # items that the config asks for; None where the run did not say
    there: int = 0  # of them, when the run began
    items: int = 0  # to be computed
    done: int = 0
    units: int | None = 0  # None where the run did not say
    units_done: int = 0
    in_flight: dict[int, int] = field(default_factory=dict)  # items of each unit that was begun, by its number
    errors: Counter[str] = field(default_factory=Counter)
    lost: int = 0  # times that a unit's worker died
    given_up: int = 0  # units that were tried for the last time, and then item by item
    finished: list[tuple[float, int]] = field(default_factory=list)  # when each unit ended, and its items
    began: float | None = None
    ended: float | None = None

    @property
    def left(self) -> int:
        return self.items - self.done

    @property
    def failed(self) -> int:
        return self.errors.total()

    @property
    def cached(self) -> bool:
        """Whether the run had nothing to do for it."""
        return not self.items and self.asked is not None and self.there >= self.asked

    @property
    def rate(self) -> float | None:
        """Items a second, from its first unit to its last one so far; None before there is one."""
        if self.began is None or self.ended is None or not self.done:
            return None
        return self.done / max(1e-3, self.ended - self.began)

    def recent_rate(self, now: float) -> float | None:
        """Items a second over the last minute, or the last few units where those took longer."""
        if self.began is None or not self.finished:
            return None
        ordered = sorted(self.finished)
        first = min(
            next((n for n, (ended, _) in enumerate(ordered) if ended > now - RECENT), len(ordered)),
            max(0, len(ordered) - FEWEST),
        )
        since = ordered[first - 1][0] if first else self.began
        return sum(items for _, items in ordered[first:]) / max(1e-3, max(now, ordered[-1][0]) - since)


def count(events: Iterable[Event]) -> dict[str, StageCount]:
    """Each stage that the run spoke of, by name, in the order in which it did. A stage queued anew begins anew."""
    stages: dict[str, StageCount] = {}
    for event in events:
        if event["event"] == "planned":
            for name, said in event["stages"].items():
                stages[name] = StageCount(name, said["items"], said["there"])
        elif event["event"] == "queued":
            before = stages.get(event["stage"]) or StageCount(event["stage"])
            stages[event["stage"]] = StageCount(
                event["stage"], before.asked, before.there, items=event["items"], units=event.get("units")
            )
        elif event.get("stage") in stages:
            _add(stages[event["stage"]], event)
    return stages


def _add(stage: StageCount, event: Event) -> None:
    if event["event"] == "started":
        stage.in_flight[event["unit"]] = event["items"]
    elif event["event"] == "released":
        stage.in_flight.pop(event["unit"], None)
    elif event["event"] == "lost":
        stage.in_flight.pop(event["unit"], None)
        stage.lost += 1
        if event["tries"] >= TRIES and event["items"] > 1:  # its items are units of their own from now on
            stage.given_up += 1
            stage.units = stage.units and stage.units - 1 + event["items"]
    elif event["event"] == "finished":
        stage.in_flight.pop(event.get("unit", -1), None)
        stage.done += event["items"]
        stage.units_done += 1
        stage.errors.update(event.get("errors") or {})
        when: float = event["time"]
        began, ended = event.get("began", when), event.get("ended", when)
        stage.finished.append((ended, event["items"]))
        stage.began = began if stage.began is None else min(stage.began, began)
        stage.ended = ended if stage.ended is None else max(stage.ended, ended)


def seconds_to_go(stages: Mapping[str, StageCount], now: float) -> tuple[dict[str, float | None], float | None]:
    """Of each stage with something left, and of all that are queued; None where nothing tells it yet."""
    each: dict[str, float | None] = {}
    for name, stage in stages.items():
        if stage.left > 0:
            rate = stage.recent_rate(now)
            each[name] = stage.left / rate if rate else None
    known = [seconds for seconds in each.values() if seconds is not None]
    return each, max(known, default=0.0) if len(known) == len(each) else None


def described(stages: Mapping[str, StageCount], now: float, *, going: bool) -> Iterator[dict[str, Any]]:
    """What `status --json` says of each stage. Only of a run that is `going` there is a recent rate and time to go."""
    each, _ = seconds_to_go(stages, now)
    for name, stage in stages.items():
        waiting = None if stage.units is None else stage.units - stage.units_done - len(stage.in_flight)
        yield {
            "stage": name,
            "status": _status(stage, going),
            "asked": stage.asked,
            "there": stage.there,
            "items": stage.items,
            "done": stage.done,
            "failed": stage.failed,
            "errors": dict(stage.errors.most_common()),
            "units": {"done": stage.units_done, "in_flight": len(stage.in_flight), "left": waiting},
            "lost": stage.lost,
            "given_up": stage.given_up,
            "rate": stage.rate,
            "recent_rate": stage.recent_rate(now) if going and stage.left else None,
            "seconds_to_go": each.get(name) if going else None,
        }


def _status(stage: StageCount, going: bool) -> str:
    if stage.cached:
        return "cached"
    if stage.items and not stage.left:
        return "done"
    if not going:
        return "unfinished"
    return "going" if stage.items else "to come"
