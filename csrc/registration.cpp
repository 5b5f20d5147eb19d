// Every operator's schema: the table of contents. Implementations register themselves at the end of their files.
//
// A parameter that may be one number or one per row is a pair: `float low, Tensor? row_low` ([B], wins when given).
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(segkernel, library) {
  library.def(
      "detect_pivots(Tensor rewards, Tensor? mask, float threshold, Tensor? row_threshold, Tensor? cu_seqlens)"
      " -> Tensor");
  library.def(
      "hysteresis(Tensor rewards, Tensor? mask, float low, Tensor? row_low, float high, Tensor? row_high,"
      " int initial, Tensor? row_initial, bool hold, Tensor? cu_seqlens) -> Tensor");
}
