"""Slots on GPUs: which cards, how many on each, how many windows at once, and why. Pure.

In: GPUs with the memory that is free on them, the options, the size of the model, what fitted
before. Out: slot plans, and a sentence for each GPU that gets none. How much fits into how much is
fitting.py's; knows nothing about the host but its cores.
"""

from collections.abc import Mapping, Sequence

from engine.config import Config
from engine.pools import fitting
from engine.pools.fitting import Fit
from engine.pools.gpus import Gpu
from engine.pools.slots import SlotPlan, compute_type_for, gigabytes

ANY_BATCH = 8  # where too little is known

Numbered = tuple[int, Gpu]  # a GPU with its CUDA number


def with_room(
    named: Sequence[Numbered], config: Config, model_bytes: int | None
) -> tuple[list[Numbered], tuple[str, ...]]:
    """Those that have memory for the model, and a sentence for each other one.

    A GPU that was asked for by its number is used whatever it has. If none has room, ``cuda`` means
    all of them, and ``auto`` the CPU.
    """
    if config.device not in ("auto", "cuda") or model_bytes is None:
        return list(named), ()
    needed = {
        gpu: fitting.least(fitting.weights(model_bytes, compute_type_on(gpu, config.compute_type)))
        for _, gpu in named
    }
    fitting_ones = [(n, gpu) for n, gpu in named if gpu.free is None or gpu.free >= needed[gpu]]
    if not fitting_ones and config.device == "cuda":
        return list(named), ()
    others = (pair for pair in named if pair not in fitting_ones)
    return fitting_ones, tuple(
        f"cuda:{number} ({gpu.name}) is left out: {_free(gpu, gpu.free or 0)}, and the model needs"
        f" {gigabytes(needed[gpu])}; --device cuda:{number} tries it all the same"
        for number, gpu in others
    )


def compute_type_on(gpu: Gpu, asked: str) -> str:
    """The compute type on a GPU; an old one cannot have the usual one."""
    usual = compute_type_for(asked, "cuda")
    return usual if gpu.float16 or asked not in ("auto", "default") else "float32"


def gpu_slots(
    chosen: Sequence[Numbered],
    cores: float,
    config: Config,
    model_bytes: int | None,
    fits: Mapping[str, Fit],
) -> tuple[SlotPlan, ...]:
    types = [compute_type_on(gpu, config.compute_type) for _, gpu in chosen]
    models = [None if model_bytes is None else fitting.weights(model_bytes, t) for t in types]
    counts = _each(chosen, cores, config.slots, models)
    plans = []
    for turn in range(max(counts)):
        for (number, gpu), sharing, compute_type, model in zip(
            chosen, counts, types, models, strict=True
        ):
            if turn >= sharing:
                continue
            fit = fits.get(gpu.name)
            if fit is not None and not fitting.still_holds(fit, gpu.free):
                fit = None
            batch, why = _gpu_batch(gpu, config.batch_size, sharing, model, fit)
            used = fit.compute_type if fit else compute_type
            if not gpu.float16 and used == "float32":
                why += f"; {used}, because this GPU is too old for float16"
            if used != compute_type:
                why += f"; {used}, because {compute_type} did not fit"
            plans.append(
                SlotPlan(
                    device=f"cuda:{number}" + (f".{turn}" if turn else ""),
                    pin=gpu.index,
                    compute_type=used,
                    batch_size=batch,
                    threads=1,
                    why=f"{_place(gpu, sharing, config.slots)}; {why}",
                    lowered=used != compute_type,
                )
            )
    return tuple(plans)


def _each(
    chosen: Sequence[Numbered], cores: float, asked: int | None, models: Sequence[int | None]
) -> list[int]:
    """Slots of each GPU; more than one of a slice's few processors would gain nothing."""
    if asked is not None:
        whole, extra = divmod(asked, len(chosen))
        return [whole + (place < extra) for place in range(len(chosen))]
    enough = cores >= 2 * fitting.CORES_A_SLOT * len(chosen)
    return [
        1 + (enough and model is not None and not gpu.mig and fitting.several(gpu.free or 0, model))
        for (_, gpu), model in zip(chosen, models, strict=True)
    ]


def _place(gpu: Gpu, sharing: int, asked: int | None) -> str:
    if sharing == 1:
        return f"1 slot on {gpu.name}"
    if asked is not None:
        return f"one of {sharing} slots (--slots) on {gpu.name}"
    return (
        f"one of {sharing} slots on {gpu.name}, which has room for {sharing}: one computes while"
        " the other one waits for its core (expected, not measured; --slots changes it)"
    )


def _gpu_batch(
    gpu: Gpu, asked: int | None, sharing: int, model: int | None, fit: Fit | None
) -> tuple[int, str]:
    if asked is not None:
        return asked, f"batch {asked} asked for"
    if gpu.free is None:
        batch, why = ANY_BATCH, "its free memory is not known"
    elif model is None:
        batch, why = ANY_BATCH, "the model's size is not known"
    else:
        share = gpu.free // sharing
        batch, why = fitting.windows_before(share, model), _free(gpu, share)
        if share < fitting.least(model):
            why += f", less than the {gigabytes(fitting.least(model))} this model should need"
    if fit is not None and fit.batch_size < batch:
        batch, why = fit.batch_size, "more did not fit into such a GPU before"
    return batch, f"batch {batch}: {why}"


def _free(gpu: Gpu, free: int) -> str:
    """How much is free; of how much, where something else uses the card."""
    busy = gpu.total is not None and gpu.free is not None and gpu.free < gpu.total * 3 // 4
    whole = f"its {gigabytes(gpu.total or 0)} of memory" if busy else "its memory"
    return f"{gigabytes(free)} of {whole} free"
