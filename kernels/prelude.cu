// What all CUDA sources share. They are compiled together by NVRTC at first use, with -DREAL=float or
// -DREAL=double, and without any header. Legend of dimensions and equations: charlstm/backends/ops.py.
//
// Kernels are launched on one-dimensional grids. All of them are deterministic: sums have a fixed order, and
// atomics add integers only.

typedef long long int64;
typedef unsigned long long uint64;

__device__ static int64 thread_number() { return (int64)blockIdx.x * blockDim.x + threadIdx.x; }

__device__ static REAL sigmoid(REAL x) { return (REAL)0.5 * tanh((REAL)0.5 * x) + (REAL)0.5; }

__device__ static double infinite() { return exp(1e4); }

// The sum of a number of every lane, known to all lanes of the warp.
template <typename T>
__device__ T warp_sum(T x) {
  for (int mask = 16; mask; mask /= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
  return x;
}

// The largest number of any lane; not a number where any is not one.
template <typename T>
__device__ T warp_max(T x) {
  for (int mask = 16; mask; mask /= 2) {
    T other = __shfl_xor_sync(0xffffffffu, x, mask);
    x = other > x || other != other ? other : x;
  }
  return x;
}

// The sum of a number of every thread of a block, known to its first warp.
__device__ static double block_sum(double x) {
  __shared__ double parts[32];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  x = warp_sum(x);
  __syncthreads();  // whoever still reads the parts of an earlier sum
  if (lane == 0) parts[warp] = x;
  __syncthreads();
  return warp_sum(warp == 0 && lane < (int)blockDim.x / 32 ? parts[lane] : 0.0);
}
