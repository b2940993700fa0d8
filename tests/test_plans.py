"""What ``reelmine plan`` prints on recorded machines: /proc and /sys trees, NVML's answers."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from machines import GIB, V1_MOUNTS, V2_MOUNT, card, meminfo, recorded, slices

import engine
from engine import setup
from engine.cli import main
from engine.config import Config
from engine.testing.transcriber import make_model

TURBO = 1_617_884_929  # bytes of model.bin
RTX = "NVIDIA GeForce RTX 4090"
H100 = "NVIDIA H100 80GB HBM3"
MORE = "8: 8 to begin with, more if the endpoint bears it; at most 128: never more than 128"


@dataclass(frozen=True)
class Machine:
    """What was recorded, and what the plan says of it after its first two lines."""

    plan: str
    cores: int
    files: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    gpus: Any = "Driver Not Loaded"
    options: tuple[str, ...] = ()


MACHINES = {
    "workstation with one GPU": Machine(
        cores=16,
        gpus=[card(0, RTX, 24, 23)],
        plan=f"""
slot cuda:0  float16, batch 32, 1 thread: 1 slot on {RTX}; batch 32: 23 GiB of its memory free
preparation  8 workers: 8 preparation workers: 8 per GPU
LLM threads  8: 8 to begin with, more if the endpoint bears it; at most 128: never more than 128
""",
    ),
    "workstation with two GPUs, one of them busy": Machine(
        cores=16,
        gpus=[card(0, RTX, 24, 1), card(1, RTX, 24)],
        plan=f"""
note         cuda:0 ({RTX}) is left out: 1 GiB of its 24 GiB of memory free, and the model needs \
2.8 GiB; --device cuda:0 tries it all the same
slot cuda:1  float16, batch 32, 1 thread: 1 slot on {RTX}; batch 32: 24 GiB of its memory free
preparation  8 workers: 8 preparation workers: 8 per GPU
LLM threads  8: 8 to begin with, more if the endpoint bears it; at most 128: never more than 128
""",
    ),
    "workstation with two GPUs, one of them half busy": Machine(
        cores=16,
        gpus=[card(0, RTX, 24, 5), card(1, RTX, 24)],
        plan=f"""
slot cuda:0  float16, batch 4, 1 thread: 1 slot on {RTX}; batch 4: 5 GiB of its 24 GiB of memory \
free
slot cuda:1  float16, batch 32, 1 thread: 1 slot on {RTX}; batch 32: 24 GiB of its memory free
preparation  15 workers: 15 preparation workers: all cores but one
LLM threads  8: 8 to begin with, more if the endpoint bears it; at most 128: never more than 128
""",
    ),
    "server with eight GPUs and few cores": Machine(
        cores=4,
        gpus=[card(number, H100, 80) for number in range(8)],
        plan="\n".join(
            [
                "",
                *(
                    f"slot cuda:{n}  float16, batch 32, 1 thread: 1 slot on {H100}; batch 32: 80 "
                    "GiB of its memory free"
                    for n in range(8)
                ),
                "too many     8 threads on 4 cores, 2.0 times as many: the slots take turns",
                "preparation  3 workers: 3 preparation workers: all cores but one",
                f"LLM threads  {MORE}",
                "",
            ]
        ),
    ),
    "server with a big GPU and many cores": Machine(
        cores=32,
        gpus=[card(0, H100, 80)],
        plan="\n".join(
            [
                "",
                *(
                    f"slot {slot} float16, batch 32, 1 thread: one of 2 slots on {H100}, which has "
                    "room for 2: one computes while the other one waits for its core (expected, "
                    "not measured; --slots changes it); batch 32: 40 GiB of its memory free"
                    for slot in ("cuda:0 ", "cuda:0.1")
                ),
                "preparation  8 workers: 8 preparation workers: 8 per GPU",
                f"LLM threads  {MORE}",
                "",
            ]
        ),
    ),
    "MIG": Machine(
        cores=32,
        env={"CUDA_VISIBLE_DEVICES": "MIG-00000001-aaaa,MIG-00000000-aaaa"},
        gpus=[card(0, H100, 80, slices=slices(0, 3, 10))],
        plan=f"""
slot cuda:0  float16, batch 16, 1 thread: 1 slot on {H100}; batch 16: 10 GiB of its memory free
slot cuda:1  float16, batch 16, 1 thread: 1 slot on {H100}; batch 16: 10 GiB of its memory free
preparation  16 workers: 16 preparation workers: 8 per GPU
LLM threads  8: 8 to begin with, more if the endpoint bears it; at most 128: never more than 128
""",
    ),
    "Slurm job with 4 of 64 cores in a nested group": Machine(
        cores=64,
        env={"SLURM_CPUS_PER_TASK": "8", "SLURM_MEM_PER_NODE": "32768"},
        files={
            "proc/self/cgroup": "0::/slurm/job_7/step_0\n",
            "proc/self/mountinfo": V2_MOUNT,
            "proc/meminfo": meminfo(500 * GIB),
            "sys/fs/cgroup/slurm/job_7/step_0/cpu.max": "max 100000\n",
            "sys/fs/cgroup/slurm/job_7/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/slurm/job_7/memory.max": f"{16 * GIB}\n",
        },
        plan="""
note         no NVIDIA GPU is known: Driver Not Loaded
slot cpu:0   int8, batch 1, 2 threads: 3 slots on 4 cores (cgroup quota): no more models fit into \
16 GiB of memory
slot cpu:1   int8, batch 1, 1 thread: 3 slots on 4 cores (cgroup quota): no more models fit into \
16 GiB of memory
slot cpu:2   int8, batch 1, 1 thread: 3 slots on 4 cores (cgroup quota): no more models fit into \
16 GiB of memory
preparation  1 worker: 1 preparation worker beside the slots, at lower priority: one keeps at \
least four slots busy
LLM threads  8: 8 to begin with, more if the endpoint bears it; at most 128: never more than 128
""",
    ),
    "container with 1.5 cores and 3 GiB": Machine(
        cores=8,
        files={
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/memory.max": f"{3 * GIB}\n",
        },
        plan="""
note         no NVIDIA GPU is known: Driver Not Loaded
slot cpu:0   int8, batch 1, 1 thread: 1 slot of 1 thread: 1.5 cores (cgroup quota), no GPU
preparation  1 worker: 1 preparation worker beside the slots, at lower priority: one keeps at \
least four slots busy
LLM threads  8: 8 to begin with, more if the endpoint bears it; at most 48: 32 per core
""",
    ),
    "groups of version 1": Machine(
        cores=8,
        files={
            "proc/self/cgroup": "5:memory:/lxc/box\n4:cpu,cpuacct:/lxc/box\n",
            "proc/self/mountinfo": V1_MOUNTS,
            "proc/cpuinfo": "processor : 0\nvendor_id : AuthenticAMD\n",
            "sys/fs/cgroup/cpu,cpuacct/lxc/box/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu,cpuacct/lxc/box/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/lxc/box/memory.limit_in_bytes": f"{40 * GIB}\n",
        },
        options=("--slots", "3"),
        plan="""
note         no NVIDIA GPU is known: Driver Not Loaded
slot cpu:0   int8, batch 8, 1 thread: 3 slots asked for, on 2 cores (cgroup quota), more than \
there are cores: they take turns
slot cpu:1   int8, batch 8, 1 thread: 3 slots asked for, on 2 cores (cgroup quota), more than \
there are cores: they take turns
slot cpu:2   int8, batch 8, 1 thread: 3 slots asked for, on 2 cores (cgroup quota), more than \
there are cores: they take turns
too many     3 threads on 2 cores, 1.5 times as many: the slots take turns
preparation  1 worker: 1 preparation worker beside the slots, at lower priority: one keeps at \
least four slots busy
LLM threads  8: 8 to begin with, more if the endpoint bears it; at most 64: 32 per core
""",
    ),
    "NVML is not installed": Machine(
        cores=2,
        gpus=None,
        plan="""
note         GPUs are not known: nvidia-ml-py is not installed (pip install reelmine[gpu])
slot cpu:0   int8, batch 1, 1 thread: 2 slots of 1 thread: 2 cores (affinity), no GPU; two of one \
thread do more than one of two
slot cpu:1   int8, batch 1, 1 thread: 2 slots of 1 thread: 2 cores (affinity), no GPU; two of one \
thread do more than one of two
preparation  1 worker: 1 preparation worker beside the slots, at lower priority: one keeps at \
least four slots busy
LLM threads  8: 8 to begin with, more if the endpoint bears it; at most 64: 32 per core
""",
    ),
    "CUDA_VISIBLE_DEVICES with UUIDs": Machine(
        cores=4,
        env={"CUDA_VISIBLE_DEVICES": "GPU-00000002-aaaa,GPU-00000009-aaaa"},
        gpus=[card(number, RTX, 24, 24 - number) for number in range(3)],
        plan=f"""
note         CUDA_VISIBLE_DEVICES names GPU-00000009-aaaa, which is not here
slot cuda:0  float16, batch 32, 1 thread: 1 slot on {RTX}; batch 32: 22 GiB of its memory free
preparation  3 workers: 3 preparation workers: all cores but one
LLM threads  8: 8 to begin with, more if the endpoint bears it; at most 128: never more than 128
""",
    ),
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Path:
    """A folder whose one video is done, so that a plan looks into no container."""
    folder = tmp_path_factory.mktemp("done")
    model = make_model(folder / "turbo", seconds=0.0)
    os.truncate(model / "model.bin", TURBO)  # sparse: as large as the real one for sizing
    video = folder / "videos" / "talk.wav"
    video.parent.mkdir()
    video.write_bytes((samples / "moving_house.wav").read_bytes())
    config = Config(output=folder / "out", model=str(model), slots=1, analysis=False)
    assert engine.run([video.parent], config).exit_code == 0
    return folder


@pytest.mark.parametrize("name", MACHINES)
def test_plan_of_a_recorded_machine_says_what_and_why(
    name: str,
    done: Path,
    tmp_path: Path,
    nvml: Callable[[Any], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine = MACHINES[name]
    if machine.gpus is not None:
        nvml(machine.gpus)
    else:
        monkeypatch.setitem(sys.modules, "pynvml", None)  # an ImportError
    found = recorded(tmp_path / "root", machine.files, machine.env, machine.cores)
    monkeypatch.setattr(setup, "snapshot", lambda: found)
    words = ["plan", str(done / "videos"), "-o", str(done / "out"), "--no-analysis"]
    words += ["--model", str(done / "turbo"), *machine.options]
    assert main(words) == 0
    told = capsys.readouterr().out.splitlines()
    known = ("encoder", "quality")  # as this machine and the options have it
    lines = [line for line in told if not line.startswith(known)]
    assert lines[:2] == ["videos       0 to do, 1 done already", "model        turbo"]
    assert lines[2:] == machine.plan.strip().splitlines()
