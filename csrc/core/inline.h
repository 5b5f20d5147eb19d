// Forced inlining. Files compiled for different instruction sets include the same headers, so an out-of-line copy of a
// shared function, compiled for one instruction set, could be linked into all of them.
#pragma once

#if defined(__CUDACC__)
#define SK_INLINE __host__ __device__ __forceinline__
#define SK_INLINE_LAMBDA
#else
#define SK_INLINE inline __attribute__((always_inline))
#define SK_INLINE_LAMBDA __attribute__((always_inline))
#endif
