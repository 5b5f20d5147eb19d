// Normalization within groups: the thread block of a group's first row processes the group in the order of its rows;
// the blocks of its other rows return at once. Sums depend on the group only; there are no floating-point atomics.
#include "../../cuda/warp.cuh"
#include "../../torch/cuda_device.h"
#include "../../torch/dispatch.h"
#include "../../torch/registration.h"
#include "group_normalize_arguments.h"

namespace segkernel {

namespace {

constexpr int kThreads = 256;

// Whether `row` is the first of its group. All threads of the block call it. The nearest rows are compared first, since
// the rows of a group are usually next to each other.
__device__ bool is_first_of_group(const int64_t* groups, int64_t row) {
  for (int64_t chunk = row; chunk > 0; chunk -= kThreads) {
    const int64_t other = chunk - 1 - threadIdx.x;
    if (__syncthreads_or(other >= 0 && groups[other] == groups[row])) return false;
  }
  return true;
}

// Calls `body` with each row of the group of row `first`, in order, in all threads of the block.
template <class Body>
__device__ void for_each_row_of_group(const int64_t* groups, int64_t rows, int64_t first, const Body& body) {
  __shared__ int64_t members[kThreads];
  for (int64_t chunk = first; chunk < rows; chunk += kThreads) {
    const int64_t row = chunk + threadIdx.x;
    const bool member = row < rows && groups[row] == groups[first];
    // The barriers of the scan also keep the last chunk's `members` until all threads have visited them.
    const auto scanned = block_scan<kThreads>(int{member}, 0, [](int a, int b) { return a + b; });
    if (member) members[scanned.prefix] = row;
    __syncthreads();
    for (int i = 0; i < scanned.total; ++i) body(members[i]);
  }
}

template <bool kPerSegment, class T, class C = compute_t<T>>
__global__ void __launch_bounds__(kThreads) group_normalize_kernel(GroupNormalize<T> all) {
  const int64_t first_row = blockIdx.x;
  if (!is_first_of_group(all.groups, first_row)) return;
  const auto for_each_row = [&](const auto& body) { for_each_row_of_group(all.groups, all.rows, first_row, body); };

  int64_t longest = 0;
  for_each_row([&](int64_t row) {
    const int64_t count = all.valid_values_of(row);
    longest = longest > count ? longest : count;
    for (int64_t k = count + threadIdx.x; k < all.segments; k += kThreads) all.normalized[row * all.segments + k] = 0;
  });

  // With kPerSegment, a thread computes the moments of one segment index at a time; otherwise the block computes those
  // of all values together.
  const int64_t ends = kPerSegment ? longest : 1;
  for (int64_t tile = 0; tile < ends; tile += kThreads) {
    Moments moments;
    const auto for_each_value = [&](int64_t row, const auto& body) {
      const int64_t count = all.valid_values_of(row);
      const int64_t end = kPerSegment && tile + kThreads < count ? tile + kThreads : count;
      for (int64_t k = tile + threadIdx.x; k < end; k += kThreads) {
        const int64_t at = row * all.segments + k;
        body(static_cast<double>(widen(all.values[at])), at);
      }
    };
    const auto total = [](double sum) {
      return kPerSegment ? sum : block_reduce<kThreads>(sum, 0.0, [](double a, double b) { return a + b; });
    };

    for_each_row([&](int64_t row) {
      if constexpr (!kPerSegment) {
        const int64_t count = all.valid_values_of(row);
        if (moments.count == 0 && count > 0) moments.first = widen(all.values[row * all.segments]);
        moments.count += count;
      }
      for_each_value(row, [&](double value, int64_t) {
        if (kPerSegment && moments.count++ == 0) moments.first = value;
        moments.add(value);
      });
    });
    moments.sum = total(moments.sum);
    moments.finish_mean();
    if (all.scale) {
      for_each_row(
          [&](int64_t row) { for_each_value(row, [&](double value, int64_t) { moments.add_square(value); }); });
      moments.squares = total(moments.squares);
      moments.finish_divisor(all.eps);
    }
    for_each_row([&](int64_t row) {
      for_each_value(row,
                     [&](double value, int64_t at) { all.normalized[at] = static_cast<C>(moments.normalized(value)); });
    });
  }
}

}  // namespace

Tensor group_normalize_cuda(const Tensor& values, const Tensor& counts, const Tensor& group, bool per_segment,
                            bool scale, double eps) {
  const DeviceScope device("values", values);
  Tensor normalized;
  dispatch_floats("values", values.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const auto all = group_normalize_arguments<T>(values, counts, group, per_segment, scale, eps, device, normalized);
    const auto kernel = per_segment ? group_normalize_kernel<true, T> : group_normalize_kernel<false, T>;
    launch("group_normalize", kernel, all.rows, kThreads, device.stream(), all);
  });
  return normalized;
}

}  // namespace segkernel

STABLE_TORCH_LIBRARY_IMPL(segkernel, SK_CUDA_KEY, library) {
  library.impl("group_normalize", TORCH_BOX(&segkernel::group_normalize_cuda));
}
