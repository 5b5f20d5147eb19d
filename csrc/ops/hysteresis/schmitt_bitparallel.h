// The Schmitt trigger on many tokens at once: a bit per token, the first in the lowest bit.
#pragma once

#include "../../simd/inline.h"

namespace segkernel {

// Where a state holds, and where it held one token before.
template <class Word>
struct Held {
  Word now, before;
};

// A state that tokens of `set` enter, that those of `held` leave as it is, and all others leave. `carried`, 0 or 1:
// whether it held before the first token. That is how carries run through an addition: set generates one, held hands it
// on.
template <class Word>
SK_INLINE Held<Word> hold_through(Word set, Word held, Word carried) {
  const Word through = set | held;
  const Word before = (through + set + carried) ^ through ^ set;
  return {set | (held & before), before};
}

// Goes along a row, a word of tokens at a time: `schmitt_step` in the language of bits.
template <class Word>
class SchmittBits {
 public:
  struct States {
    Held<Word> positive, negative;
  };

  SK_INLINE SchmittBits(int initial, bool hold)
      : holds_(hold ? ~Word{0} : 0), was_positive_(initial > 0), was_negative_(initial < 0) {}

  // The state after the words so far.
  SK_INLINE int state() const { return static_cast<int>(was_positive_) - static_cast<int>(was_negative_); }

  // A token that is neither above nor below leaves the state as it is or, without hold, at 0.
  SK_INLINE States next(Word above, Word below) {
    constexpr int kLast = 8 * sizeof(Word) - 1;
    const Word held = ~(above | below) & holds_;
    const States states{hold_through(above, held, was_positive_), hold_through(below, held, was_negative_)};
    was_positive_ = states.positive.now >> kLast;
    was_negative_ = states.negative.now >> kLast;
    return states;
  }

 private:
  Word holds_;
  Word was_positive_, was_negative_;
};

}  // namespace segkernel
