// The tensor cores' instructions, each a thin function: conversions, matrix loads, products; tests/cuda_host_tensor.h has
// the same for a processor.
#ifndef FASTMLP_TENSOR_CUH
#define FASTMLP_TENSOR_CUH
#include "device.cuh"

// Two floats to two 16-bit elements, to nearest even; `low` lands in the lower half.
__device__ __forceinline__ unsigned pack_bfloat16(float low, float high) {
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ __forceinline__ unsigned pack_float16(float low, float high) {
    unsigned pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ __forceinline__ float widen_float16(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// 16 bytes from global to shared memory, of which `bytes` are read and the rest are zero; both sides 16-byte aligned.
__device__ __forceinline__ void copy_part(void* shared, const void* global, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
                 : "memory");
}

// Four 8 x 8 matrices of 16-bit elements: lanes 8 j .. 8 j + 7 give the 16-byte rows of matrix j, and every lane gets
// elements 2 (lane % 4) and the next of row lane / 4, as one register a matrix.
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same, of the matrices' transposes.
__device__ __forceinline__ void load_matrices_transposed(unsigned (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// c[16 x 8] += a[16 x 16] b[16 x 8]; lane = 4 g + t holds a: rows g, g + 8, columns 2 t, 2 t + 1, then + 8;
// b: rows 2 t, 2 t + 1, then + 8, column g; c: row g, columns 2 t, 2 t + 1, then row g + 8.
#define MMA_16(NAME, TYPE)                                                                                           \
    __device__ __forceinline__ void NAME(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {                                  \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE ".f32 "                                   \
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                \
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                            \
    }
MMA_16(multiply_bfloat16, "bf16")
MMA_16(multiply_float16, "f16")
#undef MMA_16
#endif
