// The Schmitt trigger on a word of tokens at once: one bit per token, the first in the lowest bit. Examples are written
// with the highest bit first, as numbers are.
#pragma once

#include "../../core/inline.h"

namespace segkernel {

// The tokens in one of the trigger's states, and those whose previous token is.
template <class Word>
struct StateBits {
  Word now, before;
};

// Solves s[i] = set[i] or (held[i] and s[i - 1]) for all bits with one addition, in which `set` generates carries and
// `held` propagates them; s[-1] is `carry_in`, 0 or 1. Example: set 0001, held 0110 -> 0111, for 0111 + 0001 = 1000
// carries into bits 1, 2 and 3.
template <class Word>
SK_INLINE StateBits<Word> propagate_state(Word set, Word held, Word carry_in) {
  const Word through = set | held;
  const Word before = (through + set + carry_in) ^ through ^ set;  // the carry into every bit
  return {set | (held & before), before};
}

// The trigger along a row, a word of tokens per call: `schmitt_step` for every token.
template <class Word>
class SchmittBits {
 public:
  struct States {
    StateBits<Word> positive, negative;
  };

  SK_INLINE SchmittBits(int initial, bool hold)
      : hold_(hold ? ~Word{0} : 0), was_positive_(initial > 0), was_negative_(initial < 0) {}

  // A token that is neither above nor below keeps the state with hold, and leaves it without.
  SK_INLINE States next(Word above, Word below) {
    constexpr int kLast = 8 * sizeof(Word) - 1;
    const Word held = ~(above | below) & hold_;
    const States states{propagate_state(above, held, was_positive_), propagate_state(below, held, was_negative_)};
    was_positive_ = states.positive.now >> kLast;
    was_negative_ = states.negative.now >> kLast;
    return states;
  }

 private:
  Word hold_;
  Word was_positive_, was_negative_;
};

}  // namespace segkernel
