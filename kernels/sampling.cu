// Drawing tokens by temperature: one block for each stream. `draw` of charlstm/backends/sampling.py, as far as
// bias, temperature, min_p and redraws go; sums in float64.

#define BEST(value, place, other, where) ((other) > (value) || ((other) == (value) && (where) < (place)))

// The largest of V numbers and its first place, known to all threads.
__device__ static void block_best(double &value, int &place) {
  __shared__ double values[1024];
  __shared__ int places[1024];
  int t = threadIdx.x;
  values[t] = value;
  places[t] = place;
  __syncthreads();
  for (int step = blockDim.x / 2; step; step /= 2) {
    if (t < step && BEST(values[t], places[t], values[t + step], places[t + step])) {
      values[t] = values[t + step];
      places[t] = places[t + step];
    }
    __syncthreads();
  }
  value = values[0];
  place = places[0];
  __syncthreads();
}

__device__ static double weight_of(const REAL *logits, const double *bias, int v, double top, double temperature,
                                   double least) {
  double weight = exp(((double)logits[v] + (bias ? bias[v] : 0.0) - top) / temperature);
  return weight < least ? 0.0 : weight;
}

// Token n of each stream into tokens (N, B), and whether its logits were numbers into finite (B,), which
// is 1 before. logits (B, V), uniforms (N, B, numbers), temperatures (N, B), bias (B, V) or null, least (B,)
// and redraws (B,): `min_p` and `redraw` of its sampler; remaining (B,): tokens that it still has to draw.
extern "C" __global__ void draw_tokens(const REAL *logits, const double *uniforms, const double *temperatures,
                                       const double *bias, const double *least, const int *redraws,
                                       const int64 *remaining, int64 *tokens, int *finite, int n, int B,
                                       int numbers, int V) {
  __shared__ double sums[1024];
  __shared__ int last_kept, chosen;
  int b = blockIdx.x, t = threadIdx.x, threads = blockDim.x;
  const REAL *x = logits + (int64)b * V;
  const double *added = bias ? bias + (int64)b * V : (const double *)0;
  int64 out = (int64)n * B + b;
  double temperature = temperatures[out], top = -infinite(), bad = 0;
  int each = (V + threads - 1) / threads, first = min(t * each, V), last = min(first + each, V), best = V;
  for (int v = first; v < last; ++v) {
    double value = (double)x[v] + (added ? added[v] : 0.0);
    if (!isfinite(x[v])) bad = 1;
    if (value > top) {
      top = value;
      best = v;
    }
  }
  block_best(top, best);
  bad = block_sum(bad);
  if (t == 0) {
    if (bad && n < remaining[b]) finite[b] = 0;
    tokens[out] = best < V ? best : 0;
  }
  if (temperature == 0) return;
  double sum = 0;
  int kept = -1;
  for (int v = first; v < last; ++v) {
    double weight = weight_of(x, added, v, top, temperature, least[b]);
    sum += weight;
    if (weight > 0) kept = v;
  }
  sums[t] = sum;
  if (t == 0) last_kept = 0;
  __syncthreads();
  if (kept >= 0) atomicMax(&last_kept, kept);
  __syncthreads();
  double before = 0, after = 0, total = 0;  // cumulative weights where this thread's symbols begin and end
  for (int k = 0; k < threads; ++k) {
    if (k == t) before = total;
    total += sums[k];
    if (k == t) after = total;
  }
  for (int number = 0; number <= redraws[b]; ++number) {
    double goal = uniforms[out * numbers + number] * total, reached = before;
    if (t == 0) chosen = last_kept;
    __syncthreads();
    if (before <= goal && goal < after) {  // of one thread, or of none where the goal is the total
      chosen = kept;
      for (int v = first; v <= kept; ++v) {
        reached += weight_of(x, added, v, top, temperature, least[b]);
        if (reached > goal) {
          chosen = v;
          break;
        }
      }
    }
    __syncthreads();
    int token = chosen;
    __syncthreads();
    if (t == 0) tokens[out] = token;
    if (token == best) return;
  }
}
