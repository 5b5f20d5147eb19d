// The operator `cpu_isa`: the name of the instruction set that the CPU kernels use.
#include <string>

#include "../simd/isa.h"
#include "registration.h"

namespace segkernel {

std::string cpu_isa() { return name_of(chosen_isa()); }

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, CompositeExplicitAutograd, library) {
  library.impl("cpu_isa", TORCH_BOX(&segkernel::cpu_isa));
}
