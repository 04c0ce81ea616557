"""The recurrence of a layer in one launch, on thread-block clusters with tensor cores (kernels/recurrence.cu).

Not yet run on a GPU.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np

from .cuda_kernels import KernelTable
from .layers import CIFGTape
from .sampling import Array

LARGEST = 512  # H: R lies in the registers of a cluster
UNITS = 64  # most units of a block: at most 96 registers of each thread hold R
CLUSTERS = (1, 2, 4, 8)
WARPS = 16
SHARED = 48 << 10  # bytes of shared memory that need not be asked for
logger = logging.getLogger("charlstm")


class Plan(NamedTuple):
    """How a layer lies on the device: the macros of kernels/recurrence.cu."""

    HIDDEN: int
    CLUSTER: int
    UNITS: int
    ROWS: int
    WARPS: int = WARPS

    def shared(self, backward: bool) -> int:
        """Bytes of shared memory of a block."""
        width = self.CLUSTER * self.UNITS
        if backward:
            return 2 * width * (self.ROWS + 2) * 4 + self.ROWS * (3 * self.UNITS + 8) * 2
        splits = self.WARPS // (self.UNITS // 16)
        return 2 * self.ROWS * (width + 8) * 2 + splits * 3 * self.UNITS * (self.ROWS + 1) * 4


def plan_for(H: int, B: int, multiprocessors: int) -> Plan | None:
    """The fewest blocks that hold R; 16 rows for each cluster where 8 would not all run at once."""
    for cluster in CLUSTERS:
        units = 16 * -(-H // (16 * cluster))
        if units <= UNITS:
            crowded = -(-B // 8) * cluster > multiprocessors
            return Plan(H, cluster, units, 16 if crowded and H <= LARGEST // 2 else 8)
    return None


class PersistentRecurrence:
    """Forward and backward in one launch each, where device and size allow."""

    def __init__(self, xp: Any, table: KernelTable) -> None:
        properties = xp.cuda.runtime.getDeviceProperties(xp.cuda.runtime.getDevice())
        self._table, self._clusters = table, properties["major"] >= 9
        self._multiprocessors = int(properties["multiProcessorCount"])
        self._told: set[int] = set()

    def plan(self, H: int, B: int) -> Plan | None:
        """How, or None, which is said in the log, where steps have to be launched one by one."""
        plan = plan_for(H, B, self._multiprocessors) if self._clusters else None
        if plan is None and H not in self._told:
            self._told.add(H)
            why = (
                f"{H} units are more than {LARGEST}"
                if self._clusters
                else "this GPU has no thread-block clusters"
            )
            logger.info("the recurrence takes a product and a kernel for each step: %s", why)
        return plan

    def forward(self, plan: Plan, gates: Array, R: Array, h: Array, c: Array) -> bool:
        """From pre-activations (T, B, 3H), which become the gates, and slot 0 of h and c (T+1, B, H).

        False, and nothing done, where the device does not take the launch.
        """
        return self._launch(plan, "recurrence_forward", gates.shape, gates, R, h, c)

    def backward(
        self, plan: Plan, dh: Array, dc: Array, R: Array, tape: CIFGTape, da: Array, dh0: Array
    ) -> bool:
        """Writes da (T, B, 3H) and dh0 (B, H); takes dc (B, H) to before the first step. All contiguous.

        False as for `forward`.
        """
        return self._launch(plan, "recurrence_backward", da.shape, dh, dc, R, tape.gates, tape.c, da, dh0)

    def _launch(self, plan: Plan, name: str, shape: tuple[int, ...], *arrays: Array) -> bool:
        kernels = self._table.of("float32", "cluster", "recurrence", macros=plan._asdict())
        shared = plan.shared(name == "recurrence_backward")
        if shared > SHARED:
            kernels[name].max_dynamic_shared_size_bytes = shared
        T, B = shape[:2]
        blocks = plan.CLUSTER * -(-B // plan.ROWS)
        sizes = np.int32(T), np.int32(B)
        try:
            kernels.launch(name, blocks, *arrays, *sizes, threads=32 * plan.WARPS, shared=shared)
        except RuntimeError as error:  # of CUDA: part of a GPU may have no room for a cluster
            self._clusters = False
            logger.warning("the recurrence takes a product and a kernel for each step: %s", error)
            return False
        return True
