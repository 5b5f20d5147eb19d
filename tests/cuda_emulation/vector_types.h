// CUDA's short vectors. Those of 8 and 16 bytes are aligned to their size, which vector loads require.
#pragma once

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define SK_VECTOR_2(Name, Element)           \
  struct alignas(2 * sizeof(Element)) Name { \
    Element x, y;                            \
  };                                         \
  inline Name make_##Name(Element x, Element y) { return {x, y}; }
#define SK_VECTOR_4(Name, Element)           \
  struct alignas(4 * sizeof(Element)) Name { \
    Element x, y, z, w;                      \
  };                                         \
  inline Name make_##Name(Element x, Element y, Element z, Element w) { return {x, y, z, w}; }

SK_VECTOR_2(char2, signed char)
SK_VECTOR_2(uchar2, unsigned char)
SK_VECTOR_2(short2, short)
SK_VECTOR_2(ushort2, unsigned short)
SK_VECTOR_2(int2, int)
SK_VECTOR_2(uint2, unsigned)
SK_VECTOR_2(float2, float)
SK_VECTOR_2(longlong2, long long)
SK_VECTOR_2(ulonglong2, unsigned long long)
SK_VECTOR_2(double2, double)
SK_VECTOR_4(char4, signed char)
SK_VECTOR_4(uchar4, unsigned char)
SK_VECTOR_4(short4, short)
SK_VECTOR_4(ushort4, unsigned short)
SK_VECTOR_4(int4, int)
SK_VECTOR_4(uint4, unsigned)
SK_VECTOR_4(float4, float)

#undef SK_VECTOR_2
#undef SK_VECTOR_4
