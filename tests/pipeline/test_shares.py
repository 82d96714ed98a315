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
    assert share_out([cpus], gpus, embedding=True, decoding=decoding) == expected


@pytest.mark.parametrize("decoding", [True, False])
@pytest.mark.parametrize("gpus", [0, 1, 8])
@pytest.mark.parametrize("nodes", [[2], [3], [17], [96], [2, 2], [4] * 4, [64, 8, 0], [1] * 5])
def test_no_core_is_promised_twice(nodes, gpus, decoding):
    shares = share_out(nodes, gpus, embedding=True, decoding=decoding)
    assert shares.actor_cpus <= min(count for count in nodes if count), "an actor fits into each machine"
    assert shares.actors * shares.actor_cpus <= sum(nodes)
    assert shares.decoders >= 1
    if decoding:
        assert shares.actors * shares.actor_cpus + shares.decoders <= sum(nodes)
    assert shares.threads_alone == shares.threads or len(nodes) == 1


def test_without_embedding_all_decode():
    assert share_out([8], 2, embedding=False, decoding=True).decoders == 8
