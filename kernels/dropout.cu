// What dropout drops, drawn by a counter: Philox4x64-10 (Salmon et al. 2011, SC'11), number for number as
// NumPy's, which charlstm/backends/dropout.py draws from on the host. Nothing of it is stored: backward draws
// again. One thread for each block of four words, which are sixteen draws of 16 bits.

#define DRAWS 16

struct Words {
  uint64 word[4];
};

__device__ static Words philox(const uint64 *key, uint64 number, uint64 layer, uint64 kind) {
  uint64 c0 = number + 1, c1 = 0, c2 = layer, c3 = kind, k0 = key[0], k1 = key[1];  // NumPy counts from 1
  for (int round = 0; round < 10; ++round) {
    uint64 high0 = __umul64hi(0xD2E7470EE14C6C93ull, c0), low0 = 0xD2E7470EE14C6C93ull * c0;
    uint64 high1 = __umul64hi(0xCA5A826395121157ull, c2), low1 = 0xCA5A826395121157ull * c2;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B97F4A7C15ull;
    k1 += 0xBB67AE8584CAA73Bull;
  }
  return {{c0, c1, c2, c3}};
}

// mask (n,): 0 with probability threshold / 2^16, else `factor`.
extern "C" __global__ void dropout_mask(REAL *mask, const uint64 *key, int64 layer, int64 kind, int threshold,
                                        double factor, int64 n) {
  int64 number = thread_number(), first = number * DRAWS;
  if (first >= n) return;
  Words words = philox(key, number, layer, kind);
  for (int k = 0; k < DRAWS && first + k < n; ++k) {
    int draw = (int)(words.word[k / 4] >> 16 * (k % 4) & 0xffff);
    mask[first + k] = draw >= threshold ? (REAL)factor : 0;
  }
}

// out = x times that mask; out may be x.
extern "C" __global__ void dropout_multiply(const REAL *x, REAL *out, const uint64 *key, int64 layer, int64 kind,
                                            int threshold, double factor, int64 n) {
  int64 number = thread_number(), first = number * DRAWS;
  if (first >= n) return;
  Words words = philox(key, number, layer, kind);
  for (int k = 0; k < DRAWS && first + k < n; ++k) {
    int draw = (int)(words.word[k / 4] >> 16 * (k % 4) & 0xffff);
    out[first + k] = draw >= threshold ? x[first + k] * (REAL)factor : x[first + k] * 0;
  }
}
