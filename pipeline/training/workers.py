"""Where a training runs: in this process, or in workers that Ray Train starts."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from clip2video_pipe.manifests.store import Store, StoreError
from clip2video_pipe.models.errors import DeviceError, WeightsError
from clip2video_pipe.pipeline.errors import EngineError, RequestError
from clip2video_pipe.pipeline.training.loop import Training, Worker, work
from clip2video_pipe.pipeline.training.telling import Following, Lines, Record

PATIENCE = 7200  # seconds that workers wait for one another: the first one validates meanwhile
FAULT = "fault.txt"  # why another attempt would fail as well
FAILURES = 3  # workers that may die: then all begin again, from the last checkpoint


def train_here(training: Training, say: Callable[[str], object]) -> None:
    """Train in this process, on its GPU where there is one."""
    settings = training.config.train
    on_gpu = torch.cuda.is_available() and training.config.embed.device != "cpu"
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    with Record(training.out, Lines(settings.epochs, say)) as tell:
        work(training, Worker(0, 1, torch.device("cuda" if on_gpu else "cpu")), tell)


def train_on_ray(training: Training, say: Callable[[str], object]) -> None:
    """Train in `train.workers` processes of a Ray cluster, that of `run.address` or one of our own.

    `train.out` has to be a folder that all of them see. Raises RequestError or EngineError.
    """
    import ray
    import ray.train
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from clip2video_pipe.pipeline.engines.ray_engine import connect

    settings, run = training.config.train, training.config.run
    if " " in sys.executable:  # Ray starts workers of an environment of their own by an unquoted command
        raise RequestError(
            f"run.engine: Ray Train starts no workers of a Python whose path has a space, {sys.executable!r}; "
            "use run.engine: inline, or install elsewhere"
        )
    fault = training.out / FAULT
    fault.unlink(missing_ok=True)
    started = connect(run.address, run.ship_code)
    try:
        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        on_gpus = training.config.embed.device != "cpu" and there.get("GPU", 0) >= settings.workers
        trainer = TorchTrainer(
            _work_on_ray,
            train_loop_config={"training": training, "on_gpus": on_gpus, "folder": str(Path.cwd())},
            scaling_config=ScalingConfig(num_workers=settings.workers, use_gpu=on_gpus),
            torch_config=TorchConfig(backend="nccl" if on_gpus else "gloo", timeout_s=PATIENCE),
            run_config=RunConfig(
                name="ray", storage_path=str(training.out.absolute()), failure_config=FailureConfig(FAILURES)
            ),
        )
        with Following(training.out, Lines(settings.epochs, say)):
            trainer.fit()
    except ray.train.TrainingFailedError as error:
        if fault.exists():
            raise EngineError(fault.read_text(encoding="utf-8")) from error
        causes = [str(cause).strip() for cause in getattr(error, "worker_failures", {}).values()]
        why = next((cause.splitlines()[-1] for cause in causes if cause), str(error).strip().splitlines()[-1])
        raise EngineError(f"training: {why}; the last checkpoint is kept") from error
    except ray.exceptions.RayError as error:
        raise EngineError(f"training: {str(error).splitlines()[0]}; the last checkpoint is kept") from error
    finally:
        if started:
            ray.shutdown()


def _work_on_ray(said: dict[str, Any]) -> None:
    import ray.train
    import ray.train.torch

    os.chdir(said["folder"])  # Ray Train starts workers in a folder of its own; paths of a config may be relative
    training: Training = said["training"]
    context = ray.train.get_context()
    if not said["on_gpus"]:
        here = max(1, context.get_local_world_size())
        torch.set_num_threads(training.config.train.threads or max(1, (os.cpu_count() or 1) // here))
    worker = Worker(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    fault = training.out / FAULT
    if fault.exists():
        raise EngineError(fault.read_text(encoding="utf-8"))
    try:
        if worker.rank:
            work(training, worker, lambda event, **said: None)
        else:
            with Record(training.out) as tell:
                work(training, worker, tell)
    except (DeviceError, EngineError, RequestError, StoreError, WeightsError) as error:
        Store(str(training.out)).write(str(error).encode(), FAULT)
        raise
