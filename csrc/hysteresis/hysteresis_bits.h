// The Schmitt trigger on many tokens at once: a bit per token, the first in the lowest bit.
#pragma once

#include "../simd/inline.h"

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

}  // namespace segkernel
