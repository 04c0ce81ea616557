// Softmax and cross-entropy: one warp for each row of logits.

// logits (N, V), to which bias (V,) is added unless it is null. Writes the loss of each row and its largest
// posterior, both times the row's weight, and unless it is null dlogits, which may take the place of the
// logits. Without weights every row counts 1; total is the sum of the weights.
extern "C" __global__ void cross_entropy(const REAL *logits, const REAL *bias, const int64 *targets,
                                         const REAL *weights, const double *total, double smoothing,
                                         REAL *dlogits, double *losses, double *largest, int64 N, int V) {
  int64 row = thread_number() / 32;
  int lane = threadIdx.x % 32;
  if (row >= N) return;  // a whole warp
  const REAL *x = logits + row * V;
  REAL top = (REAL)-infinite();
  for (int v = lane; v < V; v += 32) {
    REAL value = x[v] + (bias ? bias[v] : 0);
    top = value > top || value != value ? value : top;
  }
  top = warp_max(top);
  REAL sum = 0;
  for (int v = lane; v < V; v += 32) sum += exp(x[v] + (bias ? bias[v] : 0) - top);
  sum = warp_sum(sum);
  REAL log_sum = log(sum), weight = weights ? weights[row] : 1;
  int64 target = targets[row];
  if (lane == 0) {
    bool known = target >= 0 && target < V;
    REAL own = known ? x[target] + (bias ? bias[target] : 0) - top - log_sum : (REAL)nan("");
    losses[row] = (double)weight * -(double)own;
    largest[row] = (double)weight / (double)sum;
  }
  if (!dlogits) return;
  __syncwarp();  // the target's logit has been read
  REAL scale = total ? (REAL)((double)weight / *total) : (REAL)1 / N, share = (REAL)smoothing;
  for (int v = lane; v < V; v += 32) {
    REAL goal = (v == target ? 1 - share : 0) + share / V;
    dlogits[row * V + v] = (exp(x[v] + (bias ? bias[v] : 0) - top - log_sum) - goal) * scale;
  }
}

// The posterior (N, V) of logits.
extern "C" __global__ void softmax(const REAL *logits, REAL *posterior, int64 N, int V) {
  int64 row = thread_number() / 32;
  int lane = threadIdx.x % 32;
  if (row >= N) return;
  const REAL *x = logits + row * V;
  REAL top = (REAL)-infinite();
  for (int v = lane; v < V; v += 32) top = x[v] > top || x[v] != x[v] ? x[v] : top;
  top = warp_max(top);
  REAL sum = 0;
  for (int v = lane; v < V; v += 32) sum += exp(x[v] - top);
  sum = warp_sum(sum);
  for (int v = lane; v < V; v += 32) posterior[row * V + v] = exp(x[v] - top) / sum;
}
