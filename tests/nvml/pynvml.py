"""Stands for nvidia-ml-py: answers for the GPUs in ``gpus.json`` beside it, slices included.

A copy of this file in a folder on ``sys.path`` is found by the parent and by its workers alike.
"""

# ruff: noqa: N802 -- the library's names

import json
from pathlib import Path
from types import SimpleNamespace


class NVMLError(Exception):
    """As the library raises it."""


_gpus = json.loads((Path(__file__).parent / "gpus.json").read_text())


def nvmlInit():
    if isinstance(_gpus, str):
        raise NVMLError(_gpus)


def nvmlShutdown():
    pass


def nvmlDeviceGetCount():
    return len(_gpus)


def nvmlDeviceGetHandleByIndex(number):
    if isinstance(_gpus[number], str):
        raise NVMLError(_gpus[number])
    return _gpus[number]


def nvmlDeviceGetHandleByUUID(uuid):
    for gpu in _gpus:
        if gpu["uuid"] == uuid:
            return gpu
    raise NVMLError("Not Found")


def nvmlDeviceGetMigMode(gpu):
    if "slices" not in gpu:
        raise NVMLError("Not Supported")
    return [1, 1]


def nvmlDeviceGetMaxMigDeviceCount(gpu):
    return 7


def nvmlDeviceGetMigDeviceHandleByIndex(gpu, number):
    if number >= len(gpu["slices"]):
        raise NVMLError("Not Found")
    return gpu["slices"][number]


def nvmlDeviceGetName(gpu):
    return gpu["name"]


def nvmlDeviceGetUUID(gpu):
    return gpu["uuid"]


def nvmlDeviceGetMemoryInfo(gpu):
    return SimpleNamespace(total=gpu["total"], free=gpu["free"])


def nvmlDeviceGetCudaComputeCapability(gpu):
    if "capability" not in gpu:
        raise NVMLError("Not Supported")
    return gpu["capability"]


def nvmlDeviceGetUtilizationRates(gpu):
    return SimpleNamespace(gpu=25, memory=0)
