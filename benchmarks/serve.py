"""Many people at the page at once: `make bench-serve` asks a server, for half a minute once it is warm."""

import asyncio
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import numpy as np

CONFIG = "conf/demo.yaml"
CLIENTS, SECONDS = 32, 30.0
WARM = 40.0  # seconds that are not counted: the model prepares each size of batch when it first comes
COMMAND = [sys.executable, "-m", "clip2video_pipe.pipeline.cli", "serve", CONFIG, "--port", "0"]


async def client(address: str, texts: list[str], until: float, taken: list[float], errors: list[str]) -> None:
    """Search, and look at what was found, until time is up."""
    draw = random.Random(len(taken))
    async with httpx2.AsyncClient(base_url=address, timeout=30) as http:
        while time.monotonic() < until:
            start = time.perf_counter()
            answer = await http.get("api/search", params={"q": draw.choice(texts), "k": 24})
            taken.append(time.perf_counter() - start)
            if answer.status_code != 200:
                errors.append(f"{answer.status_code} {answer.text[:80]}")
                continue
            hit = answer.json()["hits"][0]["key"]
            for path in (f"api/videos/{hit}", f"api/videos/{hit}/poster"):
                again = await http.get(path)
                if again.status_code != 200:
                    errors.append(f"{path}: {again.status_code}")


async def load(address: str, texts: list[str], pid: int, seconds: float) -> tuple[list[float], list[str], list[int]]:
    """Seconds of each search, what went wrong, and bytes that the server held each second."""
    taken: list[float] = []
    errors: list[str] = []
    held: list[int] = []
    until = time.monotonic() + seconds
    tasks = [asyncio.create_task(client(address, texts, until, taken, errors)) for _ in range(CLIENTS)]
    while time.monotonic() < until:
        await asyncio.sleep(1)
        held.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096)
    await asyncio.gather(*tasks)
    return taken, errors, held


def main() -> None:
    """Print what was measured; exit code 1 where an answer was an error, or memory grew."""
    rows = [json.loads(line) for line in Path("data/demo/test.jsonl").read_text().splitlines()]
    texts = [caption for row in rows for caption in row["captions"]]
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            said = server.stdout.readline()
            address = next(word for word in said.split() if word.startswith("http")).rstrip(";")
            asyncio.run(load(address, texts, server.pid, WARM))
            taken, errors, held = asyncio.run(load(address, texts, server.pid, SECONDS))
        finally:
            server.terminate()
    middle, slow = np.quantile(taken, [0.5, 0.95])
    grown = (np.mean(held[-5:]) - np.mean(held[len(held) // 2 - 5 : len(held) // 2])) / 1e6
    print(f"{CLIENTS} clients, {SECONDS:.0f} s: {len(taken)} searches, {len(taken) / SECONDS:.0f} a second")
    print(f"a search takes {1000 * middle:.0f} ms, p95 {1000 * slow:.0f} ms; errors: {len(errors)} {errors[:1]}")
    print(f"memory: {held[-1] / 1e6:.0f} MB, {grown:+.1f} MB over the second half")
    sys.exit(1 if errors or grown > 10 else 0)


if __name__ == "__main__":
    main()
