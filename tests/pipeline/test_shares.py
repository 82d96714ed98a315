"""Each core has one master, and nobody waits for a core that never comes free."""

import pytest

from clip2video_pipe.pipeline.engines.shares import Share, share_out


@pytest.mark.parametrize(
    ("cpus", "gpus", "decoding", "expected"),
    [
        (1, 0, True, Share(1, 0, 0, decoders=1, threads=1, threads_alone=1)),
        (2, 0, True, Share(1, 1, 0, decoders=1, threads=1, threads_alone=2)),
        (2, 0, False, Share(1, 2, 0, decoders=1, threads=2, threads_alone=2)),
        (64, 0, True, Share(4, 8, 0, decoders=32, threads=8, threads_alone=16)),
        (16, 4, True, Share(4, 1, 1, decoders=12, threads=1, threads_alone=4)),
        (2, 4, True, Share(4, 0, 1, decoders=2, threads=1, threads_alone=1)),
        (0, 0, True, Share(0, 0, 0, decoders=0, threads=1, threads_alone=1)),
    ],
)
def test_what_a_machine_does(cpus, gpus, decoding, expected):
    assert share_out(cpus, gpus, embedding=True, decoding=decoding) == expected


@pytest.mark.parametrize("decoding", [True, False])
@pytest.mark.parametrize("gpus", [0, 1, 8])
@pytest.mark.parametrize("cpus", [1, 2, 3, 17, 96])
def test_no_core_is_promised_twice(cpus, gpus, decoding):
    share = share_out(cpus, gpus, embedding=True, decoding=decoding)
    assert share.actors * share.actor_cpus <= cpus
    assert share.decoders >= 1
    if decoding:
        assert share.actors * share.actor_cpus + share.decoders <= cpus


def test_without_embedding_all_decode():
    assert share_out(8, 2, embedding=False, decoding=True).decoders == 8


def test_a_machine_without_a_gpu_decodes_for_those_that_have_one():
    share = share_out(8, 0, embedding=True, decoding=True, gpus_elsewhere=True)
    assert (share.actors, share.decoders) == (0, 8)
