// A float32 matrix as elements in PARTS parts, its rows `stride` elements apart: what the products take.
//
// from[rows, columns], or where `order` is given the rows that order[0 .. rows - 1] names: a batch is gathered as it is
// converted. Any grid of THREADS threads.
#include "rows.cuh"

extern "C" __global__ void to_elements(const float* from, const long long* order, long long rows, long long columns,
                                       Element* to, long long stride, long long part) {
    const long long fours = (columns + 3) / 4, step = static_cast<long long>(gridDim.x) * blockDim.x;
    for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * fours; i += step) {
        const long long row = i / fours, column = i % fours * 4;
        const int count = int(min(columns - column, 4LL));
        float values[4];
        load(values, from + (order ? order[row] : row) * columns + column, count);
        store_parts(to + row * stride + column, part, values, count);
    }
}
