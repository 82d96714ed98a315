"""The project's own small corpus: coloured shapes in motion, with captions that say which and how."""

from clip2video_pipe.stages.datasets.shapes.writing import write_clips, write_splits

__all__ = ["write_clips", "write_splits"]
