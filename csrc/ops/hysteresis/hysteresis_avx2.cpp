#include "../../simd/bits_avx2.h"
#include "hysteresis_by_bits.h"

namespace segkernel {

extern const HysteresisKernels kHysteresisAvx2 = kHysteresisByBits<BitsAvx2>;

}  // namespace segkernel
