"""The stages that score, on made-up vectors in a store, against formulas written out in one matrix."""

import shutil

import numpy as np
import pyarrow as pa
import pytest

from clip2video_pipe.manifests import schemas
from clip2video_pipe.manifests.manifest import StageIdentity, commit
from clip2video_pipe.manifests.places import Places
from clip2video_pipe.manifests.schemas import FAILED, OK
from clip2video_pipe.manifests.shards import Outcome, ShardWriter, outcome_table
from clip2video_pipe.manifests.store import Store, StoreError
from clip2video_pipe.stages.embedding import embedding_columns
from clip2video_pipe.stages.entrants import entrants
from clip2video_pipe.stages.post_scores import POST_STAGES
from clip2video_pipe.stages.scoring import SOURCE
from clip2video_pipe.stages.similarity import Similarity

WIDTH = 8
SCALE = 10.0
CENTER = 0.3
VIDEOS = 6  # video 5 has no captions, video 4 failed
CAPTIONS = {"c0": 0, "c1": 0, "c2": 1, "c3": 2, "c4": 2, "c5": 3, "c6": 4}  # caption: video
CONTENTS = {"c0": "a", "c1": "b", "c2": "a", "c3": "c", "c4": "d", "c5": "e", "c6": "f"}  # two say the same
BANK = ["b", "d", "g", "h"]


class Corpus:
    """Listings and embeddings of the above in a store, and the vectors by name."""

    def __init__(self, store, seed=0):
        rng = np.random.default_rng(seed)
        self.store = store
        self.manifests = {}
        bad = Outcome(FAILED, "damaged", "nothing of it decodes")
        names = [f"v{n}" for n in range(VIDEOS)]
        well = [Outcome(OK)] * VIDEOS
        videos = {"video_id": [f"video {n}" for n in range(VIDEOS)], "video": [f"pixels {n}" for n in range(VIDEOS)]}
        self.write("videos", schemas.VIDEOS, names, well, videos)
        owners = [f"video {v}" for v in CAPTIONS.values()]
        said = {"caption_id": list(CAPTIONS), "video_id": owners, "caption": list(CONTENTS.values()), "text": owners}
        self.write("captions", schemas.CAPTIONS, list(CAPTIONS), [Outcome(OK)] * len(CAPTIONS), said)
        contents = sorted({*CONTENTS.values(), *BANK})
        self.pixels, self.texts = self.vectors(rng, videos["video"]), self.vectors(rng, contents)
        outcomes = [bad if n == 4 else Outcome(OK) for n in range(VIDEOS)]
        self.write(
            "video_embeddings", schemas.video_embeddings(WIDTH), videos["video"], outcomes, self.columns(self.pixels, 4)
        )
        scale = {"scale": [SCALE] * len(contents), "words": [5] * len(contents)}
        columns = self.columns(self.texts) | scale
        outcomes = [Outcome(OK)] * len(contents)
        self.write("caption_embeddings", schemas.caption_embeddings(WIDTH), contents, outcomes, columns)
        self.write("query_bank", schemas.QUERY_BANK, BANK, [Outcome(OK)] * len(BANK), {"text": BANK})

    @staticmethod
    def vectors(rng, names):
        def unit():
            both = rng.standard_normal((2, WIDTH)).astype(np.float32)
            return both / np.linalg.norm(both, axis=1, keepdims=True)

        return {name: unit() for name in names}

    @staticmethod
    def columns(vectors, failed=None):
        ok = np.arange(len(vectors)) != (len(vectors) if failed is None else failed)
        both = np.stack(list(vectors.values()))[ok]
        return embedding_columns(ok, np.ascontiguousarray(both[:, 0]), np.ascontiguousarray(both[:, 1]))

    def write(self, stage, schema, items, outcomes, columns):
        identity = StageIdentity(stage, 1, {}, {})
        with ShardWriter(self.store, stage, identity.key, items, schema) as writer:
            writer.write(outcome_table(schema, items, outcomes, columns))
        places = Places()
        places.add(writer.shard, items)
        self.manifests[stage] = commit(self.store, identity, items, places)

    def stage(self, kind=Similarity, **settings):
        tables = [self.manifests[name].table() for name in ("videos", "captions")]
        outcomes = [
            self.manifests[f"{name}_embeddings"].items.select(schemas.ITEM_COLUMNS) for name in ("video", "caption")
        ]
        common = {"entrants": entrants(*tables, *outcomes).digest, "center_weight": CENTER, "top_k": 3}
        if kind is Similarity:
            common["save_matrix"] = True
        hashes = {name: manifest.hash for name, manifest in self.manifests.items()}
        return kind(store=self.store, manifests=hashes, **common | settings)

    def score(self, *rest, **settings):
        stage = self.stage(*rest, **settings)
        stage.setup()
        items = [*CAPTIONS, *(f"v{n}" for n in range(VIDEOS) if n != 5)]
        rows = stage.process(pa.table({"item": items}, SOURCE)).to_pylist()
        assert [row["item"] for row in rows] == items
        return {row["item"]: row for row in rows}

    def matrix(self, contents=None):
        """float64 scores of contents (of all captions but the failed video's) over videos 0, 1, 2, 3 and 5."""
        contents = contents or [content for name, content in CONTENTS.items() if CAPTIONS[name] != 4]
        both = [self.texts[c] @ self.pixels[f"pixels {v}"].T for c in contents for v in (0, 1, 2, 3, 5)]
        scores = [SCALE * (CENTER * m[0, 0] + (1 - CENTER) * m[1, 1]) for m in both]
        return np.array(scores, np.float64).reshape(len(contents), 5)


OWNERS = np.array([0, 0, 1, 2, 2, 3])


@pytest.fixture
def corpus(tmp_path):
    return Corpus(Store(str(tmp_path)))


def assert_ranked(rows, scores, own, names=("better", "equal")):
    for row, values, mine in zip(rows, scores, own, strict=True):
        values = values.astype(np.float32)
        assert row["score"] == pytest.approx(values[mine], rel=1e-5)
        assert row[names[0]] == (values > values[mine] + 1e-5).sum()
        assert row[names[1]] == (abs(values - values[mine]) <= 1e-5).sum() - 1


@pytest.mark.parametrize("memory", [10**9, 300])
def test_scores_are_products_whatever_the_memory(corpus, memory):
    rows = corpus.score(memory=memory)
    matrix = corpus.matrix()
    texts = [rows[f"c{n}"] for n in range(6)]
    assert_ranked(texts, matrix, OWNERS)
    assert np.array([row["scores"] for row in texts]) == pytest.approx(matrix, abs=1e-5)
    groups = np.stack([matrix[g == OWNERS].max(axis=0) for g in range(4)], axis=1)[:4]
    assert_ranked([rows[f"v{n}"] for n in range(4)], groups, np.arange(4))


def test_the_pool_counts_each_caption_of_others(corpus):
    rows = corpus.score()
    matrix = corpus.matrix().T
    for video in range(4):
        best = matrix[video, video == OWNERS].max()
        others = matrix[video, video != OWNERS]
        assert rows[f"v{video}"]["pool_better"] == (others > best + 1e-5).sum()
        assert rows[f"v{video}"]["pool_equal"] == (abs(others - best) <= 1e-5).sum()


def test_the_best_wrong_match_is_named(corpus):
    rows = corpus.score(top_k=0)
    for n, values in enumerate(corpus.matrix()):
        values[OWNERS[n]] = -np.inf
        assert rows[f"c{n}"]["wrong_id"] == f"video {[0, 1, 2, 3, 5][values.argmax()]}"
        assert rows[f"c{n}"]["wrong_score"] == pytest.approx(values.max(), rel=1e-5)
        assert rows[f"c{n}"]["top_ids"] == []


def test_who_cannot_be_scored_says_why(corpus):
    rows = corpus.score()
    assert (rows["c6"]["status"], rows["c6"]["error"]) == ("failed", "damaged")
    assert rows["c6"]["message"] == "its video failed: nothing of it decodes"
    assert rows["v4"]["error"] == "damaged"


def test_dual_softmax_and_sinkhorn_look_at_all_queries(corpus):
    matrix = corpus.matrix()
    groups = np.stack([matrix[g == OWNERS].max(axis=0) for g in range(4)], axis=1)[:4]
    for scores, items, own in (
        (matrix, [f"c{n}" for n in range(6)], OWNERS),
        (groups, [f"v{n}" for n in range(4)], np.arange(4)),
    ):
        rows = corpus.score(POST_STAGES["dual-softmax"])
        assert_ranked([rows[item] for item in items], scores * np.exp(scores) / np.exp(scores).sum(axis=0), own)
        rows = corpus.score(POST_STAGES["sinkhorn"])
        potentials = np.zeros(scores.shape[1])
        for _ in range(10):
            f = -np.log(np.exp(scores + potentials).sum(axis=1, keepdims=True))
            potentials = -np.log(np.exp(scores + f).sum(axis=0))
        assert_ranked([rows[item] for item in items], scores + potentials, own)


def test_a_query_bank_changes_queries_whose_best_video_is_the_banks(corpus):
    rows = corpus.score(POST_STAGES["qb-norm"])
    matrix, bank = corpus.matrix(), corpus.matrix(BANK)
    beta = 20 / SCALE
    normalised = beta * matrix - np.log(np.exp(beta * bank).sum(axis=0))
    active = np.isin(matrix.argmax(axis=1), bank.argmax(axis=1))
    assert 0 < active.sum() < len(active), "the test needs queries of both kinds"
    assert_ranked([rows[f"c{n}"] for n in range(6)], np.where(active[:, None], normalised, matrix), OWNERS)


def test_a_score_that_is_no_number_is_a_failed_query(tmp_path):
    corpus = Corpus(Store(str(tmp_path)))
    corpus.texts["e"][0, 0] = np.nan
    shutil.rmtree(tmp_path / "caption_embeddings")  # else those of before would be kept
    contents = sorted(corpus.texts)
    columns = corpus.columns(corpus.texts) | {"scale": [SCALE] * len(contents), "words": [5] * len(contents)}
    corpus.write(
        "caption_embeddings", schemas.caption_embeddings(WIDTH), contents, [Outcome(OK)] * len(contents), columns
    )
    rows = corpus.score()
    assert rows["c5"]["error"] == "not-finite"
    assert rows["c5"]["scores"] is None
    assert rows["c0"]["status"] == "ok"


def test_listings_that_changed_are_not_scored(corpus):
    with pytest.raises(StoreError, match="changed"):
        corpus.stage(entrants="others").setup()
