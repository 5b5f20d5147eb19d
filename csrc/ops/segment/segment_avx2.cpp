// Blocks of 64 tokens, up to 8 of them (a chunk) at a time, by vectors of 8. Comparisons become bits, on which the
// trigger is integer arithmetic; where a segment starts, what belongs to the one before it is moved out. Sums, maxima
// and minima are a segmented scan: inside fours, inside eights, and from eight to eight.
//
// Nothing branches on where segments start, which is as good as random. Each step is a loop of its own over the chunk.
#include <immintrin.h>

#include <bit>
#include <cstring>
#include <limits>

#include "../../simd/eights_avx2.h"
#include "../../simd/inline.h"
#include "../../simd/load_avx2.h"
#include "../../simd/valid_avx2.h"
#include "segment_simd.h"

namespace segkernel {
namespace {

constexpr int kLanes = 8;
constexpr int kChunk = 8;  // blocks: scratch memory and tables stay in the first-level cache
constexpr int kTokens = kBlock * kChunk;

// A bit per token of a chunk.
struct Bits {
  uint8_t of[kTokens / kLanes];

  SK_INLINE uint64_t block(int t) const {
    uint64_t bits;
    std::memcpy(&bits, of + t / kLanes, sizeof(bits));
    return bits;
  }
  SK_INLINE void set_block(int t, uint64_t bits) { std::memcpy(of + t / kLanes, &bits, sizeof(bits)); }
  SK_INLINE uint8_t eight(int t) const { return of[t / kLanes]; }
  SK_INLINE void set_eight(int t, __m256 where) { of[t / kLanes] = static_cast<uint8_t>(_mm256_movemask_ps(where)); }
};

// Which steps of the scan join a lane to an earlier one, from the highest bit on: of its four, 1 and 2 before; the last
// of the four before; the last of the eight before. They do where no segment starts on the way.
constexpr TableOfEights kJoins([](unsigned starts, unsigned lane) {
  const auto joins = [starts, lane](unsigned first) {  // no start from `first` to this lane
    bool none = true;
    for (unsigned i = first; i <= lane; ++i) none = none && ((starts >> i) & 1) == 0;
    return none ? 1 : 0;
  };
  const unsigned in_four = lane % 4;
  return (in_four >= 1 ? joins(lane) << 7 : 0) | (in_four >= 2 ? joins(lane - 1) << 6 : 0) |
         (lane >= 4 ? joins(4) << 5 : 0) | joins(0) << 4;
});

// `fold` of eight lanes; below it is called a sum.
template <Reduce kFold>
SK_INLINE __m256 fold8(__m256 earlier, __m256 later) {
  if constexpr (kFold == Reduce::sum) return _mm256_add_ps(earlier, later);
  // Of a NaN and another, the instructions return the second operand: a later NaN comes through by itself.
  const __m256 folded = kFold == Reduce::max ? _mm256_max_ps(earlier, later) : _mm256_min_ps(earlier, later);
  return _mm256_blendv_ps(folded, earlier, _mm256_cmp_ps(earlier, earlier, _CMP_UNORD_Q));
}

// What `fold` leaves any value as it is with.
template <Reduce kFold>
SK_INLINE __m256 nothing() {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  return _mm256_set1_ps(kFold == Reduce::max ? -kInfinity : kFold == Reduce::min ? kInfinity : -0.0f);
}

// Joins lanes to earlier ones where the sign bit says so.
template <Reduce kFold>
SK_INLINE __m256 fold_joined(__m256 earlier, __m256 later, __m256i joined) {
  return fold8<kFold>(_mm256_blendv_ps(nothing<kFold>(), earlier, _mm256_castsi256_ps(joined)), later);
}

SK_INLINE __m256 last_lane(__m256 values) { return _mm256_permutevar8x32_ps(values, _mm256_set1_epi32(kLanes - 1)); }
SK_INLINE __m256i last_lane(__m256i values) {
  return _mm256_permutevar8x32_epi32(values, _mm256_set1_epi32(kLanes - 1));
}

// 1 above, -1 below, 0 in between, of eight bytes.
SK_INLINE __m128i signs8(__m256 values, __m256 baseline) {
  const __m256i above = _mm256_castps_si256(_mm256_cmp_ps(values, baseline, _CMP_GT_OQ));
  const __m256i below = _mm256_castps_si256(_mm256_cmp_ps(values, baseline, _CMP_LT_OQ));
  const __m256i signs = _mm256_sub_epi32(below, above);
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(signs), _mm256_extracti128_si256(signs, 1));
  return _mm_packs_epi16(words, words);
}

// What the steps leave for those after them. Of sums, states and ends, the one before the chunk's first comes first.
struct Chunk {
  Bits pivots, above, below, starts;
  alignas(32) float sums[kLanes + kTokens];
  int8_t states[1 + kTokens];
  int32_t ends[1 + kTokens];  // of the segments that end: the place of the token after
};

// See segment_blocks.h.
template <class T, Reduce kFold>
class DenseRow {
 public:
  static constexpr int kBlocks = kChunk;

  DenseRow(bool mean, const SegmentRule<float>& rule) : mean_(mean), rule_(rule), finder_(rule) {}

  int32_t count() const { return count_; }

  void add(const T* rewards, int blocks, uint64_t live, const SegmentTarget& to) {
    compare(rewards, blocks);
    find_starts(blocks, live, to);
    add_up(rewards, blocks);
    const int open = count_ > 0;
    number_tokens(blocks, to);
    const SegmentTarget from{to.ids, to.mask, to.lengths - open, to.rewards - open, to.signs - open};
    const int ended = end_segments(blocks, from);
    write_ended(ended, from);
    write_open(ended, kBlock * (blocks - 1) + std::popcount(live), from);
  }

 private:
  void compare(const T* rewards, int blocks) {
    const __m256 threshold = _mm256_set1_ps(rule_.pivot_threshold);
    const __m256 low = _mm256_set1_ps(rule_.low);
    const __m256 high = _mm256_set1_ps(rule_.high);
    const __m256 sign_bit = _mm256_set1_ps(-0.0f);
    const __m256i one_before = _mm256_setr_epi32(7, 0, 1, 2, 3, 4, 5, 6);
    __m256 last_reward = last_reward_;
    for (int t = 0; t < kBlock * blocks; t += kLanes) {
      const __m256 values = load8(rewards + t);
      const __m256 around = _mm256_permutevar8x32_ps(values, one_before);
      const __m256 previous = _mm256_blend_ps(around, last_reward, 1);
      const __m256 change = _mm256_andnot_ps(sign_bit, _mm256_sub_ps(values, previous));
      chunk_.pivots.set_eight(t, _mm256_cmp_ps(change, threshold, _CMP_GT_OQ));
      chunk_.above.set_eight(t, _mm256_cmp_ps(values, high, _CMP_GT_OQ));
      chunk_.below.set_eight(t, _mm256_cmp_ps(values, low, _CMP_LT_OQ));
      last_reward = around;
    }
    last_reward_ = last_reward;
  }

  // Also writes the mask, where the trigger makes it.
  void find_starts(int blocks, uint64_t live, const SegmentTarget& to) {
    const bool trigger = rule_.use_trigger;
    const bool write_mask = rule_.want_mask && trigger;
    StartFinder finder = finder_;
    chunk_.states[0] = static_cast<int8_t>(finder.state());
    for (int t = 0; t < kBlock * blocks; t += kBlock) {
      const uint64_t tokens = t == kBlock * (blocks - 1) ? live : ~uint64_t{0};
      const BlockStarts found =
          finder.next(chunk_.pivots.block(t), chunk_.above.block(t), chunk_.below.block(t), tokens);
      chunk_.starts.set_block(t, found.starts);
      for (int half = 0; half < kBlock; half += 32) {
        const auto of_half = [half](uint64_t bits) { return bytes_where(static_cast<uint32_t>(bits >> half)); };
        if (write_mask) {
          const __m256i kept = _mm256_and_si256(of_half(found.kept), _mm256_set1_epi8(1));
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(to.mask + t + half), kept);
        }
        if (trigger) {
          const __m256i states = _mm256_sub_epi8(of_half(found.negative), of_half(found.positive));
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(chunk_.states + 1 + t + half), states);
        }
      }
    }
    finder_ = finder;
  }

  // A sum at each token, of its segment's tokens up to it.
  void add_up(const T* rewards, int blocks) {
    float* const sums = chunk_.sums + kLanes;
    __m256 open = _mm256_set1_ps(open_sum_);
    sums[-1] = open_sum_;
    for (int t = 0; t < kBlock * blocks; t += kLanes) {
      __m256 values = load8(rewards + t);
      if constexpr (kFold != Reduce::last) {
        const __m256i joins = _mm256_slli_epi32(kJoins.lanes(chunk_.starts.eight(t)), 24);
        values = fold_joined<kFold>(_mm256_permute_ps(values, _MM_SHUFFLE(2, 1, 0, 0)), values, joins);
        values =
            fold_joined<kFold>(_mm256_permute_ps(values, _MM_SHUFFLE(1, 0, 0, 0)), values, _mm256_slli_epi32(joins, 1));
        const __m128 first_four = _mm256_castps256_ps128(values);
        const __m256 their_last = _mm256_set_m128(_mm_permute_ps(first_four, _MM_SHUFFLE(3, 3, 3, 3)), first_four);
        values = fold_joined<kFold>(their_last, values, _mm256_slli_epi32(joins, 2));
        // What stays open is worked out beside the sums: that chain, from eight to eight, is the shorter one.
        const __m256i joins_open = _mm256_slli_epi32(joins, 3);
        const __m256 last = last_lane(values);
        values = fold_joined<kFold>(open, values, joins_open);
        open = fold_joined<kFold>(open, last, last_lane(joins_open));
      }
      _mm256_store_ps(sums + t, values);
    }
  }

  // A token's id is the number of starts up to it, less one.
  void number_tokens(int blocks, const SegmentTarget& to) {
    int32_t last_id = count_ - 1;
    for (int t = 0; t < kBlock * blocks; t += kLanes) {
      const uint8_t starts = chunk_.starts.eight(t);
      const __m256i ids = _mm256_add_epi32(_mm256_set1_epi32(last_id), kBitsUpTo.lanes(starts));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to.ids + t), ids);
      last_id += std::popcount(starts);
    }
    count_ = last_id + 1;
  }

  // A segment ends where another starts. Returns how many do; of each, its end, its sum and, by the trigger, its sign
  // are moved out to `from`, which has a place for the segment that is open before the chunk, too.
  int end_segments(int blocks, const SegmentTarget& from) {
    const float* const sums = chunk_.sums + kLanes;
    if (open_tokens_ == 0) chunk_.starts.of[0] &= 0xfe;  // the row's first token starts one, and ends none
    chunk_.ends[0] = -open_tokens_;
    int ended = 0;
    for (int t = 0; t < kBlock * blocks; t += kLanes) {
      const uint8_t ends = chunk_.starts.eight(t);
      const __m128i places = kBitPlaces.bytes(ends);
      const __m256i lanes = _mm256_cvtepi8_epi32(places);
      const __m256i ends_at = _mm256_add_epi32(lanes, _mm256_set1_epi32(t));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(chunk_.ends + 1 + ended), ends_at);
      _mm256_storeu_ps(from.rewards + ended, _mm256_permutevar8x32_ps(_mm256_loadu_ps(sums + t - 1), lanes));
      if (rule_.use_trigger) {
        const __m128i states = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(chunk_.states + t));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(from.signs + ended), _mm_shuffle_epi8(states, places));
      }
      ended += std::popcount(ends);
    }
    return ended;
  }

  void write_ended(int ended, const SegmentTarget& from) const {
    const __m256 baseline = _mm256_set1_ps(rule_.baseline);
    for (int k = 0; k < ended; k += kLanes) {
      const auto ends = [&](int i) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(chunk_.ends + k + i));
      };
      const __m256i lengths = _mm256_sub_epi32(ends(1), ends(0));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(from.lengths + k), lengths);
      __m256 rewards = _mm256_loadu_ps(from.rewards + k);
      if (mean_) rewards = _mm256_div_ps(rewards, _mm256_cvtepi32_ps(lengths));
      if (mean_) _mm256_storeu_ps(from.rewards + k, rewards);
      if (rule_.use_trigger) continue;
      _mm_storel_epi64(reinterpret_cast<__m128i*>(from.signs + k), signs8(rewards, baseline));
    }
  }

  // The segment that goes on in the next chunk is written for now, and written over there.
  void write_open(int ended, int tokens, const SegmentTarget& from) {
    open_tokens_ = tokens - chunk_.ends[ended];
    open_sum_ = chunk_.sums[kLanes + tokens - 1];
    const float reward = mean_ ? open_sum_ / static_cast<float>(open_tokens_) : open_sum_;
    const int sign = (reward > rule_.baseline) - (reward < rule_.baseline);
    from.lengths[ended] = open_tokens_;
    from.rewards[ended] = reward;
    from.signs[ended] = rule_.use_trigger ? chunk_.states[tokens] : static_cast<int8_t>(sign);
  }

  const bool mean_;
  const SegmentRule<float>& rule_;
  StartFinder finder_;
  // Of the tokens so far: the segments, the last reward; and what the open segment has.
  int32_t count_ = 0;
  int32_t open_tokens_ = 0;
  __m256 last_reward_ = _mm256_setzero_ps();  // in the first lane
  float open_sum_ = 0;
  Chunk chunk_;
};

}  // namespace

extern const SegmentKernels kSegmentAvx2 = kSegmentByBlocks<DenseRow, ValidTokensAvx2>;

}  // namespace segkernel
