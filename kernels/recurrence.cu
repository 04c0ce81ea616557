// A layer's recurrence in one launch, forward and backward: bfloat16 products, everything else float32.
//
// Rows of a batch are independent: a cluster of CLUSTER blocks takes ROWS of them through all time steps and
// never meets the other clusters. Of its WIDTH = CLUSTER * UNITS units (HIDDEN, rounded up) each block owns
// UNITS: their gates and cells, and their 3 UNITS columns of R, which lie in the registers of its warps as
// tiles for the tensor cores, for the whole sequence. A product is computed transposed, units by rows, so that
// eight rows fill a tile.
//
// Forward, a step: each warp multiplies its tiles of R by h_{t-1} of all units; the sums over the parts of
// k, one for each SPLIT of warps, meet in shared memory; each thread makes gates, c and h of its units and
// rows; h goes into the shared memory of all blocks. Backward: each thread makes da_t of its units; each block
// multiplies its columns of R by it, which gives its part of dh_{t-1} of all units; the parts go to the blocks
// that own these units, which add them up in order. One barrier of the cluster a step; what a block writes to
// the others is buffered twice, so that it does not overtake their reading.
//
// Macros: HIDDEN, CLUSTER, UNITS (a multiple of 16), ROWS (a multiple of 8), WARPS (at least UNITS / 16).

#define WIDTH (CLUSTER * UNITS)
#define THREADS (32 * WARPS)
#define COLUMNS (ROWS / 8)                                  // tiles of rows
#define GROUPS (UNITS / 16)                                 // tiles of a block's units
#define SPLITS (WARPS / GROUPS)                             // parts of k, forward
#define EACH ((WIDTH / 16 + SPLITS - 1) / SPLITS)           // tiles of k of a warp, forward
#define OUTER ((WIDTH / 16 + WARPS - 1) / WARPS)            // tiles of units of a warp, backward
#define INNER (3 * UNITS / 16)                              // tiles of k, backward
#define OWN ((UNITS * ROWS + THREADS - 1) / THREADS)        // numbers of a thread
#define H_STRIDE (WIDTH + 8)                                // of bfloat16; 8 more: no two rows in the same banks
#define DA_STRIDE (3 * UNITS + 8)
#define SUM_STRIDE (ROWS + 1)
#define DH_STRIDE (ROWS + 2)

typedef unsigned short bf16;

// R (H, 3H) between unit `from`, whose h it multiplies, and a gate of unit `to`; 0 beyond the units.
__device__ static float weight(const float *R, int from, int gate, int to) {
  return from < HIDDEN && to < HIDDEN ? R[(int64)from * 3 * HIDDEN + gate * HIDDEN + to] : 0.0f;
}

__device__ static unsigned two(const bf16 *place) { return *(const unsigned *)place; }

struct Element {  // a unit and a row that a thread owns, and where they lie in an array of (B, H)
  int unit, row;  // within the block, within the cluster's rows
  int64 at, gates;
  bool real;  // neither rounded up
};

__device__ static Element element(int n, int first_unit, int first_row, int B) {
  Element e;
  e.unit = n % UNITS;
  e.row = n / UNITS;
  int unit = first_unit + e.unit, row = first_row + e.row;
  e.real = unit < HIDDEN && row < B;
  e.at = (int64)row * HIDDEN + unit;
  e.gates = (int64)row * 3 * HIDDEN + unit;
  return e;
}

// gates (T, B, 3H) holds x W + b and becomes the gates; h and c (T+1, B, H), of which slot 0 is given.
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
recurrence_forward(float *gates, const float *R, float *h, float *c, int T, int B) {
  DYNAMIC_SHARED(memory);
  bf16 *h_all = (bf16 *)memory;                                    // (2, ROWS, H_STRIDE)
  float *sums = (float *)(memory + 2 * ROWS * H_STRIDE * sizeof(bf16));  // (SPLITS, 3, UNITS, SUM_STRIDE)
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = warp % GROUPS, split = warp / GROUPS;
  int g = lane / 4, j = 2 * (lane % 4), rank = cluster_rank();
  int first_unit = rank * UNITS, first_row = blockIdx.x / CLUSTER * ROWS;
  int64 step = (int64)B * HIDDEN;

  unsigned kept[3][EACH][4];
#pragma unroll
  for (int gate = 0; gate < 3; ++gate)
#pragma unroll
    for (int e = 0; e < EACH; ++e)
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        int k = 16 * (split * EACH + e) + j + 8 * (r / 2), unit = first_unit + 16 * group + g + 8 * (r % 2);
        kept[gate][e][r] = pack_bf16(weight(R, k, gate, unit), weight(R, k + 1, gate, unit));
      }
  for (int n = threadIdx.x; n < ROWS * WIDTH / 2; n += THREADS) {
    int row = n / (WIDTH / 2), unit = 2 * (n % (WIDTH / 2)), b = first_row + row;
    float low = b < B && unit < HIDDEN ? h[(int64)b * HIDDEN + unit] : 0.0f;
    float high = b < B && unit + 1 < HIDDEN ? h[(int64)b * HIDDEN + unit + 1] : 0.0f;
    *(unsigned *)&h_all[row * H_STRIDE + unit] = pack_bf16(low, high);
  }
  float cell[OWN], next[OWN][3];
#pragma unroll
  for (int n = 0; n < OWN; ++n) {
    Element e = element(threadIdx.x + n * THREADS, first_unit, first_row, B);
    bool real = e.row < ROWS && e.real && T;
    cell[n] = real ? c[e.at] : 0.0f;
    for (int gate = 0; gate < 3; ++gate) next[n][gate] = real ? gates[e.gates + gate * HIDDEN] : 0.0f;
  }
  cluster_arrive();  // nobody writes into a block that has not begun
  cluster_wait();

  for (int t = 0; t < T; ++t) {
    const bf16 *before = h_all + t % 2 * ROWS * H_STRIDE;
    bf16 *after = h_all + (t + 1) % 2 * ROWS * H_STRIDE;
    if (split < SPLITS) {
      float sum[3][COLUMNS][4] = {};
#pragma unroll
      for (int e = 0; e < EACH; ++e) {
        int k = 16 * (split * EACH + e) + j;
        if (k < WIDTH) {
#pragma unroll
          for (int column = 0; column < COLUMNS; ++column) {
            const bf16 *place = before + (8 * column + g) * H_STRIDE + k;
            unsigned b[2] = {two(place), two(place + 8)};
#pragma unroll
            for (int gate = 0; gate < 3; ++gate) mma_bf16(sum[gate][column], kept[gate][e], b);
          }
        }
      }
#pragma unroll
      for (int gate = 0; gate < 3; ++gate)
#pragma unroll
        for (int column = 0; column < COLUMNS; ++column)
#pragma unroll
          for (int r = 0; r < 4; ++r) {
            int unit = 16 * group + g + 8 * (r / 2), row = 8 * column + j + r % 2;
            sums[((split * 3 + gate) * UNITS + unit) * SUM_STRIDE + row] = sum[gate][column][r];
          }
    }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < OWN; ++n) {
      Element e = element(threadIdx.x + n * THREADS, first_unit, first_row, B);
      if (e.row < ROWS) {  // of whole warps
        float a[3];
#pragma unroll
        for (int gate = 0; gate < 3; ++gate) {
          a[gate] = next[n][gate];
#pragma unroll
          for (int s = 0; s < SPLITS; ++s) a[gate] += sums[((s * 3 + gate) * UNITS + e.unit) * SUM_STRIDE + e.row];
        }
        float in = sigmoid(a[0]), out = sigmoid(a[1]), new_cell = tanh(a[2]), hidden = 0.0f;
        if (e.real) {
          cell[n] += in * (new_cell - cell[n]);
          hidden = out * tanh(cell[n]);
          float *place = gates + t * 3 * step + e.gates;
          place[0] = in;
          place[HIDDEN] = out;
          place[2 * HIDDEN] = new_cell;
          c[(t + 1) * step + e.at] = cell[n];
          h[(t + 1) * step + e.at] = hidden;
        }
        // two neighbouring units make a word; each of the two lanes writes it to every second block
        float other = __shfl_xor_sync(0xffffffffu, hidden, 1);
        unsigned both = lane % 2 ? pack_bf16(other, hidden) : pack_bf16(hidden, other);
        unsigned *place = (unsigned *)&after[e.row * H_STRIDE + first_unit + e.unit / 2 * 2];
        for (int other_rank = lane % 2; other_rank < CLUSTER; other_rank += 2) store_in_cluster(place, other_rank, both);
      }
    }
    cluster_arrive();
#pragma unroll
    for (int n = 0; n < OWN; ++n) {  // what the next step reads is on its way while the blocks wait
      Element e = element(threadIdx.x + n * THREADS, first_unit, first_row, B);
      if (e.row < ROWS && e.real && t + 1 < T)
        for (int gate = 0; gate < 3; ++gate) next[n][gate] = gates[(t + 1) * 3 * step + e.gates + gate * HIDDEN];
    }
    cluster_wait();
  }
}

// What backward reads at one time step: the gates, c_{t-1} and dh_t.
__device__ static void read_step(float read[5], const Element &e, int64 t, int64 step, const float *gates,
                                 const float *c, const float *dh) {
  for (int gate = 0; gate < 3; ++gate) read[gate] = gates[t * 3 * step + e.gates + gate * HIDDEN];
  read[3] = c[t * step + e.at];
  read[4] = dh[t * step + e.at];
}

// da (T, B, 3H) and dh0 (B, H) from dh (T, B, H); dc (B, H) is taken from the last step to before the first.
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
recurrence_backward(const float *dh, float *dc, const float *R, const float *gates, const float *c, float *da,
                    float *dh0, int T, int B) {
  DYNAMIC_SHARED(memory);
  float *parts = (float *)memory;                                           // (2, CLUSTER, UNITS, DH_STRIDE)
  bf16 *own = (bf16 *)(memory + 2 * WIDTH * DH_STRIDE * sizeof(float));     // da of this block (ROWS, DA_STRIDE)
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, j = 2 * (lane % 4), rank = cluster_rank();
  int first_unit = rank * UNITS, first_row = blockIdx.x / CLUSTER * ROWS;
  int64 step = (int64)B * HIDDEN;

  unsigned kept[OUTER][INNER][4];
#pragma unroll
  for (int o = 0; o < OUTER; ++o)
#pragma unroll
    for (int e = 0; e < INNER; ++e)
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        int unit = 16 * (warp + o * WARPS) + g + 8 * (r % 2), k = 16 * e + j + 8 * (r / 2);
        int gate = k / UNITS, to = first_unit + k % UNITS;
        kept[o][e][r] = pack_bf16(weight(R, unit, gate, to), weight(R, unit, gate, to + 1));
      }
  float dcell[OWN], cell[OWN], next[OWN][5] = {};
#pragma unroll
  for (int n = 0; n < OWN; ++n) {
    Element e = element(threadIdx.x + n * THREADS, first_unit, first_row, B);
    bool real = e.row < ROWS && e.real;
    dcell[n] = real ? dc[e.at] : 0.0f;
    cell[n] = real ? c[T * step + e.at] : 0.0f;
    if (real && T) read_step(next[n], e, T - 1, step, gates, c, dh);
  }
  for (int n = threadIdx.x; n < WIDTH * DH_STRIDE; n += THREADS) parts[n] = 0;  // nothing follows the last step
  cluster_arrive();
  cluster_wait();

  for (int t = T - 1, turn = 0; t >= -1; --t, turn ^= 1) {
    const float *arrived = parts + turn * WIDTH * DH_STRIDE;
#pragma unroll
    for (int n = 0; n < OWN; ++n) {
      Element e = element(threadIdx.x + n * THREADS, first_unit, first_row, B);
      if (e.row >= ROWS) continue;
      float above = 0, d[3] = {0, 0, 0};
      for (int s = 0; s < CLUSTER; ++s) above += arrived[(s * UNITS + e.unit) * DH_STRIDE + e.row];
      if (t < 0) {
        if (e.real) {
          dh0[e.at] = above;
          dc[e.at] = dcell[n];
        }
        continue;
      }
      if (e.real) {
        float in = next[n][0], out = next[n][1], new_cell = next[n][2], before = next[n][3];
        float tanh_c = tanh(cell[n]);
        above += next[n][4];
        float both = dcell[n] + above * out * (1 - tanh_c * tanh_c);
        d[0] = both * (new_cell - before) * in * (1 - in);
        d[1] = above * tanh_c * out * (1 - out);
        d[2] = both * in * (1 - new_cell * new_cell);
        dcell[n] = both * (1 - in);
        cell[n] = before;
        for (int gate = 0; gate < 3; ++gate) da[t * 3 * step + e.gates + gate * HIDDEN] = d[gate];
      }
      for (int gate = 0; gate < 3; ++gate)
        own[e.row * DA_STRIDE + gate * UNITS + e.unit] = (bf16)pack_bf16(d[gate], 0.0f);
    }
    if (t < 0) break;
    __syncthreads();
#pragma unroll
    for (int o = 0; o < OUTER; ++o) {
      int tile = warp + o * WARPS;
      if (tile >= WIDTH / 16) continue;
      float sum[COLUMNS][4] = {};
#pragma unroll
      for (int e = 0; e < INNER; ++e)
#pragma unroll
        for (int column = 0; column < COLUMNS; ++column) {
          const bf16 *place = own + (8 * column + g) * DA_STRIDE + 16 * e + j;
          unsigned b[2] = {two(place), two(place + 8)};
          mma_bf16(sum[column], kept[o][e], b);
        }
      int owner = 16 * tile / UNITS;
      float *goal = parts + (turn ^ 1) * WIDTH * DH_STRIDE + rank * UNITS * DH_STRIDE;
#pragma unroll
      for (int column = 0; column < COLUMNS; ++column)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          int unit = 16 * tile % UNITS + g + 8 * half, row = 8 * column + j;
          float2 pair = {sum[column][2 * half], sum[column][2 * half + 1]};
          store_in_cluster((float2 *)&goal[unit * DH_STRIDE + row], owner, pair);
        }
    }
    cluster_arrive();
#pragma unroll
    for (int n = 0; n < OWN; ++n) {
      Element e = element(threadIdx.x + n * THREADS, first_unit, first_row, B);
      if (e.row < ROWS && e.real && t > 0) read_step(next[n], e, t - 1, step, gates, c, dh);
    }
    cluster_wait();
  }
}
