// out[n, m] = A[n, k] B[k, m], either operand stored as it is or transposed.
//
// a and b are elements in PARTS parts. Grid: one block of BLOCK_THREADS a tile of out, 128 x TILE_COLUMNS.
#include "product_of_elements.cuh"

#define MATMUL(NAME, A_TRANSPOSED, B_TRANSPOSED)                                                                       \
    extern "C" __global__ void IN_CLUSTERS __launch_bounds__(BLOCK_THREADS, BLOCKS)                                                \
    NAME(const Element* a, long long a_stride, long long a_part, const Element* b, long long b_stride,                 \
         long long b_part, long long n, long long k, long long m, float* out) {                                        \
        char* shared = reinterpret_cast<char*>(dynamic_shared());                                                      \
        Keep epilogue{out, int(m)};                                                                                    \
        const Operand x{a, a_stride, a_part, int(n)}, y{b, b_stride, b_part, int(m)};                                  \
        gemm<!A_TRANSPOSED, B_TRANSPOSED>(shared, x, y, 0, int(k), epilogue);                                          \
    }

MATMUL(matmul, false, false)
MATMUL(matmul_transposed_b, false, true)
MATMUL(matmul_transposed_a, true, false)
MATMUL(matmul_transposed_both, true, true)
