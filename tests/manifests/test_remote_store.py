"""A store that is not a local folder: objects appear whole, and a run needs nothing else."""

import pytest

from clip2video_pipe.manifests.store import Store


def test_an_object_whose_writer_fails_is_never_there(bucket):
    store = Store("s3://bucket/prefix")
    assert not store.local
    with pytest.raises(RuntimeError), store.writing("folder", "object") as sink:
        sink.write(b"half")
        raise RuntimeError
    assert store.read("folder", "object") is None
    store.write(b"whole", "folder", "object")
    assert store.read("folder", "object") == b"whole"
    assert store.stamps("folder") == {"object": (5, None)}
