"""The command that goes on after a Ctrl-C has no password in it."""

import shlex

import pytest

from clip2video_pipe.pipeline.interrupts import PROGRAM, Interrupts

SECRET = "hunter2"  # noqa: S105


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (f"store=s3://key:{SECRET}@bucket/p", "store=s3://bucket/p"),
        (f"--set=store=s3://key:{SECRET}@bucket/a b?region=eu", "--set=store=s3://bucket/a b"),
        (f"dataset.root=https://host/a?sig={SECRET},'{SECRET}", "dataset.root=https://host/a"),
        (f"store=s3://key:{SECRET}@{SECRET}:1/", "store=s3://..."),
        (f"dataset.videos=[data, 's3://k:{SECRET},@b/c']", 'dataset.videos=["data", "s3://b/c"]'),
        (f"dataset={{path: s3://k:{SECRET}@b/c, digest: full}}", 'dataset={"path": "s3://b/c", "digest": "full"}'),
        (f"store=s3://k:{SECRET}@b/[: ", "store=s3://b/[: "),
        (f"dataset.videos=[s3://k:{SECRET}@b", "dataset.videos=..."),
    ],
)
def test_addresses_are_shown_without_their_secrets(word, said):
    interrupts = Interrupts(["run", "x.yaml", "--set", word])
    assert interrupts.hides
    assert shlex.split(interrupts.command) == [PROGRAM, "run", "x.yaml", "--set", said]


def test_words_without_secrets_stay_as_they_are():
    words = ["run", "a b.yaml", "--set", "store=s3://bucket/p", "--set=dataset.videos=[x,  gs://b/c]"]
    interrupts = Interrupts(words)
    assert not interrupts.hides
    assert shlex.split(interrupts.command) == [PROGRAM, *words]
