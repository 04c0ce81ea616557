// A CUDA device on the CPU, for tests: kernels compiled as C++ run with real blocks, warps, barriers
// and shared memory, small and slow.
//
// Every CUDA thread is a fiber. The fibers of a block take turns: each runs until it waits at a barrier,
// so a run is deterministic, and `set_order` turns the order around, which shows up barriers that are
// missing. Blocks run one after the other; shared memory keeps what the block before left in it. A barrier that
// not all threads reach ends the launch with an error.

#pragma once
#include <math.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define EMULATED
#define __device__
#define __global__
#define __forceinline__ inline
#define __restrict__
#define __shared__ static  // blocks that share static variables never run at the same time

struct dim3 {
  unsigned x, y, z;
};

namespace emulated {

constexpr size_t STACK = 96 << 10;
constexpr int WARP = 32, ROOM = 32;  // bytes that a lane hands to the others of its warp

struct Barrier {
  int size = 0, arrived = 0;
  unsigned phase = 0;
};

struct Warp {
  Barrier barrier;
  unsigned char given[WARP][ROOM];
};

struct Block {
  dim3 index;
  Barrier barrier;
  std::vector<Warp> warps;
};

struct Fiber {
  dim3 thread;
  Warp *warp = nullptr;
  int lane = 0;
  bool done = true;
  bool started = false;
  ucontext_t context;
  jmp_buf place;
};

inline std::vector<Fiber *> fibers;
inline Block block;
inline Fiber *current = nullptr;
inline jmp_buf scheduler;
inline dim3 grid_size, block_size;
inline bool backwards = false, passed = false;
inline void (*entry)(void **) = nullptr;
inline void **arguments = nullptr;

[[noreturn]] inline void fail(const char *message) {
  fprintf(stderr, "emulated CUDA device: %s\n", message);
  abort();
}

inline void yield() {
  if (_setjmp(current->place) == 0) _longjmp(scheduler, 1);
}

inline void arrive(Barrier &barrier) {
  if (++barrier.arrived == barrier.size) {
    barrier.arrived = 0;
    ++barrier.phase;
  }
}

inline void wait(Barrier &barrier, unsigned phase) {
  while (barrier.phase == phase) yield();
  passed = true;
}

inline void meet(Barrier &barrier) {
  unsigned phase = barrier.phase;
  arrive(barrier);
  wait(barrier, phase);
}

inline void live() {  // of a fiber: one CUDA thread after the other
  for (;;) {
    entry(arguments);
    current->done = passed = true;
    yield();
  }
}

inline void resume(Fiber *fiber) {
  current = fiber;
  if (_setjmp(scheduler)) return;
  if (fiber->started) _longjmp(fiber->place, 1);
  fiber->started = true;
  setcontext(&fiber->context);
}

inline Fiber *make_fiber() {
  auto *fiber = new Fiber;
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_size = STACK;
  fiber->context.uc_stack.ss_sp =
      mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (fiber->context.uc_stack.ss_sp == MAP_FAILED) fail("no memory for stacks");
  fiber->context.uc_link = nullptr;
  makecontext(&fiber->context, live, 0);
  return fiber;
}

// Run a block; false where its threads wait for ever.
inline bool run_block(unsigned number) {
  int size = block_size.x;
  block = Block();
  block.index = {number, 0, 0};
  block.barrier.size = size;
  block.warps.resize((size + WARP - 1) / WARP);
  while ((int)fibers.size() < size) fibers.push_back(make_fiber());
  for (int t = 0; t < size; ++t) {
    Fiber *fiber = fibers[t];
    fiber->thread = {(unsigned)t, 0, 0};
    fiber->warp = &block.warps[t / WARP];
    fiber->lane = t % WARP;
    fiber->done = false;
    ++fiber->warp->barrier.size;
  }
  for (int left = size; left;) {
    passed = false;
    left = 0;
    for (int k = 0; k < size; ++k) {
      Fiber *fiber = fibers[backwards ? size - 1 - k : k];
      if (!fiber->done) {
        resume(fiber);
        left += !fiber->done;
      }
    }
    if (left && !passed) {
      fibers.clear();  // they are stuck in the middle of a kernel: never used again
      return false;
    }
  }
  return true;
}

template <typename T>
T exchange(T value, int from) {  // what lane `from` of the warp gave
  static_assert(sizeof(T) <= ROOM);
  Warp &warp = *current->warp;
  memcpy(warp.given[current->lane], &value, sizeof(T));
  meet(warp.barrier);
  memcpy(&value, warp.given[from], sizeof(T));
  meet(warp.barrier);
  return value;
}

}  // namespace emulated

#define threadIdx (emulated::current->thread)
#define blockIdx (emulated::block.index)
#define blockDim (emulated::block_size)
#define gridDim (emulated::grid_size)

inline void __syncthreads() { emulated::meet(emulated::block.barrier); }
inline void __syncwarp() { emulated::meet(emulated::current->warp->barrier); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulated::exchange(value, emulated::current->lane ^ mask);
}

inline int atomicAdd(int *place, int value) {
  int before = *place;
  *place += value;
  return before;
}

inline int atomicMax(int *place, int value) {
  int before = *place;
  if (value > before) *place = value;
  return before;
}

inline int min(int a, int b) { return a < b ? a : b; }

inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}

// ---- launching -------------------------------------------------------------------------------------

struct Kernel {
  const char *name;
  void (*call)(void **);
};
extern Kernel kernels[];  // follows the source; ends with an empty name

extern "C" void set_order(int backwards) { emulated::backwards = backwards; }

// 0: done; 1: no such kernel; 2: threads that wait for ever
extern "C" int launch(const char *name, unsigned grid, unsigned block, void **arguments) {
  for (Kernel *kernel = kernels; kernel->name; ++kernel) {
    if (strcmp(kernel->name, name)) continue;
    emulated::entry = kernel->call;
    emulated::arguments = arguments;
    emulated::grid_size = {grid, 1, 1};
    emulated::block_size = {block, 1, 1};
    for (unsigned number = 0; number < grid; ++number)
      if (!emulated::run_block(number)) return 2;
    return 0;
  }
  return 1;
}
