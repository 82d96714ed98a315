"""`deploy/slurm.sh`: shell without faults, directives that sbatch knows. `tests/chaos/hosts/test_slurm.py` runs it."""

import re
import shutil
import subprocess

import pytest

DIRECTIVES = {"job-name", "nodes", "ntasks-per-node", "cpus-per-task", "gpus-per-node", "time", "requeue", "no-kill"}
DIRECTIVES |= {"open-mode", "signal"}


def test_shell(deploy):
    subprocess.run(["bash", "-n", deploy / "slurm.sh"], check=True)


def test_shellcheck(deploy):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", deploy / "slurm.sh"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_directives_come_first_and_are_known(deploy):
    lines = (deploy / "slurm.sh").read_text().splitlines()
    first_command = next(n for n, line in enumerate(lines) if not line.startswith("#"))
    said = {n: match[1] for n, line in enumerate(lines) if (match := re.match(r"#SBATCH --([a-z-]+)", line))}
    assert set(said.values()) == DIRECTIVES
    assert max(said) < first_command, "sbatch reads none after the first command"


def test_steps_have_the_cpus_that_ray_is_told(deploy):
    text = (deploy / "slurm.sh").read_text().replace("\\\n", "")
    steps = re.findall(r"^ *(srun .* )ray start .*--num-cpus=\"\$cpus\"", text, re.MULTILINE)
    assert len(steps) == 2 and all('--cpus-per-task="$cpus"' in step for step in steps)
