"""Two hosts on one machine: network namespaces with addresses of their own, and a Ray cluster over both."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

RAY = "from ray.scripts.scripts import main; main()"
PORTS = [
    "--min-worker-port=20002",
    "--max-worker-port=20999",
    "--node-manager-port=20000",
    "--object-manager-port=20001",
]
SIZES = ["--object-store-memory=100000000", "--disable-usage-stats"]
FAST_TO_NOTICE = {
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass
class Host:
    """A network namespace with one address: what runs in it sees its own loopback, and the other host."""

    space: str
    address: str
    environment: dict[str, str]

    def popen(self, *words, **how) -> subprocess.Popen:
        command = ["ip", "netns", "exec", self.space, *map(str, words)]
        return subprocess.Popen(command, env=self.environment, **how)

    def ray(self, *words, python=sys.executable):
        """`ray start`, which leaves the node's processes running in the namespace."""
        folder = self.environment["RAY_TMPDIR"]
        told = [*words, f"--node-ip-address={self.address}", f"--temp-dir={folder}", *PORTS, *SIZES]
        with self.popen(
            python, "-c", RAY, "start", *told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as started:
            said, _ = started.communicate(timeout=60)
        assert started.returncode == 0, said

    def processes(self) -> dict[int, str]:
        """What runs in the namespace: command lines, by process id."""
        found = {}
        listed = subprocess.run(["ip", "netns", "pids", self.space], capture_output=True, text=True, check=False)
        for pid in map(int, listed.stdout.split()):
            with contextlib.suppress(OSError):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return found

    def freeze(self, title: str) -> bool:
        """Whether a Ray worker is at work on this, which from now on it never finishes."""
        for pid, command in self.processes().items():
            if command.startswith(title):
                os.kill(pid, signal.SIGSTOP)
                if self.processes().get(pid, "").startswith(title):
                    return True
                os.kill(pid, signal.SIGCONT)  # it had finished meanwhile
        return False

    def cut_off(self):
        subprocess.run(["ip", "-n", self.space, "link", "set", "wire", "down"], check=True)

    def end(self):
        until = time.monotonic() + 5
        while (left := self.processes()) and time.monotonic() < until:  # they may start others as they end
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        subprocess.run(["ip", "netns", "del", self.space], capture_output=True, check=False)


def _no_namespaces() -> str:
    """Why there can be none; an empty text where there can."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        return "network namespaces need root and the command `ip`"
    space = f"c2v{os.getpid()}-try"
    tried = subprocess.run(["ip", "netns", "add", space], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)
    return tried.stderr.strip()


@pytest.fixture
def hosts(home):
    """A head and a worker, 10.77.0.1 and 10.77.0.2, joined by one wire; all that runs in them ends with the test."""
    why = _no_namespaces()
    if why:
        pytest.skip(f"no network namespaces here: {why}")
    with contextlib.ExitStack() as stack:
        made = []
        for name, address in (("head", "10.77.0.1"), ("worker", "10.77.0.2")):
            # Sockets live in here, whose paths may have 107 bytes: pytest's own folders are too deep.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="c2v", ignore_cleanup_errors=True))
            without = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "RAY_ADDRESS")
            environment = {name: value for name, value in os.environ.items() if name not in without}
            environment |= {**FAST_TO_NOTICE, "HOME": str(home), "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
            host = Host(f"c2v{os.getpid()}-{name}", address, environment)
            stack.callback(host.end)
            subprocess.run(["ip", "netns", "add", host.space], check=True)
            made.append(host)
        head, worker = made
        wire = ["name", "wire", "netns"]
        subprocess.run(
            ["ip", "link", "add", *wire, head.space, "type", "veth", "peer", *wire, worker.space], check=True
        )
        for host, other in ((head, worker), (worker, head)):
            for words in (
                ["link", "set", "lo", "up"],
                ["addr", "add", f"{host.address}/24", "dev", "wire"],
                ["link", "set", "wire", "up"],
                ["route", "add", "default", "via", other.address],  # by it Ray finds which address is the host's own
            ):
                subprocess.run(["ip", "-n", host.space, *words], check=True)
        yield head, worker


@pytest.fixture
def wait_until():
    """A function that waits until something has happened, and fails when that takes longer than so many seconds."""

    def wait(happened, seconds: float, what: str):
        until = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < until, f"{what}: not within {seconds} s"
            time.sleep(0.01)

    return wait
