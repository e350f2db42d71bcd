// What CUDA C++ has no word for, each a thin function; tests/cuda_host.h has the same for a processor.
#ifndef FASTMLP_DEVICE_CUH
#define FASTMLP_DEVICE_CUH

// The block's dynamic shared memory.
__device__ __forceinline__ unsigned char* dynamic_shared() {
    extern __shared__ __align__(128) unsigned char memory[];
    return memory;
}

// Copies of 4, 8 or 16 bytes from global to shared memory, that go on while the thread does; for 4 and 8 through L1.
template <int BYTES>
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
    const unsigned place = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    if constexpr (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(place), "l"(global) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(place), "l"(global), "n"(BYTES) : "memory");
}

// Closes a group of this thread's copies.
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING of this thread's groups are under way; a barrier then shows the rest to its neighbours.
template <int PENDING>
__device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Asks the L2 cache for the line that this lies in.
__device__ __forceinline__ void prefetch(const void* global) { asm volatile("prefetch.global.L2 [%0];" ::"l"(global)); }

#if __CUDA_ARCH__ >= 900
// This block's place in its cluster.
__device__ __forceinline__ int cluster_rank() {
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// Waits for every thread of the cluster, and shows it what the others wrote to shared memory.
__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// What lies at this address in the shared memory of another block of the cluster.
template <typename T>
__device__ __forceinline__ T* remote(T* shared, int rank) {
    unsigned long long place;
    asm volatile("mapa.u64 %0, %1, %2;" : "=l"(place) : "l"(shared), "r"(rank));
    return reinterpret_cast<T*>(place);
}

// Asks the L2 cache for so many bytes, but for the ends that are no whole 16.
__device__ __forceinline__ void prefetch_run(const void* global, int bytes) {
    const auto begin = (reinterpret_cast<unsigned long long>(global) + 15) & ~15ull;
    const auto end = (reinterpret_cast<unsigned long long>(global) + bytes) & ~15ull;
    if (begin < end)
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(begin), "r"(static_cast<unsigned>(end - begin)));
}
#else  // a device without clusters: each block is one by itself
__device__ __forceinline__ int cluster_rank() { return 0; }
__device__ __forceinline__ void cluster_sync() { __syncthreads(); }
template <typename T>
__device__ __forceinline__ T* remote(T* shared, int) {
    return shared;
}
__device__ __forceinline__ void prefetch_run(const void*, int) {}
#endif
#endif
