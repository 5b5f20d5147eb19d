// Files built for one instruction set share headers with everyone. A function they have in common must be inlined
// always: a copy left behind by one of them could be the one that the linker picks for all.
#pragma once

#if defined(__CUDACC__)
#define SK_INLINE __host__ __device__ __forceinline__
#define SK_INLINE_LAMBDA
#else
#define SK_INLINE inline __attribute__((always_inline))
#define SK_INLINE_LAMBDA __attribute__((always_inline))
#endif
