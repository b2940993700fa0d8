"""Snapshots of recorded machines: what of a machine this process may use."""

import os

import pytest
from machines import GIB, MIB, V1_MOUNTS, V2_MOUNT, machine, slices
from machines import card as nvml_card

from engine.pools import gpus
from engine.pools.crew import environment
from engine.pools.gpus import Gpu, free_now
from engine.pools.hardware import Gauges, left_now, snapshot


def look(root, env=None, cores=8, gpus=(), notes=()):
    return snapshot(env or {}, root, affinity=cores, list_gpus=lambda: ([*gpus], [*notes]))


def card(number: int, name: str = "card", *, mig: bool = False) -> Gpu:
    uuid = f"{'MIG' if mig else 'GPU'}-{number:08d}-aaaa"
    return Gpu(index=uuid, name=name, total=24 * GIB, free=20 * GIB, uuid=uuid, mig=mig)


# --- cores and memory ------------------------------------------------------------------------


def test_a_machine_without_limits_gives_its_affinity_and_free_memory(tmp_path):
    found = look(machine(tmp_path, {}), cores=16)
    assert (found.cores, found.cores_source) == (16.0, "affinity")
    assert found.memory == 64 * GIB
    assert found.notes == ()


def test_a_container_gives_its_quota_and_limit(tmp_path):
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/memory.max": f"{3 * GIB}\n",
        },
    )
    found = look(root)
    assert (found.cores, found.cores_source, found.memory) == (1.5, "cgroup quota", 3 * GIB)


def test_the_tightest_group_above_us_counts(tmp_path):
    group = "sys/fs/cgroup/slurm/job_7/step_0"
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "0::/slurm/job_7/step_0\n",
            "proc/self/mountinfo": V2_MOUNT,
            f"{group}/cpu.max": "max 100000\n",
            f"{group}/memory.max": "max\n",
            "sys/fs/cgroup/slurm/job_7/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/slurm/job_7/memory.max": f"{16 * GIB}\n",
            "sys/fs/cgroup/slurm/memory.max": f"{200 * GIB}\n",
        },
    )
    found = look(root, cores=64)
    assert (found.cores, found.cores_source, found.memory) == (4.0, "cgroup quota", 16 * GIB)


def test_version_1_groups_are_read(tmp_path):
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/lxc/box\n4:cpu,cpuacct:/lxc/box\n1:name=systemd:/\n",
            "proc/self/mountinfo": V1_MOUNTS,
            "sys/fs/cgroup/cpu,cpuacct/lxc/box/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu,cpuacct/lxc/box/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/lxc/box/memory.limit_in_bytes": f"{5 * GIB}\n",
        },
    )
    found = look(root)
    assert (found.cores, found.memory) == (2.5, 5 * GIB)


def test_version_1_without_limits_limits_nothing(tmp_path):
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/\n4:cpu,cpuacct:/\n",
            "proc/self/mountinfo": V1_MOUNTS,
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    found = look(root)
    assert (found.cores, found.cores_source, found.memory) == (8.0, "affinity", 64 * GIB)


def test_a_container_that_is_shown_only_its_own_group_finds_it(tmp_path):
    mount = "32 31 0:28 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n"
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpu:/docker/abc\n",
            "proc/self/mountinfo": mount,
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert look(root).cores == 2.0


@pytest.mark.parametrize("path", ["/../../other", "/somewhere/else"])
def test_a_group_outside_our_view_leaves_the_mounted_one(tmp_path, path):
    mount = V2_MOUNT.replace(" / /sys", " /pod /sys") if path == "/somewhere/else" else V2_MOUNT
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": f"0::{path}\n",
            "proc/self/mountinfo": mount,
            "sys/fs/cgroup/cpu.max": "300000 100000\n",
        },
    )
    assert look(root).cores == 3.0


def test_a_job_has_what_slurm_gave_it(tmp_path):
    env = {"SLURM_CPUS_PER_TASK": "4", "SLURM_MEM_PER_NODE": "8192"}
    found = look(machine(tmp_path, {}), env, cores=64)
    assert (found.cores, found.cores_source) == (4.0, "SLURM_CPUS_PER_TASK")
    assert found.memory == 8192 * MIB


def test_all_memory_of_a_node_is_no_limit(tmp_path):
    assert look(machine(tmp_path, {}), {"SLURM_MEM_PER_NODE": "0"}).memory == 64 * GIB


def test_a_limit_that_is_no_number_is_noted_and_not_used(tmp_path):
    found = look(machine(tmp_path, {}), {"SLURM_CPUS_PER_TASK": "4(x2)"})
    assert found.cores == 8.0
    assert found.notes == ("SLURM_CPUS_PER_TASK=4(x2) is not a number and was not used",)


def test_what_cannot_be_read_is_unknown_and_noted(tmp_path):
    root = machine(tmp_path, {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": V2_MOUNT})
    (root / "proc/meminfo").unlink()
    (root / "sys/fs/cgroup/cpu.max").mkdir(parents=True)  # even root cannot read a folder
    found = look(root)
    assert (found.cores, found.memory) == (8.0, None)
    assert len(found.notes) == 1
    assert found.notes[0].endswith("cpu.max cannot be read: Is a directory")


def test_this_machine_gives_what_the_kernel_allows():
    found = snapshot()
    assert 0 < found.cores <= len(os.sched_getaffinity(0))
    assert found.memory is not None
    assert found.memory > 64 * MIB
    assert found.descriptors is None or found.descriptors >= 64


def test_a_narrower_affinity_is_seen():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert snapshot({}).cores <= 1.0
    finally:
        os.sched_setaffinity(0, allowed)


def test_memory_left_is_what_the_nearest_group_has_left(tmp_path):
    group = "sys/fs/cgroup/slurm/job_7"
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "0::/slurm/job_7/step_0\n",
            "proc/self/mountinfo": V2_MOUNT,
            f"{group}/step_0/memory.max": f"{16 * GIB}\n",
            f"{group}/step_0/memory.current": f"{3 * GIB}\n",
            f"{group}/memory.max": f"{8 * GIB}\n",
            f"{group}/memory.current": f"{7 * GIB}\n",
            f"{group}/memory.stat": f"anon 5\nfile 7\ninactive_file {2 * GIB}\n",
        },
    )
    assert left_now(root) == 3 * GIB  # what the kernel can take back counts


def test_memory_left_is_read_from_groups_of_version_1(tmp_path):
    group = "sys/fs/cgroup/memory/box"
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/box\n",
            "proc/self/mountinfo": V1_MOUNTS,
            f"{group}/memory.limit_in_bytes": f"{5 * GIB}\n",
            f"{group}/memory.usage_in_bytes": f"{4 * GIB}\n",
            f"{group}/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}\n",
        },
    )
    assert left_now(root) == 2 * GIB


def test_memory_left_is_the_machines_where_no_group_limits_it(tmp_path):
    assert left_now(machine(tmp_path, {})) == 64 * GIB


def test_memory_left_over_a_limit_is_none_at_all(tmp_path):
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/memory.max": f"{GIB}\n",
            "sys/fs/cgroup/memory.current": f"{2 * GIB}\n",
        },
    )
    assert left_now(root) == 0


# --- GPUs ------------------------------------------------------------------------------------


def test_without_a_list_all_gpus_are_seen_by_uuid(tmp_path):
    found = look(machine(tmp_path, {}), gpus=[card(0), card(1)])
    assert [gpu.index for gpu in found.gpus] == ["GPU-00000000-aaaa", "GPU-00000001-aaaa"]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("1,0", [("1", 1), ("0", 0)]),
        ("GPU-00000001-aaaa", [("GPU-00000001-aaaa", 1)]),
        ("GPU-00000001", [("GPU-00000001", 1)]),  # a unique prefix is enough for CUDA
        ("", []),
        ("-1", []),
        ("0,-1,1", [("0", 0)]),  # CUDA stops at the first wrong entry
    ],
)
def test_visible_devices_are_respected_and_passed_through(tmp_path, visible, expected):
    cards = [card(0), card(1)]
    found = look(machine(tmp_path, {}), {"CUDA_VISIBLE_DEVICES": visible}, gpus=cards)
    assert [(gpu.index, gpu.uuid) for gpu in found.gpus] == [
        (entry, cards[number].uuid) for entry, number in expected
    ]
    assert found.notes == ()


@pytest.mark.parametrize("visible", ["7", "GPU-ffff", "GPU-0", "all"])
def test_a_visible_device_that_is_not_here_is_noted(tmp_path, visible):
    env = {"CUDA_VISIBLE_DEVICES": visible}
    found = look(machine(tmp_path, {}), env, gpus=[card(0), card(1)])
    assert found.gpus == ()
    assert found.notes == (f"CUDA_VISIBLE_DEVICES names {visible}, which is not here",)


def test_slices_are_found_by_their_id(tmp_path):
    slices = [card(0, mig=True), card(1, mig=True)]
    env = {"CUDA_VISIBLE_DEVICES": "MIG-00000001-aaaa"}
    (gpu,) = look(machine(tmp_path, {}), env, gpus=slices).gpus
    assert (gpu.uuid, gpu.mig) == ("MIG-00000001-aaaa", True)


def test_memory_of_unlike_cards_is_unknown_where_cuda_may_number_them_otherwise(tmp_path):
    cards = [card(0, "small"), card(1, "big")]
    root = machine(tmp_path, {})
    (guessed,) = look(root, {"CUDA_VISIBLE_DEVICES": "1"}, gpus=cards).gpus
    assert (guessed.index, guessed.free, guessed.uuid) == ("1", None, None)
    env = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    (known,) = look(root, env, gpus=cards).gpus
    assert (known.index, known.name, known.free) == ("1", "big", 20 * GIB)


@pytest.mark.parametrize("order", [None, "FASTEST_FIRST", "PCI_BUS_ID"])
def test_a_number_means_the_same_card_to_a_worker(tmp_path, order):
    env = {"CUDA_VISIBLE_DEVICES": "1"} | ({"CUDA_DEVICE_ORDER": order} if order else {})
    cards = [card(0, "slow"), card(1, "fast")]
    (gpu,) = look(machine(tmp_path, {}), env, gpus=cards).gpus
    inside = env | environment(tmp_path, 1, gpu.index)  # as a worker inherits it
    assert {name: inside.get(name) for name in env} == env
    assert inside.get("CUDA_DEVICE_ORDER") == order


def test_no_nvml_means_no_gpus_and_a_note(tmp_path):
    root = machine(tmp_path, {})
    found = look(root, {"CUDA_VISIBLE_DEVICES": "0"}, notes=["GPUs are not known: why"])
    assert (found.gpus, found.notes) == ((), ("GPUs are not known: why",))


def test_nvml_on_this_machine_gives_gpus_or_says_why_not():
    found = snapshot({})
    assert found.gpus or any("GPU" in note for note in found.notes)


def test_nvml_is_asked_for_every_card_and_one_that_is_silent_is_noted(tmp_path, nvml):
    nvml([nvml_card(0, "one", 24, 20), "GPU is lost", nvml_card(2, "two", 80)])
    found = snapshot({}, machine(tmp_path / "root", {}), affinity=2)
    assert [(gpu.name, gpu.total, gpu.free, gpu.index) for gpu in found.gpus] == [
        ("one", 24 * GIB, 20 * GIB, "GPU-00000000-aaaa"),
        ("two", 80 * GIB, 80 * GIB, "GPU-00000002-aaaa"),
    ]
    assert found.notes == ("GPU 1 does not answer: GPU is lost",)


def test_an_old_card_has_no_float16_and_one_that_does_not_tell_is_taken_to_have_it(tmp_path, nvml):
    old, new = nvml_card(0, "old", 8, capability=[6, 1]), nvml_card(1, "new", 8, capability=[7, 5])
    nvml([old, new, nvml_card(2, "silent", 8)])
    found = snapshot({}, machine(tmp_path / "root", {}), affinity=2)
    assert [gpu.float16 for gpu in found.gpus] == [False, True, True]


def test_slices_of_a_card_stand_for_it(tmp_path, nvml):
    nvml([nvml_card(0, "big", 80, slices=slices(0, 2, 10))])
    found = snapshot({}, machine(tmp_path / "root", {}), affinity=2)
    assert [(gpu.mig, gpu.free) for gpu in found.gpus] == [(True, 10 * GIB)] * 2


@pytest.mark.parametrize(
    ("visible", "free"),
    [("GPU-00000001-aaaa", 5 * GIB), ("1", 5 * GIB), ("", None), ("GPU-9", None)],
)
def test_a_worker_sees_what_is_free_on_its_own_card(nvml, visible, free):
    nvml([nvml_card(0, "card", 24), nvml_card(1, "card", 24, 5)])
    env = {"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert free_now(env) == free


# --- gauges ----------------------------------------------------------------------------------


def test_gauges_read_this_machine_and_close_twice():
    gauges = Gauges((card(0),))
    reading = gauges.read()
    assert reading.memory is not None
    assert reading.memory_left is not None
    assert reading.gpus == (None,)  # no such card here: unknown, not idle
    gauges.close()
    gauges.close()


def test_missing_nvidia_library_is_told_in_a_run_only_where_a_driver_is(tmp_path):
    notes, driver = (gpus.NOT_INSTALLED, "SLURM_CPUS_PER_TASK=x"), tmp_path / "version"
    assert gpus.left_unused(notes, driver) == ["SLURM_CPUS_PER_TASK=x"]
    driver.touch()
    assert gpus.left_unused(notes, driver) == list(notes)
