// LogitTransform from an operator's arguments, checked.
#pragma once

#include "../../torch/arguments.h"
#include "token_logprobs.h"

namespace segkernel {

inline LogitTransform make_transform(const Tensor& logits, double logit_scale, double temperature,
                                     std::optional<double> softcap) {
  check(logit_scale > 0, "logit_scale", "expected > 0, got ", logit_scale);
  check(temperature > 0, "temperature", "expected > 0, got ", temperature);
  check(!softcap.has_value() || *softcap > 0, "softcap", "expected > 0, got ", softcap.value_or(0));
  const double* cap = softcap.has_value() ? &*softcap : nullptr;
  return logits.scalar_type() == ScalarType::Double ? LogitTransform::make<double>(logit_scale, temperature, cap)
                                                    : LogitTransform::make<float>(logit_scale, temperature, cap);
}

}  // namespace segkernel
