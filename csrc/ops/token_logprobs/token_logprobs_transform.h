// LogitTransforms from an operator's arguments, checked.
#pragma once

#include "../../torch/arguments.h"
#include "token_logprobs.h"

namespace segkernel {

// `token_temperature`, float64 [rows], replaces `temperature`. Its values are not checked.
inline LogitTransforms make_transforms(const Tensor& logits, double logit_scale, double temperature,
                                       const OptionalTensor& token_temperature, std::optional<double> softcap,
                                       int64_t rows, const Device& device = {}) {
  check(logit_scale > 0, "logit_scale", "expected > 0, got ", logit_scale);
  check(temperature > 0, "temperature", "expected > 0, got ", temperature);
  check(!softcap.has_value() || *softcap > 0, "softcap", "expected > 0, got ", softcap.value_or(0));
  const double* cap = softcap.has_value() ? &*softcap : nullptr;
  const bool wide = logits.scalar_type() == ScalarType::Double;
  return {wide ? LogitTransform::make<double>(logit_scale, temperature, cap)
               : LogitTransform::make<float>(logit_scale, temperature, cap),
          logit_scale, softcap.value_or(0), data<double>("temperature", token_temperature, rows, device)};
}

}  // namespace segkernel
