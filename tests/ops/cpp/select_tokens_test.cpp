// The selection of tokens on the host, in one piece and in chunks, against a stable sort by rank keys.
#include <cmath>
#include <cstdio>
#include <random>

#include "ops/select_tokens/select_tokens_host.h"

using namespace segkernel;

namespace {

std::mt19937 generator(7);

// Ties, zeros of both signs, infinity, NaN and values of any size.
float some_value() {
  const unsigned kind = generator() % 40;
  if (kind == 0) return NAN;
  if (kind == 1) return -0.0f;
  if (kind == 2) return INFINITY;
  if (kind < 20) return static_cast<float>(static_cast<int>(generator() % 9) - 4) / 4;
  return static_cast<float>(static_cast<int>(generator())) / 1e9f;
}

// The number of tokens that are wrong.
template <class T>
int64_t wrong_tokens(int64_t length, bool largest, double fraction) {
  std::vector<T> values(length);
  std::vector<RankKey<compute_t<T>>> keys(length), scratch;
  std::vector<int64_t> ranked;
  const auto mask = std::make_unique<bool[]>(length), in_one = std::make_unique<bool[]>(length),
             in_chunks = std::make_unique<bool[]>(length), expected = std::make_unique<bool[]>(length);
  for (int64_t t = 0; t < length; ++t) {
    values[t] = narrow<T>(static_cast<compute_t<T>>(some_value()));
    keys[t] = rank_key(widen(values[t]), largest);
    mask[t] = generator() % 10 < 7;
    if (mask[t]) ranked.push_back(t);
  }
  std::stable_sort(ranked.begin(), ranked.end(), [&](int64_t a, int64_t b) { return keys[a] > keys[b]; });
  const auto k_of = [&](int64_t n) { return rounded_share(fraction, n, true); };
  ranked.resize(k_of(std::ssize(ranked)));
  for (const int64_t t : ranked) expected[t] = true;

  select_row(values.data(), mask.get(), length, largest, k_of, scratch, in_one.get());
  select_long_row(values.data(), mask.get(), length, largest, k_of, Serial(), in_chunks.get());
  int64_t wrong = 0;
  for (int64_t t = 0; t < length; ++t) wrong += in_one[t] != expected[t] || in_chunks[t] != expected[t];
  return wrong;
}

template <class T>
int64_t wrong_tokens() {
  int64_t wrong = 0;
  for (const int64_t length : {0, 1, 5, 63, 64, 65, 200, 1500, 40000}) {
    for (const double fraction : {0.0, 0.2, 0.7, 1.0}) {
      wrong += wrong_tokens<T>(length, true, fraction) + wrong_tokens<T>(length, false, fraction);
    }
  }
  return wrong;
}

}  // namespace

int main() {
  const int64_t wrong =
      wrong_tokens<double>() + wrong_tokens<float>() + wrong_tokens<bfloat16>() + wrong_tokens<float16>();
  std::printf("%lld tokens are wrong\n", static_cast<long long>(wrong));
  return wrong != 0;
}
