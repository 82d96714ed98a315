"""What a config asks for, beside what the store already has. Nothing is computed here, and no Ray or torch loaded."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clip2video_pipe.manifests import keys
from clip2video_pipe.manifests.faults import point
from clip2video_pipe.manifests.fingerprints import Fingerprints
from clip2video_pipe.manifests.manifest import Known, Manifest, StageIdentity, commit, known, latest, load
from clip2video_pipe.manifests.places import Places
from clip2video_pipe.manifests.schemas import ITEM_COLUMNS, OK
from clip2video_pipe.manifests.shards import remove_shard
from clip2video_pipe.manifests.store import Store, StoreError
from clip2video_pipe.models.precision import best_precision
from clip2video_pipe.models.sources import find_checkpoint, find_clip, tensor_files
from clip2video_pipe.pipeline.datasets import read_listing
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.settings import Config
from clip2video_pipe.pipeline.training_lists import training_captions, training_warnings
from clip2video_pipe.stages.base import Stage
from clip2video_pipe.stages.caption_embeddings import CaptionEmbeddings
from clip2video_pipe.stages.decoding.apart import Limits
from clip2video_pipe.stages.entrants import Entrants, entrants
from clip2video_pipe.stages.frames import Frames
from clip2video_pipe.stages.listing import LISTING_VERSION, Listing, list_bank
from clip2video_pipe.stages.model import ModelSpec
from clip2video_pipe.stages.post_scores import POST_STAGES
from clip2video_pipe.stages.sampling import Sampling
from clip2video_pipe.stages.scoring import VIDEO_TO_TEXT, Direction, Scoring
from clip2video_pipe.stages.similarity import Similarity
from clip2video_pipe.stages.video_embeddings import VideoEmbeddings


@dataclass
class Step:
    """A stage of a plan: the items asked for, in order, and where those lie that are there."""

    store: Store
    identity: StageIdentity
    items: Sequence[str]
    stage: Stage | None = None  # None: the rows are the driver's own listing
    kept: bool = True  # otherwise its shards go when they are used: there is nothing that a manifest could name
    retry: Collection[str] = ()  # classes of failures that count as not there
    again: bool = True  # whether those of the moment do
    tried: Collection[str] = ()  # items of which neither does: they have just failed again
    manifest: Manifest | None = field(init=False)
    cached: bool = field(init=False)  # whether its manifest was there before this run
    changed: int = field(init=False)  # shards that are not in the store as its manifest says
    passing: int = field(init=False)  # items whose failure may have been of the moment
    retried: int = field(init=False)  # items whose failure is of a class to `retry`

    def __post_init__(self) -> None:
        found = load(self.store, self.name, self.hash)
        self.changed = found.changed() if found else 0
        self.passing = found.passing if found and self.again else 0
        self.retried = found.failed(self.retry) if found else 0
        self.cached = found is not None and not (self.changed or self.passing or self.retried)
        self.manifest = found if self.cached else None

    @property
    def name(self) -> str:
        return self.identity.stage

    @cached_property
    def hash(self) -> str:
        return keys.manifest_hash(self.identity.key, self.items)

    @cached_property
    def known(self) -> Known:
        """What the store has of its key, where its manifest is not there or does not tell."""
        return known(self.store, self.name, self.identity.key, self.retry, again=self.again, tried=self.tried)

    @cached_property
    def places(self) -> Places:
        return self.manifest.places if self.manifest else self.known.places

    @cached_property
    def missing(self) -> list[str]:
        """Items to compute, as they were when the step was made."""
        return [] if self.manifest else self.places.missing(self.items)

    @property
    def outcomes(self) -> pa.Table:
        """What became of each of its items: rows of ITEM. Ask when they are all there."""
        return self.places.table(self.items).select(ITEM_COLUMNS)

    @property
    def failures(self) -> list[str]:
        """Those of its missing items that have been tried since, and failed."""
        if not self.missing:
            return []
        absent = set(self.places.missing(self.missing))
        done = self.places.table([item for item in self.missing if item not in absent])
        failed: list[str] = done.filter(pc.not_equal(done["status"], OK))["item"].to_pylist()
        return failed

    @property
    def status(self) -> str:
        """`cached`: its manifest is there; `reused`: all its items are; `not kept`: none are needed; else `missing`."""
        if not self.kept and not self.missing:
            return "not kept"
        if self.cached:
            return "cached"
        return "missing" if self.missing else "reused"

    def clear(self) -> int:
        """Remove shards that cannot be used, so that they can be made anew; gives how many there were."""
        unsound = {} if self.manifest else self.known.damaged
        for name, seen in unsound.items():
            remove_shard(self.store, self.name, self.identity.key, name, seen)
        return len(unsound)

    def commit(self) -> Manifest:
        """Write its manifest, unless it is there. Not for a step that is not kept."""
        if self.manifest is None:
            self.manifest = commit(self.store, self.identity, self.items, self.places, self.hash)
        return self.manifest

    def why(self) -> str:
        """Why its missing items are missing, in words."""
        if not self.kept and not self.missing:
            return "nothing needs them, and they are not kept (run.keep_frames)"
        if not self.missing:
            return "" if self.cached else "its items are there, from other runs"
        if self.changed:
            return f"{self.changed} of its shards are gone or damaged"
        if self.retried:
            return f"{self.retried} of its items failed with {', '.join(self.retry)}, and are tried again"
        if self.passing:
            return f"{self.passing} of its items failed for a reason that may have passed, and are tried again"
        if len(self.missing) < len(self.items):
            return f"{len(self.missing)} of its items are new, or were not finished"
        other = latest(self.store, self.name, exclude=self.identity.key)
        if other is None:
            return "never run in this store"
        return "; ".join(_differences(other.info, self.identity)) or "none of its items has been computed"


def _differences(old: Any, new: StageIdentity) -> list[str]:
    """How a stage's identity differs from that of an earlier manifest."""
    found = []
    if old["version"] != new.version:
        found.append(f"its version went from {old['version']} to {new.version}")
    before, after = _flat(old["params"]), _flat(new.params)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            found.append(f"{name} went from {before.get(name)} to {after.get(name)}")
    if old["weights"] != new.weights:
        found.append("other weights")
    found += [f"other {name}" for name, key in new.inputs.items() if old["inputs"].get(name) != key]
    return found


def _flat(params: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in params.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


@dataclass
class Plan:
    """A config's stages up to the embeddings. Who can be scored is known when those are done: `scoring`."""

    config: Config
    store: Store
    listing: Listing
    videos: Step
    frames: Step
    video_embeddings: Step
    captions: Step | None  # None: the dataset has no captions, so there is nothing to score
    caption_embeddings: Step | None
    query_bank: Step | None  # training captions, where a method asks for them
    bank: pa.Table | None  # their rows
    warnings: tuple[str, ...]  # what the figures may not be read without
    retry: Collection[str] = ()  # classes of failures that count as not there

    @cached_property
    def texts(self) -> dict[str, str]:
        """All captions to embed, by key."""
        if self.bank is None:
            return self.listing.texts
        return self.listing.texts | dict(zip(*_columns(self.bank, "item", "text"), strict=True))

    @property
    def steps(self) -> list[Step]:
        listed = (self.videos, self.captions, self.query_bank)
        steps = (*listed, self.frames, self.video_embeddings, self.caption_embeddings)
        return [step for step in steps if step is not None]

    @property
    def embedded(self) -> bool:
        """Whether all vectors are there."""
        return not any(step.missing for step in (self.video_embeddings, self.caption_embeddings) if step)

    @cached_property
    def entrants(self) -> Entrants:
        """Who can be scored. Ask when the vectors are there."""
        assert self.caption_embeddings is not None, "there are captions"
        outcomes = [step.outcomes for step in (self.video_embeddings, self.caption_embeddings)]
        return entrants(self.listing.videos, self.listing.captions, *outcomes)

    def scoring(self) -> list[Step]:
        """The stages that score; none where there are no captions. Call it when the vectors are there."""
        if self.captions is None or self.caption_embeddings is None:
            return []
        model, score, who = self.config.model, self.config.score, self.entrants
        read = [self.videos, self.captions, self.video_embeddings, self.caption_embeddings]
        inputs = {step.name: step.identity.key for step in read[2:]}
        common: dict[str, Any] = {
            "entrants": who.digest,
            "center_weight": model.center_weight if model.alignment != "none" else 1.0,
            "top_k": score.top_k,
            "store": self.store,
            "memory": score.memory,
            "seconds": self.config.run.compute_timeout,
        }
        hashes = {step.name: step.hash for step in read}
        plain = Similarity(
            save_matrix=score.save_matrix,
            videos=max(1, len(who.videos)),
            manifests=hashes,
            inputs=inputs,
            **common,
        )
        stages: list[Scoring] = [plain]
        for method in score.post:
            bank = {}
            if method == "qb-norm" and self.query_bank:
                bank = {"query_bank": self.query_bank.hash}
            stages.append(POST_STAGES[method](manifests=hashes | bank, inputs=inputs | bank, **common))
        return [
            Step(self.store, stage.identity, self._queries(stage.directions), stage, retry=self.retry)
            for stage in stages
        ]

    @property
    def queries(self) -> list[str]:
        """Listing rows that are queries of similarity: every caption, and every video that was given one."""
        return self._queries(Similarity.directions)

    def _queries(self, directions: Sequence[Direction]) -> list[str]:
        captions: list[str] = self.listing.captions["item"].to_pylist()
        if VIDEO_TO_TEXT not in directions:
            return captions
        described = set(self.listing.captions["video_id"].to_pylist())
        videos = self.listing.videos.select(["item", "video_id"]).to_pylist()
        return [*captions, *(row["item"] for row in videos if row["video_id"] in described)]


def make_plan(
    config: Config,
    *,
    remember: bool = False,
    retry: Collection[str] = (),
    again: bool = True,
    tried: Mapping[str, Collection[str]] | None = None,
) -> Plan:
    """Read the dataset and the store; with `remember`, write down what was read of files, and nothing else.

    Items that failed with a class of `retry` count as not there, and those that failed for a reason of the moment:
    a run tries them again. Without `again` the latter are as the last run left them; and so are, by stage, the items
    that were `tried` since this run began.

    Raises RequestError, or WeightsError where weights are not there any more.
    """
    point("plan")
    store = open_store(config)
    fingerprints = Fingerprints(store)
    try:
        listing = read_listing(config, store, fingerprints, remember=remember)
        model = model_spec(config, fingerprints)
    finally:
        if remember:
            fingerprints.save()  # a large corpus takes long to read: what was read stays known if the rest fails
    frames, videos, captions = embedding_stages(config, model)
    described = bool(listing.captions.num_rows)
    bank = list_bank(training_captions(config)) if described and "qb-norm" in config.score.post else None
    contents = listing.source_keys
    texts = listing.text_keys if bank is None else list(dict.fromkeys([*listing.text_keys, *bank["item"].to_pylist()]))

    def computed(stage: Stage, items: Sequence[str], *, kept: bool = True) -> Step:
        just = (tried or {}).get(stage.name, ())
        return Step(store, stage.identity, items, stage, kept=kept, retry=retry, again=again, tried=just)

    embeddings = computed(videos, contents)
    keep = config.run.keep_frames
    return Plan(
        config=config,
        store=store,
        listing=listing,
        videos=_listed(store, "videos", listing.videos, {"digest": config.dataset.digest}),
        frames=computed(frames, contents if keep else embeddings.missing, kept=keep),
        video_embeddings=embeddings,
        captions=_listed(store, "captions", listing.captions, {}) if described else None,
        caption_embeddings=computed(captions, texts) if described else None,
        query_bank=None if bank is None else _listed(store, "query_bank", bank, {}),
        bank=bank,
        warnings=training_warnings(config, listing.videos),
        retry=retry,
    )


def embedding_stages(config: Config, model: ModelSpec) -> tuple[Frames, VideoEmbeddings, CaptionEmbeddings]:
    """The stages of a config that make vectors, whatever its dataset."""
    embed = config.embed
    precision = best_precision(embed.device) if embed.precision == "auto" else embed.precision
    size = model.size.image_size
    frames = Frames(
        sampling=Sampling(
            policy=config.sampling.policy,
            grid_fps=config.sampling.grid_fps,
            keep_every=config.sampling.keep_every,
            max_frames=config.sampling.max_frames,
            candidates=config.sampling.candidates,
        ),
        size=size,
        decoder=config.sampling.decoder,
        min_frames=config.sampling.min_frames,
        damaged=config.sampling.damaged,
        encoding=config.frames.encoding,
        quality=config.frames.quality or 95,
        limits=Limits(config.run.decode_timeout, config.run.decode_memory),
        seconds=config.run.compute_timeout,
    )
    common: dict[str, Any] = {
        "model": model,
        "precision": precision,
        "device": embed.device,
        "compiled": embed.compile,
        "seconds": config.run.compute_timeout,
    }
    videos = VideoEmbeddings(
        max_frames=config.sampling.max_frames,
        batch_frames=embed.batch_frames,
        inputs={"frames": frames.identity.key},
        **common,
    )
    captions = CaptionEmbeddings(max_words=config.model.max_words, **common)
    return frames, videos, captions


def _columns(table: pa.Table, *names: str) -> list[list[Any]]:
    return [table[name].to_pylist() for name in names]


def open_store(config: Config) -> Store:
    """The store that a config names. Raises RequestError."""
    try:
        store = Store(config.store)
        store.reach()
        return store
    except StoreError as error:
        raise RequestError(str(error)) from error


def _listed(store: Store, name: str, table: pa.Table, params: dict[str, Any]) -> Step:
    identity = StageIdentity(name, LISTING_VERSION, params, {})
    return Step(store, identity, table["item"].to_pylist())


def model_spec(config: Config, fingerprints: Fingerprints) -> ModelSpec:
    """The model that a config names, its files by their contents. Raises WeightsError or RequestError."""
    model = config.model
    weights: dict[str, Path] = {}
    if model.clip is not None:
        weights["clip"] = find_clip(model.clip).absolute()
    if model.checkpoint is not None:
        weights["checkpoint"] = find_checkpoint(model.checkpoint).absolute()
    if model.seed is not None:
        said: dict[str, Any] = {"untrained": model.seed, "preset": model.preset}
    else:
        said = {}
        for name, path in weights.items():
            said[name] = _contents(name, path, fingerprints)
    return ModelSpec(
        preset=model.preset,
        variant=model.variant,
        digest=keys.digest(said),
        clip=str(weights["clip"]) if "clip" in weights else None,
        checkpoint=str(weights["checkpoint"]) if "checkpoint" in weights else None,
        seed=model.seed,
    )


def _contents(name: str, path: Path, fingerprints: Fingerprints) -> str | list[str]:
    """Digest of the tensors of `model.clip` or `model.checkpoint`; of each file's, where they are in several."""
    files = tensor_files(path)
    digests: list[str] = []
    for file, content in zip(files, fingerprints.of(files, "full"), strict=True):
        if isinstance(content, OSError):
            raise RequestError(f"model.{name}: {str(file)!r}: {content.strerror or content}") from content
        digests.append(content)
    return digests[0] if len(digests) == 1 else digests
