"""decord: the same frames as PyAV, or a refusal that says why."""

import numpy as np
import pytest

from clip2video_pipe.stages.decoding import DecodeError, decode, decode_segments, packets
from clip2video_pipe.stages.sampling import Sampling

pytest.importorskip("decord", reason="decord is not installed: it has no wheel for this platform")

SAMPLING = Sampling(max_frames=8)
NEAR = 6.0  # mean difference of a byte: decord makes RGB before it is made small, with colours of half the size


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_the_frames_of_pyav(write_video, numbers, codec):
    path = write_video(frames=60, streams=((192, codec),))
    ours, its = (decode(path, SAMPLING, 48, decoder=decoder) for decoder in ("av", "decord"))
    assert numbers(its.pictures) == numbers(ours.pictures)
    assert its.times.tolist() == ours.times.tolist()
    assert np.abs(its.pictures.astype(int) - ours.pictures).mean() < NEAR
    assert (its.rate, its.decoded, its.width, its.height) == (ours.rate, ours.decoded, ours.width, ours.height)


def test_segments(write_video, numbers):
    path = write_video(frames=60, streams=((192, "libx264"),))
    cuts = [(0.4, 1.0), (0.8, None)]
    ours, its = (decode_segments(path, SAMPLING, 48, cuts, decoder=decoder) for decoder in ("av", "decord"))
    assert [numbers(clip.pictures) for clip in its] == [numbers(clip.pictures) for clip in ours]


@pytest.mark.parametrize(
    ("video", "why"),
    [
        ({"name": "a.mkv", "streams": ((64, "libsvtav1"),)}, "cannot open AV1"),
        ({"name": "a.mkv", "streams": ((48, "libx264"), (96, "libx264"))}, "several video streams"),
    ],
)
def test_what_it_gets_wrong_is_refused_by_name(write_video, video, why):
    with pytest.raises(DecodeError, match=rf"decord .*{why}.*; use sampling\.decoder: av") as caught:
        decode(write_video(**video), SAMPLING, 48, decoder="decord")
    assert caught.value.failure == "unreadable"


@pytest.mark.parametrize("name", ["video_90.mov", "av1_video.mkv"])
def test_real_clips_that_are_refused(real_clip, name):
    with pytest.raises(DecodeError, match=r"use sampling\.decoder: av"):
        decode(real_clip(name), SAMPLING, 48, decoder="decord")


@pytest.mark.parametrize(
    "name", ["video1.mp4", "vid1.mp4", "nasa_13013.mp4", "corrupted.mp4", "flipping_a_pancake.mkv"]
)
def test_real_clips_are_the_same_or_refused(real_clip, name):
    try:
        its = decode(real_clip(name), SAMPLING, 64, decoder="decord")
    except DecodeError as error:
        assert "use sampling.decoder: av" in str(error)
        return
    ours = decode(real_clip(name), SAMPLING, 64)
    assert its.times.tolist() == ours.times.tolist()
    assert np.abs(its.pictures.astype(int) - ours.pictures).mean() < 2 * NEAR


def test_a_rotated_clip_is_refused_however_long_it_is(real_clip, monkeypatch):
    monkeypatch.setattr(packets, "HELD", 0)
    with pytest.raises(DecodeError, match="decord may show rotated videos as they are stored"):
        decode(real_clip("video_90.mov"), SAMPLING, 48, decoder="decord")
