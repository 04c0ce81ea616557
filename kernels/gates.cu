// The gates of one CIFG time step, forward and backward: one thread for each unit of each row.
//
// Thread n is unit k of row b, n = b H + k; its gates lie at b 3H + {k, H + k, 2H + k}.

// gates (B, 3H) holds the pre-activations and becomes the gates; c may take the place of c_prev.
extern "C" __global__ void gates_forward(REAL *gates, const REAL *c_prev, REAL *c, REAL *h, int B, int H) {
  int64 n = thread_number();
  if (n >= (int64)B * H) return;
  int64 first = (n / H) * 3 * H + n % H;
  REAL i = sigmoid(gates[first]), o = sigmoid(gates[first + H]), g = tanh(gates[first + 2 * H]);
  REAL now = c_prev[n] + i * (g - c_prev[n]);
  gates[first] = i;
  gates[first + H] = o;
  gates[first + 2 * H] = g;
  c[n] = now;
  h[n] = o * tanh(now);
}

// da (B, 3H) from dh, the sum of what comes from above and (unless it is null) from the step after; dc
// is taken from c_t to c_{t-1} in place.
extern "C" __global__ void gates_backward(const REAL *dh_above, const REAL *dh_after, REAL *dc,
                                          const REAL *gates, const REAL *c_prev, const REAL *c, REAL *da,
                                          int B, int H) {
  int64 n = thread_number();
  if (n >= (int64)B * H) return;
  int64 first = (n / H) * 3 * H + n % H;
  REAL i = gates[first], o = gates[first + H], g = gates[first + 2 * H];
  REAL tanh_c = tanh(c[n]), dh = dh_above[n] + (dh_after ? dh_after[n] : 0);
  REAL d = dc[n] + dh * o * (1 - tanh_c * tanh_c);
  da[first] = d * (g - c_prev[n]) * i * (1 - i);
  da[first + H] = dh * tanh_c * o * (1 - o);
  da[first + 2 * H] = d * i * (1 - g * g);
  dc[n] = d * (1 - i);
}
