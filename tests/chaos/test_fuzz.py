"""A small helping of `make fuzz`."""

import subprocess
import sys
from pathlib import Path


def test_broken_files_harm_nobody_else():
    command = [sys.executable, str(Path(__file__).with_name("fuzz.py")), "--files", "40", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every file is accounted for" in done.stdout
