// Where segments start, 64 tokens at a time: `schmitt_step`, `starts_segment` and `keeps` of segment.h in the language
// of bits, one per token. The tests hold both against the same reference, and their ids, signs and masks against each
// other bit for bit.
#pragma once

#include <cstdint>

#include "../simd/inline.h"
#include "segment_rules.h"

namespace segkernel {

constexpr int kBlock = 64;  // tokens: as many as a word has bits

// Tokens at which a state holds: set there, or carried there through `held` tokens from a set one or from `carried`.
// A run of held tokens has its mark, if any, in its lowest bit, so that one addition ripples through the whole run.
SK_INLINE uint64_t hold_through(uint64_t set, uint64_t held, uint64_t carried) {
  const uint64_t marks = (set << 1) | carried;
  const uint64_t reached = (((marks & held) + held) ^ held) | marks;
  return set | (reached & held);
}

struct BlockStarts {
  uint64_t starts;
  uint64_t positive, negative;  // the trigger's states
  uint64_t kept;                // by those states
};

// Goes along a row, block by block.
class StartFinder {
 public:
  SK_INLINE explicit StartFinder(const SegmentRule<float>& rule)
      : holds_(all_if(rule.hold)),
        keeps_positive_(all_if(rule.sequence_sign > 0)),
        keeps_negative_(all_if(rule.sequence_sign < 0)),
        keeps_neutral_(all_if(rule.keep_neutral)),
        was_positive_(rule.initial > 0),
        was_negative_(rule.initial < 0) {}

  // The state after the blocks so far.
  SK_INLINE int state() const { return static_cast<int>(was_positive_) - static_cast<int>(was_negative_); }

  // What the block's comparisons say, bit by bit; `tokens`: which bits are tokens.
  SK_INLINE BlockStarts next(uint64_t pivots, uint64_t above, uint64_t below, uint64_t tokens) {
    const uint64_t held = ~(above | below) & holds_;
    const uint64_t positive = hold_through(above, held, was_positive_);
    const uint64_t negative = hold_through(below, held, was_negative_);
    const uint64_t changed =
        (positive ^ ((positive << 1) | was_positive_)) | (negative ^ ((negative << 1) | was_negative_));
    const uint64_t starts = (pivots | changed | first_) & tokens;
    const uint64_t kept =
        (positive & keeps_positive_) | (negative & keeps_negative_) | (~(positive | negative) & keeps_neutral_);
    was_positive_ = positive >> (kBlock - 1);
    was_negative_ = negative >> (kBlock - 1);
    first_ = 0;
    return {starts, positive, negative, kept};
  }

 private:
  static SK_INLINE uint64_t all_if(bool condition) { return condition ? ~uint64_t{0} : 0; }

  uint64_t holds_, keeps_positive_, keeps_negative_, keeps_neutral_;
  uint64_t was_positive_, was_negative_;
  uint64_t first_ = 1;  // the row's first token
};

}  // namespace segkernel
