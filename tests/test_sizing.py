"""Plans for machines that are not here: every number and its sentence."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import Config
from engine.errors import EXIT_USAGE, UsageError
from engine.pools.fitting import Fit
from engine.pools.sizing import size
from engine.shortage import Shortage
from engine.testing.hardware import GIB, container, mig_server, slurm_job, workstation

TINY, TURBO, LARGE = 75_537_502, 1_617_884_929, 3_087_284_237  # bytes of model.bin


def test_cores_without_a_gpu_get_a_slot_of_one_thread_each():
    plan = size(replace(container(2, 8 * GIB), cores_source="affinity"), Config(), TINY)
    assert [(slot.device, slot.threads, slot.batch_size) for slot in plan.slots] == [
        ("cpu:0", 1, 1),
        ("cpu:1", 1, 1),
    ]
    assert {slot.compute_type for slot in plan.slots} == {"int8"}
    assert {slot.pin for slot in plan.slots} == {None}
    assert plan.slots[0].why == (
        "2 slots of 1 thread: 2 cores (affinity), no GPU; two of one thread do more than one of two"
    )
    assert plan.preparation == 1


def test_a_fraction_of_a_core_is_not_rounded_up():
    plan = size(container(1.5, 3 * GIB), Config(), TINY)
    assert len(plan.slots) == 1
    assert plan.slots[0].why == "1 slot of 1 thread: 1.5 cores (cgroup quota), no GPU"


def test_less_than_a_core_still_gets_a_slot():
    plan = size(container(0.25, 3 * GIB), Config(), TINY)
    assert (len(plan.slots), plan.preparation) == (1, 1)


def test_memory_limits_the_slots_and_the_cores_become_threads():
    plan = size(slurm_job(cores=8, memory=12 * GIB), Config(), TURBO)
    assert [slot.threads for slot in plan.slots] == [4, 4]
    assert plan.slots[0].why == (
        "2 slots on 8 cores (SLURM_CPUS_PER_TASK): no more models fit into 12 GiB of memory"
    )


def test_torch_takes_room_in_every_slot():
    def slots(torch: bool) -> int:
        return len(size(container(8, 4 * GIB), Config(), TINY, torch=torch).slots)

    assert (slots(torch=False), slots(torch=True)) == (5, 3)


def test_memory_that_is_not_known_limits_nothing():
    assert len(size(replace(slurm_job(8), memory=None), Config(), TURBO).slots) == 8
    assert len(size(slurm_job(8, memory=2 * GIB), Config(), None).slots) == 8


def test_a_model_that_hardly_fits_still_gets_one_slot():
    assert len(size(container(4, GIB), Config(), TURBO).slots) == 1


@pytest.mark.parametrize(
    ("cores", "slots", "threads"), [(4, 3, [2, 1, 1]), (4, 1, [4]), (2, 3, [1, 1, 1])]
)
def test_slots_asked_for_share_all_cores(cores, slots, threads):
    plan = size(container(cores, 8 * GIB), Config(slots=slots), TINY)
    assert [slot.threads for slot in plan.slots] == threads
    assert "asked for" in plan.slots[0].why
    assert ("take turns" in plan.slots[0].why) == (slots > cores)


@given(cores=st.integers(1, 200), memory=st.integers(1 * GIB, 600 * GIB))
def test_no_core_is_promised_twice_and_none_left_out(cores, memory):
    plan = size(slurm_job(cores, memory), Config(), TURBO)
    assert sum(slot.threads for slot in plan.slots) == cores


def test_every_gpu_gets_a_slot_pinned_to_it():
    machine = workstation(gpus=2)
    plan = size(machine, Config(), TURBO)
    assert [(slot.device, slot.pin) for slot in plan.slots] == [
        ("cuda:0", machine.gpus[0].index),
        ("cuda:1", machine.gpus[1].index),
    ]
    assert {(slot.compute_type, slot.batch_size) for slot in plan.slots} == {("float16", 32)}
    assert plan.slots[0].why == ("1 slot on NVIDIA RTX 4090; batch 32: 24 GiB of its memory free")


def test_a_busy_gpu_gets_a_smaller_batch():
    plan = size(workstation(gpus=2, busy=(1,), free=5 * GIB), Config(), TURBO)
    assert [slot.batch_size for slot in plan.slots] == [32, 4]
    assert plan.slots[1].why == (
        "1 slot on NVIDIA RTX 4090; batch 4: 5 GiB of its 24 GiB of memory free"
    )
    assert plan.left_out == ()


def test_a_gpu_without_room_for_the_model_is_left_out():
    plan = size(workstation(gpus=2, busy=(0,)), Config(), TURBO)
    assert [slot.device for slot in plan.slots] == ["cuda:1"]
    [sentence] = plan.left_out
    assert sentence == (
        "cuda:0 (NVIDIA RTX 4090) is left out: 1 GiB of its 24 GiB of memory free, and the model"
        " needs 2.8 GiB; --device cuda:0 tries it all the same"
    )


def test_a_machine_whose_only_gpu_is_full_uses_its_cores():
    plan = size(workstation(busy=(0,), cores=2), Config(), TURBO)
    assert [slot.device for slot in plan.slots] == ["cpu:0", "cpu:1"]
    assert len(plan.left_out) == 1
    assert "no GPU with room" in plan.slots[0].why


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_full_gpu_that_was_asked_for_is_tried(device):
    plan = size(workstation(busy=(0,)), Config(device=device), TURBO)
    assert [(slot.device, slot.batch_size) for slot in plan.slots] == [("cuda:0", 1)]
    assert plan.slots[0].why.endswith(
        "1 GiB of its 24 GiB of memory free, less than the 2.8 GiB this model should need"
    )
    assert plan.left_out == ()


@pytest.mark.parametrize(
    ("model", "memory", "batch"),
    [(LARGE, 12, 8), (LARGE, 16, 16), (LARGE, 24, 32), (TURBO, 8, 16), (TINY, 4, 32)],
)
def test_a_batch_is_what_the_gpu_has_room_for(model, memory, batch):
    plan = size(workstation(gpu_memory=memory * GIB), Config(), model)
    assert [slot.batch_size for slot in plan.slots] == [batch]


@given(st.integers(1, 200), st.integers(30 << 20, 4 * GIB))
def test_more_memory_never_means_fewer_windows(free, model):
    batches = [
        sum(slot.batch_size for slot in size(_card_of(gib), Config(device="cuda"), model).slots)
        for gib in (free, free + 1)
    ]
    assert 1 <= batches[0] <= batches[1] <= 64


def _card_of(gib):
    return workstation(gpu_memory=gib * GIB)


def test_float32_takes_twice_the_memory():
    (slot,) = size(workstation(gpu_memory=16 * GIB), Config(compute_type="float32"), LARGE).slots
    assert slot.batch_size == 8  # and 16 in float16


@pytest.mark.parametrize(
    ("memory", "cores", "slots"), [(80, 16, 2), (80, 7, 1), (24, 16, 1), (48, 16, 2)]
)
def test_a_big_gpu_gets_two_slots_where_there_are_cores_for_both(memory, cores, slots):
    plan = size(workstation(gpu_memory=memory * GIB, cores=cores), Config(), TURBO)
    assert [slot.device for slot in plan.slots] == ["cuda:0", "cuda:0.1"][:slots]
    assert {slot.batch_size for slot in plan.slots} == {32}
    assert ("not measured" in plan.slots[0].why) == (slots == 2)


def test_slices_of_a_big_gpu_get_one_slot_each():
    plan = size(mig_server(2, slice_memory=80 * GIB), Config(), TURBO)
    assert len(plan.slots) == 2


def test_what_fitted_before_is_where_it_begins():
    fits = {"NVIDIA RTX 4090": Fit(4, "int8_float16", 24 * GIB)}
    plan = size(workstation(gpus=2), Config(), LARGE, fits)
    assert {(s.batch_size, s.compute_type, s.lowered) for s in plan.slots} == {
        (4, "int8_float16", True)
    }
    assert plan.slots[0].why == (
        "1 slot on NVIDIA RTX 4090; batch 4: more did not fit into such a GPU before;"
        " int8_float16, because float16 did not fit"
    )


def test_what_fitted_before_counts_no_more_when_more_is_free():
    fits = {"NVIDIA RTX 4090": Fit(4, "int8_float16", 8 * GIB), "another": Fit(1, "int8", None)}
    (slot,) = size(workstation(), Config(), LARGE, fits).slots
    assert (slot.batch_size, slot.compute_type, slot.lowered) == (32, "float16", False)


def test_a_batch_asked_for_is_not_replaced_by_what_fitted_before():
    fits = {"NVIDIA RTX 4090": Fit(4, "float16", None)}
    (slot,) = size(workstation(), Config(batch_size=16), LARGE, fits).slots
    assert (slot.batch_size, slot.lowered) == (16, False)


@pytest.mark.parametrize(
    ("machine", "config", "factor"),
    [
        (container(2), Config(), 1.0),
        (container(2), Config(slots=3), 1.5),
        (container(0.5), Config(), 2.0),
        (container(1.5), Config(), 1 / 1.5),
        (workstation(gpus=8, cores=4), Config(), 2.0),
    ],
)
def test_threads_over_cores_are_counted(machine, config, factor):
    assert size(machine, config, TINY).oversubscription == pytest.approx(factor)


def test_a_gpu_whose_memory_is_not_known_gets_the_small_batch():
    machine = workstation()
    machine = replace(machine, gpus=(replace(machine.gpus[0], free=None, total=None),))
    plan = size(machine, Config(), TURBO)
    assert plan.slots[0].batch_size == 8
    assert "not known" in plan.slots[0].why


def test_slices_of_a_gpu_are_devices_like_others():
    plan = size(mig_server(3), Config(), TURBO)
    assert len({slot.pin for slot in plan.slots}) == 3
    assert all(slot.pin is not None and slot.pin.startswith("MIG-") for slot in plan.slots)


def test_a_gpu_too_old_for_float16_computes_in_float32_beside_one_that_is_not():
    machine = workstation(2)
    old = replace(machine.gpus[1], name="NVIDIA GeForce GTX 1080 Ti", float16=False)
    both = replace(machine, gpus=(machine.gpus[0], old))
    new_slot, old_slot = size(both, Config(), LARGE).slots
    assert (new_slot.compute_type, old_slot.compute_type) == ("float16", "float32")
    assert old_slot.why.endswith("; float32, because this GPU is too old for float16")
    assert old_slot.batch_size < new_slot.batch_size
    assert not old_slot.lowered
    shortage = Shortage((new_slot, old_slot), "auto", LARGE)
    assert shortage.smaller(new_slot.device) == "int8_float16"
    assert shortage.smaller(old_slot.device) == "int8_float32"
    shortage.lower(old_slot.device)
    assert shortage.smaller(old_slot.device) is None
    asked = size(both, Config(compute_type="float16"), LARGE)
    assert {slot.compute_type for slot in asked.slots} == {"float16"}


def test_several_slots_on_a_gpu_share_its_memory():
    plan = size(workstation(gpus=2, gpu_memory=12 * GIB), Config(slots=3), TURBO)
    assert [slot.device for slot in plan.slots] == ["cuda:0", "cuda:1", "cuda:0.1"]
    assert plan.slots[0].pin == plan.slots[2].pin
    assert [slot.batch_size for slot in plan.slots] == [8, 32, 8]


@pytest.mark.parametrize(
    ("machine", "preparation", "why"),
    [
        (workstation(gpus=1, cores=16), 8, "8 per GPU"),
        (workstation(gpus=8, cores=16), 15, "all cores but one"),
        (workstation(gpus=1, cores=1), 1, "all cores but one"),
        (workstation(gpus=4, cores=64, memory=4 * GIB), 5, "as many as fit into 4 GiB of memory"),
    ],
)
def test_preparation_keeps_gpus_fed_within_cores_and_memory(machine, preparation, why):
    plan = size(machine, Config(), TURBO)
    assert plan.preparation == preparation
    assert plan.preparation_why.endswith(why)


def test_preparation_on_a_cpu_is_a_quarter_of_the_cores():
    assert size(slurm_job(16, 64 * GIB), Config(), TINY).preparation == 4


def test_what_the_user_asks_for_is_what_the_slots_get():
    config = Config(batch_size=4, compute_type="int8_float16", device="cuda:1")
    (slot,) = size(workstation(gpus=2), config, TURBO).slots
    assert (slot.device, slot.batch_size, slot.compute_type) == ("cuda:1", 4, "int8_float16")
    assert "batch 4 asked for" in slot.why


def test_the_cpu_can_be_asked_for_on_a_machine_with_gpus():
    plan = size(workstation(gpus=2, cores=4), Config(device="cpu"), TINY)
    assert [slot.device for slot in plan.slots] == ["cpu:0", "cpu:1", "cpu:2", "cpu:3"]


def test_a_list_of_gpus_is_taken_in_its_order():
    plan = size(workstation(gpus=4), Config(device="cuda:2,cuda:0"), TURBO)
    assert [slot.device for slot in plan.slots] == ["cuda:2", "cuda:0"]


@pytest.mark.parametrize(
    ("device", "machine", "sentence"),
    [
        ("cuda", container(), "no GPU is known on this machine (no NVIDIA GPU is known); use"),
        ("cuda:2", workstation(gpus=2), "no cuda:2 on this machine, only cuda:0, cuda:1"),
        ("cuda:0,cuda:0", workstation(gpus=2), "a GPU is named twice"),
        ("gpu", workstation(), "'gpu' is none of auto, cpu, cuda, cuda:N"),
        ("cuda:0,1", workstation(gpus=2), "'1' is none of"),
        ("cuda:", workstation(), "'cuda:' is none of"),
    ],
)
def test_a_device_that_is_not_there_is_a_usage_error(device, machine, sentence):
    with pytest.raises(UsageError) as caught:
        size(machine, Config(device=device), TINY)
    assert f"--device {device}" in str(caught.value)
    assert sentence in str(caught.value)
    assert caught.value.exit_code == EXIT_USAGE


def test_float16_on_a_cpu_is_refused_with_what_to_use():
    with pytest.raises(UsageError, match="needs a GPU; on a CPU use int8"):
        size(container(), Config(compute_type="float16"), TINY)


def test_an_unknown_compute_type_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="fp8: not one of auto, default, int8,"):
        size(workstation(), Config(compute_type="fp8"), TINY)


@pytest.mark.parametrize(
    ("cores", "descriptors", "asked", "start", "cap"),
    [
        (2, 1024, None, 8, 64),
        (16, 65_536, None, 8, 128),
        (16, 256, None, 8, 64),
        (0.1, 1024, None, 3, 3),
        (2, None, 16, 16, 16),
        (2, 1024, 1, 1, 1),
        (2, 1024, 500, 128, 128),
        (2, 256, 500, 64, 64),
    ],
)
def test_llm_calls_start_low_and_have_a_cap(cores, descriptors, asked, start, cap):
    machine = replace(container(cores), descriptors=descriptors)
    plan = size(machine, Config(llm_threads=asked), TINY)
    assert (plan.llm_threads, plan.llm_cap) == (start, cap)
    assert f"at most {cap}" in plan.llm_why
    assert ("to begin with" in plan.llm_why) == (asked is None)


@pytest.mark.parametrize(
    ("vendor", "batch"), [("GenuineIntel", 1), ("AuthenticAMD", 8), (None, 1), ("ARM", 1)]
)
def test_batch_on_a_cpu_follows_who_made_it(vendor: str | None, batch: int) -> None:
    machine = replace(container(2.0), cpu_vendor=vendor)
    assert {slot.batch_size for slot in size(machine, Config(), None).slots} == {batch}
    asked = size(machine, Config(batch_size=2), None)
    assert {slot.batch_size for slot in asked.slots} == {2}
