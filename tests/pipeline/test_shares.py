"""Each core has one master, and nobody waits for a core that never comes free."""

import pytest

from clip2video_pipe.pipeline.engines.shares import Shares, share_out


@pytest.mark.parametrize(
    ("cpus", "gpus", "decoding", "expected"),
    [
        (1, 0, True, Shares(1, 0, 0, decoders=1, threads=1, threads_alone=1)),
        (2, 0, True, Shares(1, 1, 0, decoders=1, threads=1, threads_alone=2)),
        (2, 0, False, Shares(1, 2, 0, decoders=1, threads=2, threads_alone=2)),
        (64, 0, True, Shares(4, 8, 0, decoders=32, threads=8, threads_alone=16)),
        (16, 4, True, Shares(4, 1, 1, decoders=12, threads=1, threads_alone=4)),
        (2, 4, True, Shares(4, 0, 1, decoders=2, threads=1, threads_alone=1)),
    ],
)
def test_shares_of_one_machine(cpus, gpus, decoding, expected):
    assert share_out(cpus, gpus, embedding=True, decoding=decoding, one_machine=True) == expected


@pytest.mark.parametrize("cpus", range(1, 70))
@pytest.mark.parametrize("gpus", [0, 1, 8])
def test_no_core_is_promised_twice(cpus, gpus):
    shares = share_out(cpus, gpus, embedding=True, decoding=True, one_machine=False)
    assert shares.actors * shares.actor_cpus + shares.decoders <= max(cpus, 1 + shares.actors * shares.actor_cpus)
    assert shares.decoders >= 1
    assert shares.threads_alone == shares.threads


def test_without_embedding_all_decode():
    assert share_out(8, 2, embedding=False, decoding=True, one_machine=True).decoders == 8
