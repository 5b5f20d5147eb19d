#include "../../torch/dispatch.h"
#include "../../torch/parallel.h"
#include "../../torch/registration.h"
#include "select_tokens_host.h"
#include "select_tokens_tensors.h"

namespace segkernel {

namespace {

struct OnThreads {
  template <class Body>
  void operator()(int64_t count, int64_t work, const Body& body) const {
    for_each_row(count, work, body);
  }
};

}  // namespace

Tensor select_tokens_cpu(const Tensor& values, const OptionalTensor& mask, std::optional<double> fraction,
                         const OptionalTensor& row_fraction, std::optional<int64_t> count,
                         const OptionalTensor& row_count, bool largest, bool whole_batch, bool round_up,
                         const OptionalTensor& cu_seqlens) {
  const RowsOf layout("values", values, cu_seqlens);
  const int64_t tokens = values.numel();
  const bool* valid = data<bool>("mask", mask, tokens);
  const Rows rows = selection_rows(layout, tokens, whole_batch);
  const SelectionSize size =
      selection_size(fraction, row_fraction, count, row_count, round_up, whole_batch ? 1 : rows.count);
  check_share("fraction", size.fractions, rows.count);
  check_not_negative("count", size.counts, rows.count);
  Tensor selected = layout.empty_tokens<bool>();
  bool* out = mutable_data<bool>(selected);

  dispatch_floats("values", values.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const T* in = data<T>("values", values, tokens);
    if (rows.count == 1) {
      select_long_row(in, valid, tokens, largest, [&](int64_t n) { return size.of(0, n); }, OnThreads(), out);
      return;
    }
    // A token takes several times as long as in a loop that reads it once.
    for_each_range(rows.count, 4 * tokens, [&](int64_t first, int64_t last) {
      std::vector<RankKey<compute_t<T>>> keys;
      for (int64_t b = first; b < last; ++b) {
        const Row row = rows[b];
        select_row(
            in + row.begin, valid ? valid + row.begin : nullptr, row.length, largest,
            [&](int64_t n) { return size.of(b, n); }, keys, out + row.begin);
      }
    });
  });
  return selected;
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, CPU, library) {
  library.impl("select_tokens", TORCH_BOX(&segkernel::select_tokens_cpu));
}
