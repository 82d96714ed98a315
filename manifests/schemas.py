"""Arrow schemas of every table in the store.

Each begins with the same five columns: `item` (its key), `status` (`ok` or `failed`), for a failed row the `error` (a
class, one word) and the `message` (one line), and `passing`, whether that was of the moment, so that the next run tries
again. A failed row has nulls in the other columns. The message of an `ok` row,
where it has one, is a note: `class: text`.
"""

import pyarrow as pa

OK = "ok"
FAILED = "failed"

ITEM = [
    pa.field("item", pa.string(), nullable=False),
    pa.field("status", pa.string(), nullable=False),
    pa.field("error", pa.string()),
    pa.field("message", pa.string()),
    pa.field("passing", pa.bool_()),
]
ITEM_COLUMNS = [field.name for field in ITEM]

MANIFEST_ITEMS = pa.schema(
    [*ITEM, pa.field("shard", pa.string(), nullable=False), pa.field("row", pa.int32(), nullable=False)]
)

VIDEOS = pa.schema(
    [
        *ITEM,
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("video", pa.string()),  # the key of its pixels: `item` of frames and video_embeddings
        pa.field("start", pa.float64()),  # seconds from the file's first frame; null where it is the whole file
        pa.field("end", pa.float64()),
        pa.field("bytes", pa.int64()),
    ]
)

CAPTIONS = pa.schema(
    [
        *ITEM,
        pa.field("caption_id", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("caption", pa.string()),  # the key of its text: `item` of caption_embeddings
        pa.field("text", pa.string()),  # as the tokenizer sees it
    ]
)


def frames(size: int, *, raw: bool = True) -> pa.Schema:
    """Sampled frames: `pictures` holds up to L pictures, raw (uint8, `size` x `size` x RGB, row by row) or as JPEG."""
    return pa.schema(
        [
            *ITEM,
            pa.field("pictures", pa.list_(pa.binary(size * size * 3) if raw else pa.binary())),
            pa.field("times", pa.list_(pa.float64())),  # seconds from the clip's first frame, one a picture
            pa.field("rate", pa.float64()),  # frames a second
            pa.field("decoded", pa.int32()),  # frames that the clip shows
            pa.field("lost", pa.int32()),  # packets that did not decode; of those that had to be
            pa.field("width", pa.int32()),  # of the video as it is shown, pixels
            pa.field("height", pa.int32()),
        ]
    )


def video_embeddings(width: int) -> pa.Schema:
    """Unit vectors of `width` floats; `aligned` is null for models without an alignment block."""
    return pa.schema([*ITEM, *_vectors(width), pa.field("frames", pa.int32())])


def caption_embeddings(width: int) -> pa.Schema:
    """As for videos; `scale` is exp(logit_scale), the factor of this caption's scores; `words` its tokens."""
    return pa.schema([*ITEM, *_vectors(width), pa.field("words", pa.int32()), pa.field("scale", pa.float32())])


SIMILARITY = pa.schema(
    [
        *ITEM,
        pa.field("direction", pa.string()),  # text_to_video or video_to_text
        pa.field("query_id", pa.string()),  # a caption_id or a video_id
        pa.field("video_id", pa.string()),  # the video that the query belongs to
        pa.field("column", pa.int32()),  # of that video in `scores`
        pa.field("score", pa.float32()),  # the query's own: the logit of its video, or of its best caption
        pa.field("better", pa.int32()),  # how many others score higher
        pa.field("equal", pa.int32()),  # how many others score the same
        pa.field("pool_better", pa.int32()),  # the same with each caption for itself; for text_to_video no different
        pa.field("pool_equal", pa.int32()),
        pa.field("wrong_id", pa.string()),  # the best video that is not the query's own; null where there is no other
        pa.field("wrong_score", pa.float32()),
        pa.field("top_ids", pa.list_(pa.string())),  # the best video_ids, best first
        pa.field("top_scores", pa.list_(pa.float32())),
        pa.field("scores", pa.list_(pa.float32())),  # the matrix row; null for video_to_text, or when not saved
    ]
)


POST_SCORES = pa.schema([field for field in SIMILARITY if field.name != "scores"])

QUERY_BANK = pa.schema([*ITEM, pa.field("text", pa.string())])  # training captions; `item` of caption_embeddings


RANKS = pa.schema(  # of a run's ranks.parquet: a row a query, direction and method
    [
        pa.field("direction", pa.string(), nullable=False),  # text_to_video, or text_to_video+dual-softmax
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),  # the video that the query belongs to
        pa.field("rank", pa.float64(), nullable=False),  # from 1, by `score.ties`; by the expected one for `original`
        pa.field("better", pa.int32(), nullable=False),
        pa.field("equal", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),  # the query's own
        pa.field("wrong_id", pa.string()),  # its best wrong match
        pa.field("wrong_score", pa.float32()),
    ]
)

MISSING = pa.schema(  # of a run's missing.parquet
    [
        pa.field("what", pa.string(), nullable=False),  # video, caption or file
        pa.field("id", pa.string(), nullable=False),  # a video_id, a caption_id or a path
        pa.field("problem", pa.string(), nullable=False),  # a class, such as video-without-file
        pa.field("message", pa.string()),
    ]
)


def _vectors(width: int) -> list[pa.Field]:
    vector = pa.list_(pa.float32(), width)
    return [pa.field("global", vector), pa.field("aligned", vector)]
