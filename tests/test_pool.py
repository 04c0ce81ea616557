"""Memory that is used again, and work that is shared out."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from charlstm import UsageError
from charlstm.backends import get_ops, shards
from charlstm.backends.pool import SMALLEST, MemoryPool
from charlstm.backends.shards import ShardPool
from charlstm.backends.threads import THREADS_VARIABLE, cpu_quota, thread_count, usable_cores

LARGE = (SMALLEST // 8,)


def test_a_block_is_used_again_only_when_all_views_are_gone() -> None:
    pool = MemoryPool()
    first = pool.empty(LARGE, np.float64)
    address = first.ctypes.data
    assert address % 64 == 0
    view = first.reshape(2, -1)[:, 1:]
    del first
    gc.collect()
    assert pool.empty(LARGE, np.float64).ctypes.data != address
    del view
    assert pool.empty(LARGE, np.float64).ctypes.data == address


def test_unused_blocks_are_kept_up_to_a_limit() -> None:
    pool = MemoryPool(limit=SMALLEST)
    arrays = [pool.empty(LARGE, np.float64) for _ in range(3)]
    del arrays
    assert pool._kept == SMALLEST


def test_a_size_that_is_no_longer_used_makes_room() -> None:
    pool = MemoryPool(limit=3 * SMALLEST)
    for size in (SMALLEST, 2 * SMALLEST):
        array = pool.empty((size,), np.uint8)
        del array
    assert list(pool._free) == [SMALLEST, 2 * SMALLEST]
    array = pool.empty((2 * SMALLEST + 1,), np.uint8)
    del array
    assert list(pool._free) == [2 * SMALLEST + SMALLEST // 4]  # the next block size


def test_models_in_several_threads_of_a_program() -> None:
    """Built in one thread and used in others at once: BLAS held to one thread, the same results."""
    blas = ThreadpoolController().select(user_api="blas").lib_controllers
    ops = get_ops("numba", threads=2)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 300, 300))
    expected = ops.matmul(a, b)
    problems: list[object] = []
    seen: set[int] = set()

    def use() -> None:
        for _ in range(20):
            if not np.array_equal(ops.matmul(a, b), expected):
                problems.append("another result")
            ops._shards.run(lambda s, e: seen.update(library.num_threads for library in blas), 2, blas=True)

    before = [library.num_threads for library in blas]
    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert seen == {1}
    assert [library.num_threads for library in blas] == before


def test_numpys_error_state_holds_in_every_shard() -> None:
    states: list[str] = []
    with np.errstate(over="ignore"):
        ShardPool(3).run(lambda s, e: states.append(np.geterr()["over"]), 3)
    assert states == ["ignore"] * 3


def test_an_allocation_that_fails_leaves_the_pool_usable() -> None:
    pool = MemoryPool()
    with pytest.raises(MemoryError):
        pool.empty((1 << 60,), np.uint8)
    assert pool.empty(LARGE, np.float64).shape == LARGE


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("n", [0, 1, 4, 5, 100])
def test_shards_cover_the_range_once(threads: int, n: int) -> None:
    seen: list[tuple[int, int]] = []
    lock = threading.Lock()

    def work(start: int, stop: int) -> None:
        with lock:
            seen.append((start, stop))

    ShardPool(threads).run(work, n, smallest=2)
    assert sorted(k for start, stop in seen for k in range(start, stop)) == list(range(n))
    assert len(seen) == max(1, min(threads, n // 2))


def test_errors_in_any_shard_are_raised() -> None:
    pool = ShardPool(3)
    for failing in range(3):

        def work(start: int, stop: int, failing: int = failing) -> None:
            if start == failing * 10:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            pool.run(work, 30)
    finished = []
    pool.run(lambda s, e: finished.append(s), 30)
    assert len(finished) == 3


@pytest.mark.parametrize("pause", [0, 0.05])
def test_threads_that_watch_and_threads_that_sleep(pause: float) -> None:
    """One call after another, right away and long after the helpers have gone to sleep."""
    pool, totals = ShardPool(2), np.zeros(2)
    for n in range(200 if not pause else 5):
        pool.run(lambda s, e: totals.__setitem__(slice(s, e), totals[s:e] + 1), 2)
        assert list(totals) == [n + 1] * 2
        time.sleep(pause)


def test_a_helper_slower_than_the_watch() -> None:
    pool, done = ShardPool(2), np.zeros(2)

    def work(s: int, e: int) -> None:
        time.sleep(0.02 * s)
        done[s:e] += 1

    for n in range(5):
        pool.run(work, 2)
        assert list(done) == [n + 1] * 2


def test_more_threads_than_cores_do_not_watch() -> None:
    assert ShardPool(4 * usable_cores())._watched == 0
    assert ShardPool(1)._watched > 0


def test_threads_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost but the call: the next one is made, and is waited for."""
    monkeypatch.setattr(shards, "_HELPERS", [])
    pool, done = ShardPool(2), np.zeros(2)

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(ThreadPoolExecutor, "submit", refuse)
        with pytest.raises(RuntimeError, match="start new thread"):
            pool.run(lambda s, e: None, 2)
    for n in range(20):
        pool.run(lambda s, e: done.__setitem__(slice(s, e), done[s:e] + 1), 2)
        assert list(done) == [n + 1] * 2


def test_an_interrupt_while_waiting_ends_when_the_shards_have(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, finished = ShardPool(2), []

    def work(s: int, e: int) -> None:
        if s:
            time.sleep(0.2)
            finished.append(s)

    interrupts = iter([KeyboardInterrupt])
    wait = shards._Helper.wait

    def interrupted(self: shards._Helper, number: int) -> None:
        for interrupt in interrupts:
            raise interrupt
        wait(self, number)

    monkeypatch.setattr(shards._Helper, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.run(work, 2)
    assert finished == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process")  # Python 3.12 on: forks of a process with threads
def test_a_forked_process_has_threads_of_its_own() -> None:
    pool, numbers = ShardPool(2), np.zeros(2)
    pool.run(lambda s, e: None, 2)
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            pool.run(lambda s, e: numbers.__setitem__(slice(s, e), 1), 2)
            os._exit(0 if numbers.all() else 1)
        os._exit(2)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the forked process waits for a thread that it does not have")


def test_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    assert thread_count() == usable_cores()
    monkeypatch.setenv(THREADS_VARIABLE, "3")
    assert thread_count() == 3
    assert thread_count(1) == 1
    assert get_ops("numba").threads() == 3
    for wrong in ("0", "-1", "many"):
        monkeypatch.setenv(THREADS_VARIABLE, wrong)
        with pytest.raises(UsageError, match=r"CHARLSTM_NUM_THREADS|at least 1"):
            thread_count()


@pytest.mark.parametrize(
    ("group", "files", "cores"),
    [
        ("0::/", {}, math.inf),
        ("0::/", {"cpu.max": "max 100000"}, math.inf),
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2),
        ("0::/a/b", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "300000 100000"}, 3),
        ("4:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"}, 0.5),
        ("4:cpu:/a", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        ("0::/elsewhere", {"cpu.max": "200000 100000"}, 2),  # a container that sees its own group as the root
        ("not a line", {"cpu.max": "words"}, math.inf),
    ],
)
def test_quotas_of_control_groups(tmp_path: Path, group: str, files: dict[str, str], cores: float) -> None:
    groups = tmp_path / "groups"
    groups.write_text(group + "\n")
    root = tmp_path / "cgroup"
    root.mkdir()
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    assert cpu_quota(root, groups) == cores
    assert cpu_quota(tmp_path / "nowhere", tmp_path / "nothing") == math.inf


def test_sizes_that_are_not_used_any_more_do_not_stand_in_the_way() -> None:
    """A size whose last block is in use again is the one last used the longest, and has nothing to give."""
    pool = MemoryPool(limit=400_000)
    pool.empty((100_000,), "u1")
    kept = pool.empty((100_000,), "u1")
    assert kept.size
    for size in range(300_000, 400_000, 10_000):
        array = pool.empty((size,), "u1")
        del array
    assert pool._kept <= 400_000
    assert pool._kept == sum(len(block) for blocks in pool._free.values() for block in blocks)
