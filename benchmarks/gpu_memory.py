"""The memory pool that CTranslate2 takes a GPU's memory from, by the driver's own figures.

In: nothing; the process's first GPU. Out: the most that was in use since the last question, and a
switch that lets the pool keep what is freed: by default it gives it back at every wait for the
device, which a decoder has many of. Without the driver everything is None, and nothing happens.

Names and numbers: CUDA driver API, "Stream Ordered Memory Allocator".
"""

import ctypes

RELEASE_THRESHOLD, USED_HIGH = 4, 8  # CU_MEMPOOL_ATTR_...
ALL = 2**64 - 1


class Pool:
    """The default pool of the first GPU."""

    def __init__(self) -> None:
        self._driver: ctypes.CDLL | None = None
        self._pool = ctypes.c_void_p()
        try:
            driver = ctypes.CDLL("libcuda.so.1")
        except OSError:
            return
        device = ctypes.c_int()
        calls = (
            lambda: driver.cuInit(0),
            lambda: driver.cuDeviceGet(ctypes.byref(device), 0),
            lambda: driver.cuDeviceGetDefaultMemPool(ctypes.byref(self._pool), device),
        )
        if all(call() == 0 for call in calls):
            self._driver = driver

    def keep(self, most: int = ALL) -> bool:
        """Keep so many freed bytes; whether that could be set. 0 is the default."""
        return self._set(RELEASE_THRESHOLD, most)

    def peak(self) -> int | None:
        """Bytes that were in use at most since the last call."""
        if self._driver is None:
            return None
        value = ctypes.c_uint64()
        ended = self._driver.cuMemPoolGetAttribute(self._pool, USED_HIGH, ctypes.byref(value))
        self._set(USED_HIGH, 0)
        return value.value if ended == 0 else None

    def _set(self, name: int, number: int) -> bool:
        if self._driver is None:
            return False
        value = ctypes.c_uint64(number)
        return self._driver.cuMemPoolSetAttribute(self._pool, name, ctypes.byref(value)) == 0
