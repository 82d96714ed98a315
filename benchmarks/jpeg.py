"""What `frames.encoding: jpeg` does to vectors and the disk: `make bench-jpeg`. Full-size weights, real clips."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from benchmarks.decode import MEDIA, VIDEOS
from benchmarks.ratios import Ratio, conclude
from clip2video_pipe.manifests.shards import ShardWriter
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.models.clip2video import Clip2Video
from clip2video_pipe.models.presets import PRESETS, Variant
from clip2video_pipe.stages.frames import SOURCE, Frames
from clip2video_pipe.stages.jpeg import decompress
from clip2video_pipe.stages.sampling import Sampling
from tests.golden import inputs

QUALITIES = (75, 90, 95)


def model() -> Clip2Video:
    """ViT-B/32 whose every value is made from its name, as for the golden figures."""
    made = Clip2Video(PRESETS["vit-b-32"], Variant())
    state = {name: torch.from_numpy(inputs.array(name, tuple(v.shape))) for name, v in made.state_dict().items()}
    made.load_state_dict(state)
    return made.eval()


def frames(stage: Frames, paths: list[Path], folder: str) -> tuple[list[np.ndarray], int]:
    """Pictures of each clip, and the bytes of their shard."""
    names = [str(path) for path in paths]
    columns = {"item": names, "path": [os.fsencode(path) for path in paths]}
    nothing = pa.nulls(len(paths), pa.float64())
    rows = stage.process(pa.table({**columns, "start": nothing, "end": nothing}, SOURCE))
    with ShardWriter(Store(folder), stage.name, stage.identity.key, names, stage.schema) as writer:
        writer.write(rows)
    size = stage.size
    found = []
    for pictures in filter(None, rows["pictures"].to_pylist()):
        if stage.encoding == "raw":
            found.append(np.frombuffer(b"".join(pictures), np.uint8).reshape(-1, size, size, 3))
        else:
            found.append(np.stack([decompress(data) for data in pictures]))
    return found, writer.shard.size


def main() -> None:
    paths = sorted(path for path in MEDIA.glob("*") if path.suffix in VIDEOS)
    if not paths:
        raise SystemExit(f"there are no real clips at {MEDIA}: made ones say nothing of photographs")
    common = {"sampling": Sampling(), "size": 224}
    network = model()

    def vectors(clips: list[np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            each = (network.embed_videos(torch.tensor(c), [len(c)], 12) for c in clips)
            return np.stack([[np.asarray(part).ravel() for part in both] for both in each])

    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        raw, raw_bytes = frames(Frames(**common), paths, folder)  # type: ignore[arg-type]
        expected = vectors(raw)
        each = raw_bytes / len(raw) / 1e6
        print(f"{len(raw)} clips, {sum(map(len, raw))} pictures; raw: {each:.2f} MB a clip in a shard")
        for quality in QUALITIES:
            stage = Frames(**common, encoding="jpeg", quality=quality)  # type: ignore[arg-type]
            clips, size = frames(stage, paths, folder)
            cosines = (vectors(clips) * expected).sum(-1)
            each = size / len(clips) / 1e6
            said = f"cosines: least {cosines.min():.5f}, mean {cosines.mean():.5f}; {each:.2f} MB a clip"
            print(f"quality {quality}: {said}")
            if quality == 95:
                ratios.append(Ratio("raw over jpeg bytes, quality 95", raw_bytes / size, 3.0, detail=said))
    conclude(ratios)


if __name__ == "__main__":
    main()
