// Where segments start, 64 tokens at a time: `starts_segment` and `keeps` of segment.h in the language of bits, one per
// token. The tests hold both against the same reference, and their ids, signs and masks against each other bit for bit.
#pragma once

#include <cstdint>

#include "../../simd/inline.h"
#include "../hysteresis/schmitt_bitparallel.h"
#include "segment_params.h"

namespace segkernel {

constexpr int kBlock = 64;  // tokens: as many as a word has bits

struct BlockStarts {
  uint64_t starts;
  uint64_t positive, negative;  // the trigger's states
  uint64_t kept;                // by those states
};

// Goes along a row, block by block.
class StartFinder {
 public:
  SK_INLINE explicit StartFinder(const SegmentRule<float>& rule)
      : trigger_(rule.initial, rule.hold),
        keeps_positive_(all_if(rule.sequence_sign > 0)),
        keeps_negative_(all_if(rule.sequence_sign < 0)),
        keeps_neutral_(all_if(rule.keep_neutral)) {}

  // The trigger's state after the blocks so far.
  SK_INLINE int state() const { return trigger_.state(); }

  // What the block's comparisons say, bit by bit; `tokens`: which bits are tokens.
  SK_INLINE BlockStarts next(uint64_t pivots, uint64_t above, uint64_t below, uint64_t tokens) {
    const auto [positive, negative] = trigger_.next(above, below);
    const uint64_t changed = (positive.now ^ positive.before) | (negative.now ^ negative.before);
    const uint64_t starts = (pivots | changed | first_) & tokens;
    const uint64_t kept = (positive.now & keeps_positive_) | (negative.now & keeps_negative_) |
                          (~(positive.now | negative.now) & keeps_neutral_);
    first_ = 0;
    return {starts, positive.now, negative.now, kept};
  }

 private:
  static SK_INLINE uint64_t all_if(bool condition) { return condition ? ~uint64_t{0} : 0; }

  SchmittBits<uint64_t> trigger_;
  uint64_t keeps_positive_, keeps_negative_, keeps_neutral_;
  uint64_t first_ = 1;  // the row's first token
};

}  // namespace segkernel
