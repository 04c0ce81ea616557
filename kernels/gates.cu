// The gates of one CIFG time step, forward and backward: one thread for each unit of each row.
//
// Compiled by NVRTC with -DREAL=float or -DREAL=double. Legend and equations: charlstm/backends/ops.py.
// Threads are numbered b * H + k; the gates of row b lie at b * 3H + {k, H + k, 2H + k}.

__device__ static REAL sigmoid(REAL x) { return (REAL)0.5 * tanh((REAL)0.5 * x) + (REAL)0.5; }

extern "C" __global__ void gates_forward(const REAL *a, const REAL *c_prev, REAL *gates, REAL *c,
                                         REAL *h, int B, int H) {
  long long n = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (n >= (long long)B * H) return;
  long long first = (n / H) * 3 * H + n % H;
  REAL i = sigmoid(a[first]), o = sigmoid(a[first + H]), g = tanh(a[first + 2 * H]);
  REAL now = c_prev[n] + i * (g - c_prev[n]);
  gates[first] = i;
  gates[first + H] = o;
  gates[first + 2 * H] = g;
  c[n] = now;
  h[n] = o * tanh(now);
}

extern "C" __global__ void gates_backward(const REAL *dh, const REAL *dc, const REAL *gates,
                                          const REAL *c_prev, const REAL *c, REAL *da,
                                          REAL *dc_prev, int B, int H) {
  long long n = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (n >= (long long)B * H) return;
  long long first = (n / H) * 3 * H + n % H;
  REAL i = gates[first], o = gates[first + H], g = gates[first + 2 * H];
  REAL tanh_c = tanh(c[n]);
  REAL d = dc[n] + dh[n] * o * (1 - tanh_c * tanh_c);
  da[first] = d * (g - c_prev[n]) * i * (1 - i);
  da[first + H] = dh[n] * tanh_c * o * (1 - o);
  da[first + 2 * H] = d * i * (1 - g * g);
  dc_prev[n] = d * (1 - i);
}

// d[v, k] += sum of rows[order[n], k] for starts[v] <= n < starts[v + 1]: one thread for each
// column of each symbol, in a fixed order and without atomics, so that results repeat to the bit.
extern "C" __global__ void segment_sum(REAL *d, const long long *order, const long long *starts,
                                       const REAL *rows, int V, int D) {
  long long n = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (n >= (long long)V * D) return;
  long long v = n / D, k = n % D;
  REAL total = 0;
  for (long long m = starts[v]; m < starts[v + 1]; ++m) total += rows[order[m] * D + k];
  d[n] += total;
}
