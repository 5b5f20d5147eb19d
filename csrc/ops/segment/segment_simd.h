// `segment` along a row by blocks of 64 tokens, whatever the instruction set: rows with holes, and the tokens of a last
// block that is not whole.
//
// What an instruction set brings:
//   DenseRow<T, kFold>  of a row without holes; a mean is a sum until it is written
//     kBlocks             how many blocks at a time, at most
//     count()             the segments so far
//     add(rewards, blocks, live, target)
//                         `live`: which bits of the last block are tokens; those after them must be zeros
//   ValidTokens         `move_together` and `move_back`: see simd/valid_*.h
#pragma once

#include <algorithm>
#include <memory>

#include "segment_mask_by_signs.h"
#include "segment_starts.h"
#include "segment_vectorised.h"

namespace segkernel {

// Where a chunk's outputs go: per token from its first on, per segment from the first that starts in it. As many of
// each as the chunk has tokens may be written, before the ones that count are known; and the segment open before it.
struct SegmentTarget {
  int32_t* ids;
  bool* mask;
  int32_t* lengths;
  float* rewards;
  int8_t* signs;
};

template <template <class, Reduce> class DenseRow, class ValidTokens>
class SegmentByBlocks {
 public:
  template <class T>
  static int32_t segment(Reduce reduce, const T* rewards, const bool* mask, int64_t length,
                         const SegmentRule<float>& rule, const SegmentRowOut& out) {
    if (mask == nullptr) return valid_tokens(reduce, rewards, length, rule, out);
    using Together = typename ValidTokens::template Together<T>;
    const std::unique_ptr<Together[]> together(new Together[static_cast<size_t>(length)]);
    const int64_t tokens = ValidTokens::move_together(rewards, mask, length, together.get());
    const int32_t count = valid_tokens<Together>(reduce, together.get(), tokens, rule, out);
    ValidTokens::move_back(mask, length, tokens, out.ids, out.mask);
    return count;
  }

 private:
  // The tokens of a last block that is not whole are worked out beside the row's outputs.
  template <class T, Reduce kFold>
  class Remainder {
   public:
    // `open`: whether a segment is, before the first token. It may go on, and so has a place ahead of the others.
    Remainder(const SegmentTarget& to, bool open) : open_(open) {
      if (!open) return;
      lengths_[0] = to.lengths[-1];
      segment_rewards_[0] = to.rewards[-1];
      signs_[0] = to.signs[-1];
    }

    void add(const T* rewards, int64_t tokens, DenseRow<T, kFold>& row, const SegmentTarget& to) {
      std::copy_n(rewards, tokens, rewards_);
      const int32_t earlier = row.count();
      row.add(rewards_, 1, (uint64_t{1} << tokens) - 1, {ids_, mask_, lengths_ + 1, segment_rewards_ + 1, signs_ + 1});
      std::copy_n(ids_, tokens, to.ids);
      if (to.mask != nullptr) std::copy_n(mask_, tokens, to.mask);
      const int64_t segments = open_ + row.count() - earlier;
      std::copy_n(lengths_ + 1 - open_, segments, to.lengths - open_);
      std::copy_n(segment_rewards_ + 1 - open_, segments, to.rewards - open_);
      std::copy_n(signs_ + 1 - open_, segments, to.signs - open_);
    }

   private:
    T rewards_[kBlock]{};
    int32_t ids_[kBlock];
    bool mask_[kBlock];
    int32_t lengths_[1 + kBlock];
    float segment_rewards_[1 + kBlock];
    int8_t signs_[1 + kBlock];
    int64_t open_;
  };

  template <Reduce kFold, class T>
  static int32_t dense_row(bool mean, const T* rewards, int64_t length, const SegmentRule<float>& rule,
                           const SegmentRowOut& out) {
    DenseRow<T, kFold> row(mean, rule);
    const auto target = [&](int64_t t) -> SegmentTarget {
      const int64_t k = row.count();
      return {out.ids + t, out.mask == nullptr ? nullptr : out.mask + t, out.lengths + k, out.rewards + k,
              out.signs + k};
    };
    const int64_t whole = length / kBlock;
    for (int64_t block = 0; block < whole; block += DenseRow<T, kFold>::kBlocks) {
      const auto blocks = static_cast<int>(std::min<int64_t>(whole - block, DenseRow<T, kFold>::kBlocks));
      row.add(rewards + kBlock * block, blocks, ~uint64_t{0}, target(kBlock * block));
    }
    if (length > kBlock * whole) {
      const SegmentTarget to = target(kBlock * whole);
      Remainder<T, kFold>(to, row.count() > 0).add(rewards + kBlock * whole, length - kBlock * whole, row, to);
    }
    return row.count();
  }

  template <class T>
  static int32_t valid_tokens(Reduce reduce, const T* rewards, int64_t tokens, const SegmentRule<float>& rule,
                              const SegmentRowOut& out) {
    const int32_t count = dispatch_reduce(reduce, [&]<Reduce kReduce>() {
      constexpr bool kMean = kReduce == Reduce::mean;
      return dense_row<kMean ? Reduce::sum : kReduce>(kMean, rewards, tokens, rule, out);
    });
    if (rule.want_mask && !rule.use_trigger) mask_by_signs(out.ids, tokens, out.signs, rule, out.mask);
    return count;
  }
};

template <template <class, Reduce> class DenseRow, class ValidTokens>
constexpr SegmentKernels kSegmentByBlocks = {&SegmentByBlocks<DenseRow, ValidTokens>::template segment<float>,
                                             &SegmentByBlocks<DenseRow, ValidTokens>::template segment<bfloat16>,
                                             &SegmentByBlocks<DenseRow, ValidTokens>::template segment<float16>};

}  // namespace segkernel
