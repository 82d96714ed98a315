"""How a machine's cores and GPUs are shared out between decoders and actors."""

from dataclasses import dataclass

CPUS_PER_ACTOR = 8  # at most, where there is no GPU: more threads than this wait for each other


@dataclass(frozen=True)
class Share:
    """Who gets what of one machine. `threads` are an actor's while something is decoded, `threads_alone` then not."""

    actors: int
    actor_cpus: int  # as Ray counts them
    actor_gpus: int
    decoders: int
    threads: int
    threads_alone: int


def share_out(cpus: int, gpus: int, *, embedding: bool, decoding: bool, gpus_elsewhere: bool = False) -> Share:
    """An actor a GPU; or on CPUs half of the cores while decoders have the other half; each core has one master.

    `gpus` is 0 where no stage wants one; with `gpus_elsewhere` a machine without one only decodes. When the decoders
    are done, the actors take over their cores.
    """
    if not embedding or not cpus or (gpus_elsewhere and not gpus):
        return Share(0, 0, 0, decoders=cpus, threads=1, threads_alone=1)
    if gpus:
        actors, actor_gpus = gpus, 1
        actor_cpus = 1 if cpus > gpus else 0
    else:
        free = cpus // 2 if decoding else cpus
        actors, actor_gpus = max(1, free // CPUS_PER_ACTOR), 0
        # On one CPU an actor that held it would keep the decoder, and so itself, waiting for ever.
        actor_cpus = free // actors
    threads = max(1, actor_cpus)
    decoders = max(1, cpus - actors * actor_cpus)
    return Share(actors, actor_cpus, actor_gpus, decoders, threads, max(threads, cpus // actors))
