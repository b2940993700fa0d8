"""Which errors of which library are for want of memory."""

import sys
import weakref
from types import SimpleNamespace

import pytest

from engine.errors import OutOfMemoryError
from engine.pools.out_of_memory import is_out_of_memory, out_of_memory_named


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA failed with error out of memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has"),
        RuntimeError("cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED"),
        RuntimeError("parallel_for failed: cudaErrorMemoryAllocation: out of memory"),
        RuntimeError("aligned_alloc: failed to allocate memory"),
        RuntimeError("failed to allocated memory"),  # sic, in its storage_view.cc
        RuntimeError("std::bad_alloc"),
        MemoryError("std::bad_alloc"),
        MemoryError(),
        type("OutOfMemoryError", (RuntimeError,), {})("of a library"),
    ],
)
def test_errors_for_want_of_memory_are_known(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA failed with error an illegal memory access was encountered"),
        RuntimeError("Library libcublas.so.12 is not found or cannot be loaded"),
        ValueError("out of memory"),
        KeyError("memory"),
    ],
)
def test_other_errors_are_not(error):
    assert not is_out_of_memory(error)


def test_the_hosts_own_error_is_known():
    with pytest.raises(MemoryError) as caught:
        bytearray(1 << 62)
    assert is_out_of_memory(caught.value)


@pytest.mark.torch
def test_errors_of_torch_are_known():
    torch = pytest.importorskip("torch")
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert is_out_of_memory(caught.value)


@pytest.mark.torch
def test_an_error_of_torch_becomes_ours_where_torch_is_loaded():
    torch = pytest.importorskip("torch")
    with (
        pytest.raises(OutOfMemoryError, match=r"^CUDA out of memory\.$"),
        out_of_memory_named(),
    ):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nSee the documentation")


def test_what_a_failed_call_holds_is_let_go_before_torch_gives_memory_back(monkeypatch):
    held = []

    class Tensor:
        pass

    def work():
        activation = Tensor()
        held.append(weakref.ref(activation))
        raise RuntimeError("CUDA out of memory.")

    at_empty_cache = []
    cuda = SimpleNamespace(
        is_available=lambda: True, empty_cache=lambda: at_empty_cache.append(held[0]())
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    with pytest.raises(OutOfMemoryError), out_of_memory_named():
        work()
    assert at_empty_cache == [None]
