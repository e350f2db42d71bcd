// z = x @ w + b; y = activation(z): one layer forward on tensor cores.
//
// x[n, k] and w[k, m] are elements in PARTS parts. Written where given: y[n, m] and z[n, m], float32, rows `y_stride` and
// m apart, and y as elements, the next layer's x. Grid: one block of BLOCK_THREADS a tile of y, 128 x TILE_COLUMNS.
#include "elements.cuh"
#include "product_of_elements.cuh"

struct Forward {
    const float* bias;
    float *y, *z;
    Element* elements;
    long long y_stride, z_stride, stride, part;
    float added[4];

    struct Fetched {};

    __device__ __forceinline__ void begin(int column, int count) { load(added, bias + column, count); }
    __device__ __forceinline__ void ask(int, int, int) const {}
    __device__ __forceinline__ Fetched fetch(int, int, int) { return {}; }
    __device__ __forceinline__ void finish(int row, int column, int count, float (&values)[4], const Fetched&) {
        for (int i = 0; i < 4; ++i) values[i] += added[i];
        if (z) store(z + row * z_stride + column, values, count);
        for (int i = 0; i < 4; ++i) values[i] = elements::activate<ACTIVATION_CODE>(values[i]);
        if (y) store(y + row * y_stride + column, values, count);
        if (elements) store_parts(elements + row * stride + column, part, values, count);
    }
    __device__ __forceinline__ void end(char*, Tile) {}
};

extern "C" __global__ void IN_CLUSTERS __launch_bounds__(BLOCK_THREADS, BLOCKS)
linear_forward(const Element* x, long long x_stride, long long x_part, const Element* w, long long w_stride,
               long long w_part, long long n, long long k, long long m, const float* bias, float* y, long long y_stride,
               float* z, long long z_stride, Element* elements, long long stride, long long part) {
    char* shared = reinterpret_cast<char*>(dynamic_shared());
    Forward epilogue{bias, y, z, elements, y_stride, z_stride, stride, part};
    gemm<true, false>(shared, {x, x_stride, x_part, int(n)}, {w, w_stride, w_part, int(m)}, 0, int(k), epilogue);
}
