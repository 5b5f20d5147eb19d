// The rows of a padded [B, T] tensor or, with cu_seqlens, of a packed [N] tensor.
#pragma once

#include "arguments.h"
#include "outputs.h"

namespace segkernel {

class RowsOf {
 public:
  // For the CPU: the offsets' values are checked.
  RowsOf(const char* argument, const Tensor& tokens, const OptionalTensor& cu_seqlens)
      : RowsOf(argument, tokens, cu_seqlens, Device{}) {
    if (rows_.packed()) check_cu_seqlens("cu_seqlens", rows_.cu_seqlens, rows_.count, rows_.length);
  }

  // For CUDA: the offsets' values are not checked, since reading them on the host would synchronize.
  RowsOf(const char* argument, const Tensor& tokens, const OptionalTensor& cu_seqlens, const Device& device)
      : device_(device) {
    if (!cu_seqlens.has_value()) {
      check(tokens.dim() == 2, argument, "expected [B, T], got ", tokens.dim(), " dimension(s)");
      rows_ = {tokens.size(0), tokens.size(1), {}};
      return;
    }
    check(tokens.dim() == 1, argument, "expected [N] with cu_seqlens, got ", tokens.dim(), " dimensions");
    const int64_t entries = cu_seqlens->numel();
    check(entries >= 1, "cu_seqlens", "expected [B + 1], got an empty tensor");
    const Offsets offsets = cu_seqlens->scalar_type() == ScalarType::Int
                                ? Offsets{.as_int32 = data<int32_t>("cu_seqlens", *cu_seqlens, entries, device)}
                                : Offsets{.as_int64 = data<int64_t>("cu_seqlens", *cu_seqlens, entries, device)};
    rows_ = {entries - 1, tokens.numel(), offsets};
  }

  // An uninitialized tensor with one entry per token, in the layout of the tokens.
  template <class T>
  Tensor empty_tokens() const {
    return rows_.packed() ? empty<T>({rows_.length}, device_) : empty<T>({rows_.count, rows_.length}, device_);
  }

  const Rows& operator*() const { return rows_; }
  const Rows* operator->() const { return &rows_; }

 private:
  Rows rows_{};
  Device device_;
};

}  // namespace segkernel
