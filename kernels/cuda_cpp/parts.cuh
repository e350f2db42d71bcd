// Products of float32 in PARTS parts: which parts meet, and what is done where Inf is among them.
#pragma once
#include "tiles.cuh"

// The products of parts, i of A and j of B with i + j < PARTS, smallest first.
constexpr int PRODUCTS = PARTS * (PARTS + 1) / 2;
__device__ __forceinline__ constexpr int part_of_a(int product) {
    return PARTS == 1 ? 0 : PARTS == 2 ? product == 0 : product == 0 || product == 3 ? 1 : product == 1 ? 2 : 0;
}
__device__ __forceinline__ constexpr int part_of_b(int product) {
    return PARTS == 1 ? 0 : PARTS == 2 ? product == 1 : product == 0 || product == 4 ? 1 : product == 2 ? 2 : 0;
}

// An element of C once more, by one thread, in float32: the parts of Inf are Inf and 0, and Inf times a part that is 0
// makes NaN of what float32 leaves Inf.
template <bool A_DEEP, bool B_DEEP>
__device__ __forceinline__ float sum_alone(const Operand& a, const Operand& b, int row, int column, int begin, int end) {
    float sum = 0.0f;
    for (int k = begin; k < end; ++k) {
        float x = 0.0f, y = 0.0f;
        for (int p = PARTS; p-- > 0;) {
            x += widen(a.data[(A_DEEP ? row * a.stride + k : k * a.stride + row) + p * a.part]);
            y += widen(b.data[(B_DEEP ? column * b.stride + k : k * b.stride + column) + p * b.part]);
        }
        sum += x * y;
    }
    return sum;
}

// Four neighbours of C, each taken once more where it is NaN.
template <bool A_DEEP, bool B_DEEP>
__device__ __forceinline__ void mend(float (&values)[4], const Operand& a, const Operand& b, int row, int column, int begin,
                                     int end) {
    if constexpr (PARTS > 1) {
        for (int i = 0; i < 4; ++i)
            if (values[i] != values[i] && column + i < b.count)
                values[i] = sum_alone<A_DEEP, B_DEEP>(a, b, row, column + i, begin, end);
    }
}
