// Broadcast of segment values to tokens.
#pragma once

#include "../segment_reduce/segment_reduce.h"

namespace segkernel {

enum class Broadcast : int { repeat, split, last };

// Calls `body` with the mode as its template argument.
template <class Body>
void dispatch_broadcast(Broadcast how, const Body& body) {
  switch (how) {
    case Broadcast::repeat:
      return body.template operator()<Broadcast::repeat>();
    case Broadcast::split:
      return body.template operator()<Broadcast::split>();
    case Broadcast::last:
      return body.template operator()<Broadcast::last>();
  }
}

// The value of one token in a segment of `length` tokens.
template <class C>
SK_HOST_DEVICE inline C share_of(Broadcast how, C value, int32_t length, bool is_last) {
  if (how == Broadcast::split) return value / static_cast<C>(length);
  return how == Broadcast::repeat || is_last ? value : 0;
}

}  // namespace segkernel
