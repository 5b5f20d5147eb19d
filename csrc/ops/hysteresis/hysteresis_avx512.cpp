#include "../../simd/bits_avx512.h"
#include "hysteresis_by_bits.h"

namespace segkernel {

extern const HysteresisKernels kHysteresisAvx512 = kHysteresisByBits<BitsAvx512>;

}  // namespace segkernel
