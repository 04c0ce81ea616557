// Look-up of rows, and its way back: a segment sum without sorting and without atomics on reals.
//
// A symbol is a row of a table of V, its segment the places n at which ids[n] is that symbol, in order. The
// segments are found by counting: `count_ids` counts each symbol in each chunk of ids, `scan_counts` makes
// of that where each chunk's places begin, `place_ids` writes them. Segments are then cut into pieces of at
// most PIECE places: `sum_pieces` adds up each piece, `sum_segments` the pieces of each symbol.

#define CHUNK 1024
#define PIECE 64

// out[n] = table[ids[n]], or table[0] without ids; an id outside of the table gives no numbers.
extern "C" __global__ void gather_rows(const REAL *table, const int64 *ids, REAL *out, int64 N, int V, int D) {
  int64 n = thread_number();
  if (n >= N * D) return;
  int64 v = ids ? ids[n / D] : 0;
  out[n] = v >= 0 && v < V ? table[v * D + n % D] : (REAL)nan("");
}

// counts (V, chunks), zero before; ids outside of the table are left out.
extern "C" __global__ void count_ids(const int64 *ids, int *counts, int64 N, int V, int chunks) {
  int64 n = thread_number();
  if (n < N && ids[n] >= 0 && ids[n] < V) atomicAdd(&counts[ids[n] * chunks + n / CHUNK], 1);
}

// One block. counts become where, in `order`, the places of each symbol and chunk begin; starts (V + 1) and
// pieces (V + 1) where those of each symbol do, and its pieces.
extern "C" __global__ void scan_counts(int *counts, int *starts, int *pieces, int V, int chunks) {
  __shared__ int sums[1024], cuts[1024];
  int t = threadIdx.x, threads = blockDim.x;
  int each = (V + threads - 1) / threads, first = min(t * each, V), last = min(first + each, V);
  int sum = 0, cut = 0;
  for (int v = first; v < last; ++v) {
    int size = 0;
    for (int k = 0; k < chunks; ++k) size += counts[(int64)v * chunks + k];
    sum += size;
    cut += (size + PIECE - 1) / PIECE;
  }
  sums[t] = sum;
  cuts[t] = cut;
  __syncthreads();
  sum = cut = 0;
  for (int before = 0; before < t; ++before) {
    sum += sums[before];
    cut += cuts[before];
  }
  for (int v = first; v < last; ++v) {
    int begin = sum;
    starts[v] = begin;
    pieces[v] = cut;
    for (int k = 0; k < chunks; ++k) {
      int size = counts[(int64)v * chunks + k];
      counts[(int64)v * chunks + k] = sum;
      sum += size;
    }
    cut += (sum - begin + PIECE - 1) / PIECE;
  }
  if (last == V && first < V) {
    starts[V] = sum;
    pieces[V] = cut;
  }
}

// One block of CHUNK threads for each chunk.
extern "C" __global__ void place_ids(const int64 *ids, const int *begins, int *order, int64 N, int V, int chunks) {
  __shared__ int64 here[CHUNK];
  int t = threadIdx.x;
  int64 n = (int64)blockIdx.x * CHUNK + t;
  here[t] = n < N ? ids[n] : -1;
  __syncthreads();
  int64 v = here[t];
  if (v < 0 || v >= V) return;
  int rank = 0;
  for (int before = 0; before < t; ++before) rank += here[before] == v;
  order[begins[v * chunks + blockIdx.x] + rank] = (int)n;
}

// One thread for each column of each piece. A symbol of one piece is done: d[v] += its sum.
extern "C" __global__ void sum_pieces(REAL *d, const REAL *rows, const int *order, const int *starts,
                                      const int *pieces, REAL *sums, int64 most, int V, int D) {
  int64 n = thread_number(), piece = n / D, k = n % D;
  if (piece >= most || piece >= pieces[V]) return;
  int low = 0, high = V - 1;  // the last symbol whose pieces begin at or before this one
  while (low < high) {
    int middle = (low + high + 1) / 2;
    if (pieces[middle] <= piece) low = middle;
    else high = middle - 1;
  }
  int begin = starts[low] + (int)(piece - pieces[low]) * PIECE, end = min(begin + PIECE, starts[low + 1]);
  REAL sum = 0;
  for (int m = begin; m < end; ++m) sum += rows[(int64)order[m] * D + k];
  if (pieces[low + 1] - pieces[low] == 1) d[(int64)low * D + k] += sum;
  else sums[n] = sum;
}

// One thread for each column of each symbol.
extern "C" __global__ void sum_segments(REAL *d, const int *pieces, const REAL *sums, int V, int D) {
  int64 n = thread_number(), v = n / D;
  if (v >= V || pieces[v + 1] - pieces[v] < 2) return;
  REAL sum = 0;
  for (int64 piece = pieces[v]; piece < pieces[v + 1]; ++piece) sum += sums[piece * D + n % D];
  d[n] += sum;
}
