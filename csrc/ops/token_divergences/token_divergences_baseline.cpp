#include "../../core/scalar_vec.h"
#include "../../simd/vec_math.h"
#include "token_divergences_row.h"

namespace segkernel {

const PairKernels<double> kDivergenceKernelsDouble = kPairKernels<ScalarVec<double>, double>;
const DivergenceKernels kDivergenceKernelsBaseline = kDivergenceKernels<Vec>;

}  // namespace segkernel
