// A CUDA device on the CPU, for tests: kernels compiled as C++ run with real blocks, warps, barriers,
// shared memory and thread-block clusters, small and slow.
//
// A CUDA thread that waits at a barrier is a fiber. The threads of a cluster take turns: each runs until it waits,
// so a run is deterministic, and `set_order` turns the order around, which shows up barriers that are
// missing. Blocks (clusters, where there are any) run one after the other. Shared memory is filled with NaNs
// before a block begins. A barrier that not all threads reach ends the launch with an error.

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
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __shared__ static  // blocks that share static variables never run at the same time

struct dim3 {
  unsigned x, y, z;
};

struct float2 {
  float x, y;
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
  int rank = 0;  // within its cluster
  Barrier barrier;
  std::vector<Warp> warps;
  std::vector<unsigned char> shared;
};

struct Thread {
  dim3 index;
  Block *block = nullptr;
  Warp *warp = nullptr;
  int lane = 0;
  bool waiting = false;  // between arriving at the cluster's barrier and waiting there
  unsigned token = 0;    // the phase of that barrier when it arrived
};

struct Fiber {  // a stack for a thread, or for one after the other as long as they do not wait
  Thread *thread = nullptr;
  bool started = false;
  ucontext_t context;
  jmp_buf place;
};

inline std::vector<Fiber *> idle;
inline std::vector<Thread> threads;
inline size_t begun = 0;  // threads that have been given a fiber
inline std::vector<Block> blocks;
inline Barrier cluster;
inline Thread *current = nullptr;
inline Fiber *running = nullptr;
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
  if (_setjmp(running->place) == 0) _longjmp(scheduler, 1);
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

// Of a fiber: one thread after the other, until one has to wait or there are none left.
inline void live() {
  for (;;) {
    while (begun < threads.size()) {
      current = running->thread = &threads[backwards ? threads.size() - 1 - begun : begun];
      ++begun;
      entry(arguments);
      if (current->waiting) fail("a thread ended between arriving at the cluster's barrier and waiting");
      passed = true;
    }
    running->thread = nullptr;
    yield();
  }
}

inline void resume(Fiber *fiber) {
  running = fiber;
  current = fiber->thread;
  if (_setjmp(scheduler)) return;
  if (fiber->started) _longjmp(fiber->place, 1);
  fiber->started = true;
  setcontext(&fiber->context);
}

inline Fiber *idle_fiber() {
  if (!idle.empty()) {
    Fiber *fiber = idle.back();
    idle.pop_back();
    return fiber;
  }
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

inline void prepare(unsigned first, int count, size_t shared_bytes) {
  int size = block_size.x;
  blocks.assign(count, Block());
  threads.assign(count * size, Thread());
  cluster = Barrier{count * size, 0, 0};
  begun = 0;
  for (int b = 0; b < count; ++b) {
    Block &block = blocks[b];
    block.index = {first + b, 0, 0};
    block.rank = b;
    block.barrier.size = size;
    block.shared.assign(shared_bytes, 0xff);
    block.warps.resize((size + WARP - 1) / WARP);
    for (int t = 0; t < size; ++t) {
      Warp &warp = block.warps[t / WARP];
      threads[b * size + t] = {{(unsigned)t, 0, 0}, &block, &warp, t % WARP, false, 0};
      ++warp.barrier.size;
    }
  }
}

// Run `count` blocks from number `first` on side by side; false where they wait for ever.
inline bool run_together(unsigned first, int count, size_t shared_bytes) {
  prepare(first, count, shared_bytes);
  std::vector<Fiber *> waiting, still;
  while (begun < threads.size()) {
    Fiber *fiber = idle_fiber();
    resume(fiber);
    (fiber->thread ? waiting : idle).push_back(fiber);
  }
  while (!waiting.empty()) {
    passed = false;
    for (Fiber *fiber : waiting) {
      resume(fiber);
      (fiber->thread ? still : idle).push_back(fiber);
    }
    if (!passed) return false;  // these fibers are stuck in the middle of a kernel: never used again
    waiting.swap(still);
    still.clear();
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

#define threadIdx (emulated::current->index)
#define blockIdx (emulated::current->block->index)
#define blockDim (emulated::block_size)
#define gridDim (emulated::grid_size)
#define DYNAMIC_SHARED(name) unsigned char *name = emulated::current->block->shared.data()

inline void __syncthreads() { emulated::meet(emulated::current->block->barrier); }
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

// ---- what the kernels do in PTX ------------------------------------------------------------------

inline int cluster_rank() { return emulated::current->block->rank; }

inline void cluster_arrive() {
  if (emulated::current->waiting) emulated::fail("a thread arrived twice at the cluster's barrier");
  emulated::current->waiting = true;
  emulated::current->token = emulated::cluster.phase;
  emulated::arrive(emulated::cluster);
}

inline void cluster_wait() {
  if (!emulated::current->waiting) emulated::fail("a thread waits at the cluster's barrier without arriving");
  emulated::wait(emulated::cluster, emulated::current->token);
  emulated::current->waiting = false;
}

// mapa and st.shared::cluster: an address within this block's shared memory, in that of another
template <typename T>
void store_in_cluster(T *place, int rank, T value) {
  auto offset = (unsigned char *)place - emulated::current->block->shared.data();
  if (offset < 0 || offset + sizeof(T) > emulated::current->block->shared.size())
    emulated::fail("a remote store outside of shared memory");
  memcpy(emulated::blocks[rank].shared.data() + offset, &value, sizeof(T));
}

inline unsigned round_to_bf16(float x) {  // to nearest, ties to even
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
}

inline unsigned pack_bf16(float low, float high) { return round_to_bf16(low) | round_to_bf16(high) << 16; }

// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32, fragments as the PTX ISA lays them out
inline void mma_bf16(float d[4], const unsigned a[4], const unsigned b[2]) {
  struct Given {
    unsigned a[4], b[2];
  } own;
  memcpy(own.a, a, sizeof own.a);
  memcpy(own.b, b, sizeof own.b);
  Given all[emulated::WARP];
  emulated::Warp &warp = *emulated::current->warp;
  memcpy(warp.given[emulated::current->lane], &own, sizeof own);
  emulated::meet(warp.barrier);
  for (int lane = 0; lane < emulated::WARP; ++lane) memcpy(&all[lane], warp.given[lane], sizeof own);
  emulated::meet(warp.barrier);
  auto half = [](unsigned word, int which) {
    uint32_t bits = (which ? word >> 16 : word & 0xffff) << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
  };
  int group = emulated::current->lane / 4, place = emulated::current->lane % 4;
  for (int n = 0; n < 4; ++n) {
    int row = group + 8 * (n / 2), column = 2 * place + n % 2;
    for (int k = 0; k < 16; ++k) {
      const Given &left = all[(row % 8) * 4 + (k % 8) / 2], &right = all[column * 4 + (k % 8) / 2];
      d[n] += half(left.a[row / 8 + 2 * (k / 8)], k % 2) * half(right.b[k / 8], k % 2);
    }
  }
}

// ---- launching -------------------------------------------------------------------------------------

struct Kernel {
  const char *name;
  void (*call)(void **);
};
extern Kernel kernels[];  // follows the source; ends with an empty name

extern "C" void set_order(int backwards) { emulated::backwards = backwards; }

// 0: done; 1: no such kernel; 2: threads that wait for ever
extern "C" int launch(const char *name, unsigned grid, unsigned block, int cluster, size_t shared, void **arguments) {
  for (Kernel *kernel = kernels; kernel->name; ++kernel) {
    if (strcmp(kernel->name, name)) continue;
    emulated::entry = kernel->call;
    emulated::arguments = arguments;
    emulated::grid_size = {grid, 1, 1};
    emulated::block_size = {block, 1, 1};
    for (unsigned first = 0; first < grid; first += cluster)
      if (!emulated::run_together(first, cluster, shared)) return 2;
    return 0;
  }
  return 1;
}
