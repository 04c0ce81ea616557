// One step of an optimizer on flat buffers, the rules of charlstm/backends/optimizer.py: one thread for each
// parameter. The gradients are multiplied by `scale`, and by what `factor` points to unless it is null.

__device__ static REAL scaled(double scale, const double *factor) {
  return (REAL)(factor ? scale * *factor : scale);
}

extern "C" __global__ void adam_update(REAL *p, const REAL *gradients, REAL *m, REAL *v, int64 n,
                                       const double *factor, double rate, double scale, double decay, double kept,
                                       double root, double beta1, double beta2, double epsilon) {
  int64 k = thread_number();
  if (k >= n) return;
  REAL g = scaled(scale, factor) * gradients[k] + (REAL)decay * p[k];
  m[k] = (REAL)beta1 * m[k] + (REAL)(1 - beta1) * g;
  v[k] = (REAL)beta2 * v[k] + (REAL)(1 - beta2) * (g * g);
  p[k] = (REAL)kept * p[k] - (REAL)rate * m[k] / (sqrt(v[k]) * (REAL)root + (REAL)epsilon);
}

extern "C" __global__ void sgd_update(REAL *p, const REAL *gradients, REAL *velocity, int64 n,
                                      const double *factor, double rate, double scale, double decay,
                                      double momentum) {
  int64 k = thread_number();
  if (k >= n) return;
  velocity[k] = (REAL)momentum * velocity[k] + (scaled(scale, factor) * gradients[k] + (REAL)decay * p[k]);
  p[k] -= (REAL)rate * velocity[k];
}

extern "C" __global__ void adagrad_update(REAL *p, const REAL *gradients, REAL *squares, int64 n,
                                          const double *factor, double rate, double scale, double decay,
                                          double epsilon) {
  int64 k = thread_number();
  if (k >= n) return;
  REAL g = scaled(scale, factor) * gradients[k] + (REAL)decay * p[k];
  squares[k] += g * g;
  p[k] -= (REAL)rate * g / (sqrt(squares[k]) + (REAL)epsilon);
}

extern "C" __global__ void rmsprop_update(REAL *p, const REAL *gradients, REAL *squares, int64 n,
                                          const double *factor, double rate, double scale, double decay,
                                          double beta2, double epsilon) {
  int64 k = thread_number();
  if (k >= n) return;
  REAL g = scaled(scale, factor) * gradients[k] + (REAL)decay * p[k];
  squares[k] = (REAL)beta2 * squares[k] + (REAL)(1 - beta2) * (g * g);
  p[k] -= (REAL)rate * g / (sqrt(squares[k]) + (REAL)epsilon);
}

extern "C" __global__ void move_towards(REAL *average, const REAL *p, int64 n, double share) {
  int64 k = thread_number();
  if (k < n) average[k] += (REAL)share * (p[k] - average[k]);
}
