// Sums of many numbers in float64, in two passes and always in the same order: `*_parts` on any number of
// blocks, one part for each, then `finish_sum`.

extern "C" __global__ void square_parts(const REAL *x, double *parts, int64 n) {
  double sum = 0;
  for (int64 k = thread_number(); k < n; k += (int64)gridDim.x * blockDim.x) sum += (double)x[k] * (double)x[k];
  sum = block_sum(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

extern "C" __global__ void real_parts(const REAL *x, double *parts, int64 n) {
  double sum = 0;
  for (int64 k = thread_number(); k < n; k += (int64)gridDim.x * blockDim.x) sum += (double)x[k];
  sum = block_sum(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

extern "C" __global__ void double_parts(const double *x, double *parts, int64 n) {
  double sum = 0;
  for (int64 k = thread_number(); k < n; k += (int64)gridDim.x * blockDim.x) sum += x[k];
  sum = block_sum(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// One block: the sum of the parts divided by what `total` points to, or else by `divisor`; or its root.
extern "C" __global__ void finish_sum(const double *parts, const double *total, double divisor, int root,
                                      double *out, int count) {
  double sum = 0;
  for (int k = threadIdx.x; k < count; k += blockDim.x) sum += parts[k];
  sum = block_sum(sum);
  if (threadIdx.x) return;
  sum /= total ? *total : divisor;
  *out = root ? sqrt(sum) : sum;
}
