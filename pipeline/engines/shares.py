"""How a cluster's cores and GPUs are shared out between decoders and actors."""

from collections.abc import Sequence
from dataclasses import dataclass

CPUS_PER_ACTOR = 8  # at most, where there is no GPU: more threads than this wait for each other


@dataclass(frozen=True)
class Shares:
    """Who gets what. `threads` are an actor's while something is decoded, `threads_alone` when nothing is."""

    actors: int
    actor_cpus: int  # as Ray counts them
    actor_gpus: int
    decoders: int
    threads: int
    threads_alone: int


def share_out(node_cpus: Sequence[int], gpus: int, *, embedding: bool, decoding: bool) -> Shares:
    """An actor a GPU, or on CPUs half of them while decoders have the other half; each core has one master.

    `node_cpus` are the cores of each machine: an actor is never larger than the smallest that has any. `gpus` is 0
    where no stage wants one. When the decoders are done, the actors of a single machine take over their cores; of
    several machines we do not know where those are.
    """
    cpus = max(1, sum(node_cpus))
    if not embedding:
        return Shares(0, 0, 0, decoders=cpus, threads=1, threads_alone=1)
    if gpus:
        actors, actor_gpus = gpus, 1
        actor_cpus = 1 if cpus > gpus else 0
    else:
        free = cpus // 2 if decoding else cpus
        smallest = min((count for count in node_cpus if count), default=1)
        actors, actor_gpus = max(1, free // min(CPUS_PER_ACTOR, smallest)), 0
        # On one CPU an actor that held it would keep the decoder, and so itself, waiting for ever.
        actor_cpus = min(free // actors, smallest)
    threads = max(1, actor_cpus)
    alone = max(threads, cpus // actors) if len(node_cpus) == 1 else threads
    return Shares(actors, actor_cpus, actor_gpus, max(1, cpus - actors * actor_cpus), threads, alone)
