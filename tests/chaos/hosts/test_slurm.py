"""`deploy/slurm.sh` with a Slurm of two hosts: `srun` and `scontrol` are played, Ray and the pipeline are real."""

import importlib.util
import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clip2video_pipe.stages.datasets.shapes import write_clips

SITE = Path(__file__).parents[1] / "site"
SCRIPT = Path(__file__).parents[3] / "deploy" / "slurm.sh"
SRUN = """\
#!/bin/bash
where=
while [[ $1 == -* ]]; do
    [[ $1 == --nodelist=head ]] && where=head
    [[ $1 == --exclude=head ]] && where=worker
    shift
done
case $where in
    head) exec "$@" ;;
    worker) exec ip netns exec {worker} "$@" ;;
    *) echo "srun: which node?" >&2; exit 1 ;;
esac
"""
SCONTROL = """\
#!/bin/bash
case $1 in
    show) printf 'head\\nworker\\n' ;;
    requeue) echo "$2" > {requeued} ;;
esac
"""


@pytest.fixture
def slurm(hosts, tmp_path):
    """A function that starts the script in the middle of an allocation of both hosts."""
    head, worker = hosts
    tools = tmp_path / "tools"
    tools.mkdir()
    requeued = shlex.quote(str(tmp_path / "requeued"))
    for name, text in (
        ("srun", SRUN.format(worker=worker.space)),
        ("scontrol", SCONTROL.format(requeued=requeued)),
    ):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    head.environment |= {
        "PATH": f"{tools}:{head.environment['PATH']}",
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "head,worker",
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "CLIP2VIDEO_VENV": sys.prefix,
    }
    return lambda *words: head.popen(
        "bash", SCRIPT, *words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.skipif(
    " " in sys.executable and importlib.util.find_spec("grpc") is not None,
    reason=f"with gRPC installed 'ray start --head --block' ends where a Python's path has a space: {sys.executable!r}",
)
def test_it_stops_before_its_time_is_up_and_goes_on_when_it_is_started_again(slurm, hosts, wait_until, tmp_path):
    write_clips(tmp_path, 40, 0, seconds=1.0, size=(96, 64), fps=10)
    config = tmp_path / "my.yaml"
    config.write_text(
        f"{{name: slurm, dataset: {{kind: table, path: {tmp_path}/clips.jsonl, root: {tmp_path}}}, "
        f"model: {{preset: tiny, seed: 0}}, run: {{shard_items: 1}}, store: {tmp_path}/artifacts}}"
    )
    slowly = tmp_path / "chaos.json"  # so that something is left to do, however long the worker takes to join
    slowly.write_text('[{"at": "^decode$", "do": "sleep", "seconds": 2, "nth": "every"}]')
    for host in hosts:
        host.environment |= {"CHAOS_FILE": str(slowly), "PYTHONPATH": str(SITE)}
    with slurm(config) as job:
        try:
            wait_until(lambda: list(tmp_path.glob("artifacts/frames/*/*.parquet")), 60, "the first shard")
            wait_until(lambda: any("raylet" in said for said in hosts[1].processes().values()), 60, "the worker")
            slowly.write_text("[]")
            job.send_signal(signal.SIGUSR1)
            said, _ = job.communicate(timeout=30)
        finally:
            job.kill()
    assert job.returncode == 0, said
    assert (tmp_path / "requeued").read_text() == "4711\n"
    assert [host.processes() for host in hosts] == [{}, {}], "nothing is left running"
    (tmp_path / "requeued").unlink()
    with slurm(config, "--set", "run.max_failure_rate=0") as job:
        try:
            said, _ = job.communicate(timeout=60)
        finally:
            job.kill()
    assert job.returncode == 0, said
    assert not (tmp_path / "requeued").exists()
    [summary] = tmp_path.glob("artifacts/runs/slurm/*/run.json")
    frames = next(stage for stage in json.loads(summary.read_text())["stages"] if stage["stage"] == "frames")
    assert frames["reused"] > 0 and frames["reused"] + frames["computed"] == 40
