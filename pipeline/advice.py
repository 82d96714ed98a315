"""What would make of a failure something else: the setting, as it is now, or the thing to mend."""

from clip2video_pipe.pipeline.settings import Config
from clip2video_pipe.stages.frames import Frames
from clip2video_pipe.stages.video_embeddings import VideoEmbeddings


def advice(error: str, stage: str, config: Config) -> str:
    """For an error class of docs/configuration.md, by the stage in which the item failed, in words."""
    sampling, run = config.sampling, config.run
    again = "the next run tries again"
    other = "av" if sampling.decoder == "decord" else "decord"
    match error:
        case "timeout" if stage != Frames.name:
            return f"run.compute_timeout (now {run.compute_timeout:g} s); {again}"
        case "crashed" if stage != Frames.name:
            batch = f", or embed.batch_frames (now {config.embed.batch_frames})"
            smaller = batch if stage == VideoEmbeddings.name else ""
            return f"the memory that workers have{smaller}; 'run --retry crashed' tries again"
        case "missing":
            return f"put the file there; relative paths start at dataset.root; {again}"
        case "unreadable":
            decoder = ", or sampling.decoder: av" if sampling.decoder == "decord" else ""
            return f"mend the file, its permissions or its address{decoder}; once it reads otherwise {again}"
        case "no-video-stream":
            return "no setting: the file has no moving picture; give another, or take it out of the dataset"
        case "no-frames":
            grid = f"sampling.keep_every (now {sampling.keep_every}), sampling.grid_fps (now {sampling.grid_fps:g})"
            return f"{grid}, sampling.min_frames (now {sampling.min_frames}), or its start and end"
        case "damaged":
            kept = f"sampling.damaged (now {sampling.damaged}), sampling.min_frames (now {sampling.min_frames})"
            return f"{kept}, or a file that is whole"
        case "timeout":
            return f"run.decode_timeout (now {run.decode_timeout:g} s); {again}"
        case "out-of-memory":
            return f"run.decode_memory (now {run.decode_memory / 1e9:g} GB); {again}"
        case "crashed":
            return f"mend the file or take it out of the dataset, or sampling.decoder: {other} (now {sampling.decoder})"
        case "empty-caption":
            return "the caption's text: give another, or take it out of the dataset"
        case "no-captions":
            return "its captions: each says what became of it"
        case "not-finite":
            return f"the weights (model.checkpoint, model.clip), or embed.precision (now {config.embed.precision})"
    return "see docs/configuration.md, Failures"
