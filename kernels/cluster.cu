// Thread-block clusters and tensor cores in PTX (sm_90 and newer): barrier, stores to another block's shared
// memory, products of bfloat16 tiles. tests/cuda_shim.h holds the same for a CPU.

#ifndef EMULATED

#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

__device__ static int cluster_rank() {
  int rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// Between the two a thread may do what touches no shared memory. All threads of a warp have to be there at once.
__device__ static void cluster_arrive() {
  __syncwarp();
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

__device__ static void cluster_wait() {
  __syncwarp();
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

__device__ static unsigned address_in_cluster(const void *place, int rank) {
  unsigned own = (unsigned)__cvta_generic_to_shared(place), other;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(other) : "r"(own), "r"(rank));
  return other;
}

// Store at the same place of the shared memory of block `rank`.
__device__ static void store_in_cluster(unsigned *place, int rank, unsigned value) {
  asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(address_in_cluster(place, rank)), "r"(value) : "memory");
}

__device__ static void store_in_cluster(float2 *place, int rank, float2 value) {
  asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(address_in_cluster(place, rank)), "f"(value.x),
               "f"(value.y)
               : "memory");
}

// Two bfloat16 numbers, rounded to even, in one word.
__device__ static unsigned pack_bf16(float low, float high) {
  unsigned both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

// d (16 x 8) += a (16 x 16) b (16 x 8) of a warp. With g = lane / 4 and j = 2 (lane % 4), word r of a holds
// row g + 8 (r % 2), columns j + 8 (r / 2) and the next; word r of b rows j + 8 r and the next, column g;
// number r of d row g + 8 (r / 2), column j + r % 2.
__device__ static void mma_bf16(float d[4], const unsigned a[4], const unsigned b[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif
