// out = x rounded to the nearest bfloat16, ties to even, as contract.BFLOAT16 says; a NaN stays one.
//
// x[count] float32, out[count] bfloat16 bits. Any grid.

extern "C" __global__ void round_bfloat16(const float* x, unsigned short* out, long long count) {
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) {
        const unsigned u = __float_as_uint(x[i]);
        const unsigned nearest = u + 0x7fff + (u >> 16 & 1);
        out[i] = ((u & 0x7fffffff) > 0x7f800000 ? u | 0x00400000 : nearest) >> 16;
    }
}
