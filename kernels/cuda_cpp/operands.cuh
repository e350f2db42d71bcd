// What the tensor cores multiply: elements of 16 bits, and a float32 as the sum of up to three of them.
//
// ELEMENT  0: bfloat16, 8 significant bits and float32's range; 1: float16, 11 bits
// PARTS    how many elements stand for one float32: x = h + m + l, each the rest of those before, rounded to nearest.
//          Three bfloat16 hold all 24 bits. A matrix of such is PARTS matrices, one after the other.
// HOPPER   0: products are gemm.cuh's; 128, 256: gemm_hopper.cuh's, in tiles of so many columns
#pragma once
#include "tensor.cuh"

// What a block is, as layers.py has it too: threads in all, those of them that work on the finished tile, its columns, the
// blocks on one multiprocessor at a time, and those of a cluster, whose tiles lie one above the other.
constexpr int BLOCKS = HOPPER == 256 || PARTS > 1 ? 1 : 2, CLUSTER = HOPPER == 256 ? 2 : 1;
constexpr int THREADS = HOPPER || PARTS > 1 ? 256 : 128, COPIERS = HOPPER == 0 ? 0 : BLOCKS > 1 ? 32 : 128;
constexpr int BLOCK_THREADS = THREADS + COPIERS, TILE_COLUMNS = HOPPER ? HOPPER : 128;

using Element = unsigned short;
constexpr int PER_CHUNK = 8;  // elements in the 16 bytes that one asynchronous copy moves

__device__ __forceinline__ float widen(Element bits) {
#if ELEMENT == 0
    return __uint_as_float(static_cast<unsigned>(bits) << 16);
#else
    return widen_float16(bits);
#endif
}

__device__ __forceinline__ unsigned pack(float low, float high) {
#if ELEMENT == 0
    return pack_bfloat16(low, high);
#else
    return pack_float16(low, high);
#endif
}

__device__ __forceinline__ bool is_finite(float value) { return (__float_as_uint(value) & 0x7f800000u) != 0x7f800000u; }

// Four neighbours, in one access where the address allows it. `count` of them are there; the others read as 0.
template <typename T>
struct alignas(4 * sizeof(T)) Four {
    T at[4];
};

template <typename T>
__device__ __forceinline__ bool whole(const T* pointer, int count) {
    return count >= 4 && reinterpret_cast<unsigned long long>(pointer) % sizeof(Four<T>) == 0;
}

__device__ __forceinline__ void load(float (&to)[4], const float* from, int count) {
    if (whole(from, count)) {
        const Four<float> four = *reinterpret_cast<const Four<float>*>(from);
        for (int i = 0; i < 4; ++i) to[i] = four.at[i];
    } else {
        for (int i = 0; i < 4; ++i) to[i] = i < count ? from[i] : 0.0f;
    }
}

__device__ __forceinline__ void load(float (&to)[4], const Element* from, int count) {
    if (whole(from, count)) {
        const Four<Element> four = *reinterpret_cast<const Four<Element>*>(from);
        for (int i = 0; i < 4; ++i) to[i] = widen(four.at[i]);
    } else {
        for (int i = 0; i < 4; ++i) to[i] = i < count ? widen(from[i]) : 0.0f;
    }
}

template <typename T>
__device__ __forceinline__ void store(T* to, const Four<T>& four, int count) {
    if (whole(to, count)) {
        *reinterpret_cast<Four<T>*>(to) = four;
    } else {
        for (int i = 0; i < 4; ++i)
            if (i < count) to[i] = four.at[i];
    }
}

__device__ __forceinline__ void store(float* to, const float (&values)[4], int count) {
    store(to, Four<float>{{values[0], values[1], values[2], values[3]}}, count);
}

// Four float32 as elements: part p at to + p * part. Where parts follow, a finite value beyond the largest element is
// that one and a rest, and the rest of Inf or NaN is zero.
__device__ __forceinline__ void store_parts(Element* to, long long part, const float (&values)[4], int count) {
    float rest[4] = {values[0], values[1], values[2], values[3]};
#pragma unroll
    for (int p = 0; p < PARTS; ++p) {
        const unsigned pairs[2] = {pack(rest[0], rest[1]), pack(rest[2], rest[3])};
        Four<Element> four;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            four.at[i] = static_cast<Element>(pairs[i / 2] >> (i % 2 * 16));
            if (p + 1 < PARTS) {
                const bool finite = is_finite(rest[i]);
                if (finite && !is_finite(widen(four.at[i]))) four.at[i] -= 1;  // Inf's bits less one
                rest[i] = finite ? rest[i] - widen(four.at[i]) : 0.0f;
            }
        }
        store(to + p * part, four, count);
    }
}
