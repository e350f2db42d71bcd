// Hopper's own instructions, each a thin function: barriers in shared memory, the copy engine (TMA), products of a whole
// warpgroup (wgmma), registers handed from one warpgroup to another; tests/cuda_host_hopper.h has the same for a processor.
#ifndef FASTMLP_HOPPER_CUH
#define FASTMLP_HOPPER_CUH
#include "tensor.cuh"

// Matrices in global memory, one after the other, as the copy engine sees them, made by the driver's cuTensorMapEncodeTiled.
struct alignas(64) TensorMap {
    unsigned char opaque[128];
};

using Barrier = unsigned long long;  // an mbarrier: counts arrivals and bytes of copies, and turns its phase at the last

__device__ __forceinline__ void barrier_init(Barrier* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// Shows freshly made barriers to the copy engine.
__device__ __forceinline__ void barriers_made() {
    asm volatile("fence.mbarrier_init.release.cluster;\n\tfence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(Barrier* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives at the barrier that lies in this place of another block of the cluster. Nothing that was written before is
// shown to that block, which would take a fence of the whole device.
__device__ __forceinline__ void barrier_arrive_at(Barrier* barrier, int rank) {
    asm volatile(
        "{\n\t.reg .b32 there;\n\tmapa.shared::cluster.u32 there, %0, %1;\n\t"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n\t}" ::"r"(shared_address(barrier)),
        "r"(rank)
        : "memory");
}

// Arrives, and has the phase wait for so many bytes of copies too.
__device__ __forceinline__ void barrier_expect(Barrier* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}

// Waits until the phase of this parity is over; a new barrier counts as being past the phase of parity 1.
__device__ __forceinline__ void barrier_wait(Barrier* barrier, int parity) {
    asm volatile(
        "{\n\t.reg .pred done;\n"
        "again:\n\tmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t@!done bra again;\n\t}" ::"r"(
            shared_address(barrier)),
        "r"(parity)
        : "memory");
}

// Lets the copy engine see a map that was copied to global memory.
__device__ __forceinline__ void acquire_map(const TensorMap* map) {
    asm volatile("fence.proxy.tensormap::generic.acquire.sys [%0], 128;" ::"l"(map) : "memory");
}

// The box of the map's matrix `part` that begins at (inner, outer) to shared memory; zeros where it lies outside of that.
__device__ __forceinline__ void copy_box(void* to, const TensorMap* map, int inner, int outer, int part, Barrier* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::
            "r"(shared_address(to)),
        "l"(map), "r"(inner), "r"(outer), "r"(part), "r"(shared_address(barrier))
        : "memory");
}

// The same to this place in each of the cluster's blocks that `blocks` has a bit for; their own barriers count the bytes.
__device__ __forceinline__ void copy_box_to(unsigned short blocks, void* to, const TensorMap* map, int inner, int outer,
                                            int part, Barrier* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared_address(to)),
        "l"(map), "r"(inner), "r"(outer), "r"(part), "r"(shared_address(barrier)), "h"(blocks)
        : "memory");
}

// A barrier of some of the block's warps; name 0 is __syncthreads'.
__device__ __forceinline__ void some_threads(int name, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

template <int REGISTERS>
__device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS>
__device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING>
__device__ __forceinline__ void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Keeps what reads or writes sums on its side of this: the compiler does not know that products under way write them.
template <int COUNT>
__device__ __forceinline__ void settle(float (&c)[COUNT]) {
#pragma unroll
    for (float& each : c) asm volatile("" : "+f"(each)::"memory");
}

// Where an operand lies in shared memory, in atoms of 8 rows of 128 bytes, their 16-byte chunks swizzled by the row: for
// wgmma, PTX ISA "matrix descriptor". `leading` and `stride` are in bytes.
__device__ __forceinline__ unsigned long long descriptor(const void* start, int leading, int stride) {
    constexpr unsigned long long SWIZZLE_128 = 1ULL << 62;
    return (shared_address(start) & 0x3ffff) >> 4 | static_cast<unsigned long long>(leading >> 4) << 16 |
           static_cast<unsigned long long>(stride >> 4) << 32 | SWIZZLE_128;
}

// c[64 x N] = a[64 x 16] b[16 x N], added to c where `adds`, by a warpgroup; N is 128 or 256. ACROSS: the operand's rows
// run across the sum. Lane 4 g + t of warp w holds c's row 16 w + g, columns 8 j + 2 t, + 1 at 4 j, and row 16 w + g + 8
// at 4 j + 2.
#define PLACES_64 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PLACES_128 \
    PLACES_64 ", " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define SUMS_8(i) \
    "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), "+f"(c[i + 7])
#define SUMS_32(i) SUMS_8(i), SUMS_8(i + 8), SUMS_8(i + 16), SUMS_8(i + 24)
#define SUMS_64 SUMS_32(0), SUMS_32(32)
#define SUMS_128 SUMS_64, SUMS_32(64), SUMS_32(96)
#define WGMMA(NAME, TYPE, N, COUNT, A, B, ADDS, A_MAJOR, B_MAJOR) \
    template <bool A_ACROSS, bool B_ACROSS> \
    __device__ __forceinline__ void NAME(float (&c)[COUNT], unsigned long long a, unsigned long long b, int adds) { \
        asm volatile("{\n\t.reg .pred adds;\n\tsetp.ne.b32 adds, " ADDS ", 0;\n\t" \
                     "wgmma.mma_async.sync.aligned.m64n" N "k16.f32." TYPE "." TYPE " {" PLACES_##COUNT "}, " A ", " B \
                     ", adds, 1, 1, " A_MAJOR ", " B_MAJOR ";\n\t}" \
                     : SUMS_##COUNT \
                     : "l"(a), "l"(b), "r"(adds), "n"(int(A_ACROSS)), "n"(int(B_ACROSS))); \
    }
#define WGMMA_128(NAME, TYPE) WGMMA(NAME, TYPE, "128", 64, "%64", "%65", "%66", "%67", "%68")
#define WGMMA_256(NAME, TYPE) WGMMA(NAME, TYPE, "256", 128, "%128", "%129", "%130", "%131", "%132")
WGMMA_128(multiply_group_bfloat16, "bf16")
WGMMA_256(multiply_group_bfloat16, "bf16")
WGMMA_128(multiply_group_float16, "f16")
WGMMA_256(multiply_group_float16, "f16")
#undef WGMMA_256
#undef WGMMA_128
#undef WGMMA
#endif
