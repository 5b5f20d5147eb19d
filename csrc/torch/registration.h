// The macros that register schemas and implementations: STABLE_TORCH_LIBRARY, STABLE_TORCH_LIBRARY_IMPL, TORCH_BOX.
#pragma once

#include <torch/csrc/stable/library.h>
