"""Machines that are not here, as ``Hardware`` values: to plan a run for them on any machine.

    plan = sizing.size(workstation(gpus=4), Config(), model_bytes=1_617_884_929)

Out: what ``engine.pools.hardware.snapshot`` would give there. Nothing is read, nothing started.
"""

from engine.pools.gpus import Gpu
from engine.pools.hardware import Hardware

GIB = 1 << 30


def workstation(
    gpus: int = 1,
    *,
    cores: int = 16,
    memory: int = 64 * GIB,
    gpu_memory: int = 24 * GIB,
    busy: tuple[int, ...] = (),
    free: int = GIB,
) -> Hardware:
    """A desktop machine with equal GPUs; those in ``busy`` have only ``free`` bytes left."""
    cards = (_card(n, gpu_memory, free if n in busy else gpu_memory) for n in range(gpus))
    return Hardware(float(cores), "affinity", memory, tuple(cards), descriptors=1024)


def container(cores: float = 1.5, memory: int = 3 * GIB) -> Hardware:
    """A container with a quota and a memory limit, without a GPU."""
    return Hardware(
        cores, "cgroup quota", memory, (), descriptors=1_048_576, notes=("no NVIDIA GPU is known",)
    )


def slurm_job(cores: int = 4, memory: int = 16 * GIB, gpus: int = 0) -> Hardware:
    """A job that has some of the cores of a big node, and none or some of its GPUs."""
    cards = tuple(_card(number, 80 * GIB, 80 * GIB) for number in range(gpus))
    return Hardware(float(cores), "SLURM_CPUS_PER_TASK", memory, cards, descriptors=51_200)


def mig_server(slices: int = 7, *, slice_memory: int = 10 * GIB, cores: int = 32) -> Hardware:
    """A server whose one GPU is cut into MIG slices."""
    parts = tuple(
        Gpu(
            index=f"MIG-{number:08d}-0000-0000-0000-000000000000",
            name="NVIDIA H100 80GB HBM3 MIG 1g.10gb",
            total=slice_memory,
            free=slice_memory,
            uuid=f"MIG-{number:08d}-0000-0000-0000-000000000000",
            mig=True,
        )
        for number in range(slices)
    )
    return Hardware(float(cores), "affinity", 256 * GIB, parts, descriptors=1_048_576)


def _card(number: int, total: int, free: int) -> Gpu:
    uuid = f"GPU-{number:08d}-0000-0000-0000-000000000000"
    return Gpu(index=uuid, name="NVIDIA RTX 4090", total=total, free=free, uuid=uuid, mig=False)
