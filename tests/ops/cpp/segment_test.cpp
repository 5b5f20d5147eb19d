// Bit primitives over all their inputs, and the vectorized kernels of `segment` and `hysteresis` against the scalar
// definitions, bit for bit, on random rows with holes, NaN, infinities and zeros of both signs.
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <vector>

#include "core/rows.h"
#include "ops/hysteresis/hysteresis.h"
#include "ops/hysteresis/hysteresis_simd.h"
#include "ops/segment/segment_row.h"
#include "ops/segment/segment_simd.h"

using namespace segkernel;

namespace {

int failures = 0;
std::mt19937 generator(7);

void expect(bool condition, const char* what) {
  if (!condition && ++failures <= 10) std::printf("failed: %s\n", what);
}

int below(int bound) { return static_cast<int>(generator() % static_cast<unsigned>(bound)); }
bool bit(uint64_t word, int i) { return (word >> i & 1) != 0; }

void check_propagate_state() {
  for (uint64_t set = 0; set < 256; ++set) {
    for (uint64_t held = 0; held < 256; ++held) {
      for (uint64_t carry = 0; carry < 2; ++carry) {
        const auto states = propagate_state<uint64_t>(set, held, carry);
        bool state = carry != 0;
        for (int i = 0; i < 8; ++i) {
          expect(bit(states.before, i) == state || !(bit(set, i) || bit(held, i)), "propagate_state: before");
          state = bit(set, i) || (bit(held, i) && state);
          expect(bit(states.now, i) == state, "propagate_state: now");
        }
      }
    }
  }
}

void check_movemask() {
  for (uint64_t bits = 0; bits < uint64_t{1} << Vec::kLanes; ++bits) {
    Vec::Integers lanes{};
    for (int l = 0; l < Vec::kLanes; ++l) lanes[l] = bit(bits, l) ? -1 : 0;
    expect(movemask(lanes) == bits, "movemask");
  }
}

void check_compress_store() {
  float lanes[Vec::kLanes], stored[Vec::kLanes];
  for (int l = 0; l < Vec::kLanes; ++l) lanes[l] = static_cast<float>(l);
  for (uint64_t bits = 0; bits < uint64_t{1} << Vec::kLanes; ++bits) {
    const int count = compress_store(Vec::load(lanes), bits | ~kLanesMask, stored);
    int expected = 0;
    for (int l = 0; l < Vec::kLanes; ++l) {
      if (bit(bits, l)) expect(stored[expected++] == lanes[l], "compress_store: lanes");
    }
    expect(count == expected, "compress_store: count");
  }
}

// Every 16 bits in every quarter of a word; what is around them is random.
void check_bytes() {
  for (uint64_t pattern = 0; pattern < 65536; ++pattern) {
    const uint64_t random = uint64_t{generator()} << 32 | generator();
    const int shift = 16 * (static_cast<int>(pattern) & 3);
    const uint64_t word = (random & ~(uint64_t{0xffff} << shift)) | pattern << shift;
    const uint64_t other = ~word & (uint64_t{generator()} << 32 | generator());
    unsigned char bytes[64];
    int8_t signs[64];
    int32_t counts[64];
    const uint64_t deposited = deposit_bits(word, other);
    store_signs(word, 0, reinterpret_cast<int8_t*>(bytes));
    store_signs(word, other, signs);
    store_bit_counts(word, word | other, 3, counts);
    bool same = true;
    int count = 3, place = 0;
    for (int i = 0; i < 64; ++i) {
      count += bit(word, i);
      same = same && bytes[i] == bit(word, i) && signs[i] == bit(word, i) - bit(other, i);
      same = same && counts[i] == (bit(word | other, i) ? count : -1);
      same = same && bit(deposited, i) == (bit(other, i) && bit(word, place));
      place += bit(other, i);
    }
    expect(same, "store_signs, store_bit_counts or deposit_bits");
    for (unsigned char& byte : bytes) byte = byte == 0 ? 0 : static_cast<unsigned char>(1 + below(255));
    expect(bits_of_bytes(reinterpret_cast<const bool*>(bytes)) == word, "bits_of_bytes");
  }
}

template <class T>
std::vector<T> random_rewards(int length) {
  const float nan = NAN, infinity = INFINITY;
  const int kind = below(6);
  const int repeats = below(3) == 0 ? 97 : below(3) == 0 ? 70 : 0;  // percent: long segments, or short ones
  std::normal_distribution<float> normal;
  std::vector<T> rewards;
  float reward = 0;
  for (int t = 0; t < length; ++t) {
    if (below(100) >= repeats) {
      reward = below(2) == 0 ? normal(generator) : std::round(4 * normal(generator)) / 4;
      if (kind == 1 && below(10) == 0) reward = nan;
      if (kind == 2 && below(10) == 0) reward = below(2) == 0 ? infinity : -infinity;
      if (kind == 3) reward = below(2) == 0 ? 0.0f : -0.0f;
      if (kind == 4) reward = -0.0f;
    }
    rewards.push_back(narrow<T>(reward));
  }
  return rewards;
}

// A row's mask, or null. Masked rewards become NaN.
template <class T>
std::unique_ptr<bool[]> random_mask(std::vector<T>& rewards) {
  const int kept = below(3) == 0 ? 100 : below(100);
  if (kept == 100) return nullptr;
  std::unique_ptr<bool[]> mask(new bool[rewards.size() + 1]);
  for (size_t t = 0; t < rewards.size(); ++t) {
    mask[t] = below(100) < kept;
    if (!mask[t]) rewards[t] = narrow<T>(NAN);
  }
  return mask;
}

int random_length() { return below(4) == 0 ? 64 * below(5) : below(400); }

template <class T>
void check_hysteresis() {
  for (int repeat = 0; repeat < 2000; ++repeat) {
    std::vector<T> rewards = random_rewards<T>(random_length());
    const auto mask = random_mask(rewards);
    const int initial = below(3) - 1;
    const bool hold = below(2) == 0;
    const auto length = static_cast<int64_t>(rewards.size());
    std::vector<int8_t> states(rewards.size());
    hysteresis_simd(rewards.data(), mask.get(), length, -0.5f, 0.25f, initial, hold, states.data());
    int state = initial;
    for (int64_t t = 0; t < length; ++t) {
      if (is_valid(mask.get(), t)) state = schmitt_step(state, widen(rewards[t]), -0.5f, 0.25f, hold);
      expect(states[t] == (is_valid(mask.get(), t) ? state : 0), "hysteresis: states");
    }
  }
}

bool same_bits(float a, float b) { return bits_of_float(a) == bits_of_float(b) || (std::isnan(a) && std::isnan(b)); }

struct Outputs {
  std::vector<int32_t> ids, lengths;
  std::vector<float> rewards;
  std::vector<int8_t> signs;
  std::unique_ptr<bool[]> mask;

  Outputs(size_t length, bool want_mask)
      : ids(length, -7), lengths(length, -7), rewards(length, -7), signs(length, -7) {
    if (want_mask) mask.reset(new bool[length + 1]());
  }
  SegmentOut row() { return {ids.data(), lengths.data(), rewards.data(), signs.data(), mask.get()}; }
};

template <class T>
void check_segment() {
  for (int repeat = 0; repeat < 1500; ++repeat) {
    std::vector<T> rewards = random_rewards<T>(random_length());
    const auto mask = random_mask(rewards);
    const size_t length = rewards.size();
    const bool trigger = below(3) != 0;
    const SegmentRule<float> rule{
        .pivot_threshold = trigger && below(2) == 0 ? INFINITY : 0.75f,
        .low = trigger ? -0.5f : -INFINITY,
        .high = trigger ? 0.25f : INFINITY,
        .baseline = -0.125f,
        .initial = trigger ? below(3) - 1 : 0,
        .sequence_sign = below(3) - 1,
        .use_trigger = trigger,
        .hold = !trigger || below(2) == 0,
        .keep_neutral = below(2) == 0,
    };
    const bool want_mask = below(2) == 0;
    for (const Reduce reduce : {Reduce::sum, Reduce::mean, Reduce::last, Reduce::max, Reduce::min}) {
      Outputs actual(length, want_mask), expected(length, want_mask);
      const SegmentOut actual_row = actual.row(), expected_row = expected.row();
      const int32_t count =
          segment_simd(reduce, rewards.data(), mask.get(), static_cast<int64_t>(length), rule, actual_row);
      const int32_t expected_count = dispatch_reduce(reduce, [&]<Reduce kReduce>() {
        return segment_row<kReduce>(rewards.data(), mask.get(), static_cast<int64_t>(length), rule, expected_row);
      });
      expect(count == expected_count, "segment: count");
      expect(actual.ids == expected.ids, "segment: ids");
      for (size_t t = 0; want_mask && t < length; ++t) {
        expect(actual.mask[t] == expected.mask[t], "segment: mask");
      }
      for (int32_t k = 0; k < std::min(count, expected_count); ++k) {
        expect(actual.lengths[k] == expected.lengths[k], "segment: lengths");
        expect(same_bits(actual.rewards[k], expected.rewards[k]), "segment: rewards");
        expect(actual.signs[k] == expected.signs[k], "segment: signs");
      }
    }
  }
}

}  // namespace

int main() {
  check_propagate_state();
  check_movemask();
  check_compress_store();
  check_bytes();
  check_hysteresis<float>();
  check_hysteresis<bfloat16>();
  check_hysteresis<float16>();
  check_segment<float>();
  check_segment<bfloat16>();
  check_segment<float16>();
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
