// 64 tokens at a time. Comparisons become bits, on which the trigger is integer arithmetic; sums are a segmented scan
// across the lanes of 16; what belongs to a segment is compressed out at the places where one starts.
//
// `schmitt_step`, `starts_segment`, `fold` and `keeps` of segment.h, in the language of bits: the tests hold both
// against the same reference, and their ids, signs and masks against each other bit for bit.
#include <immintrin.h>

#include <algorithm>

#include "../simd/inline.h"
#include "segment_dense.h"

namespace segkernel {
namespace {

constexpr int kLanes = 16;
constexpr int kBlock = 64;
constexpr uint64_t kLaneZero = 0x0001000100010001;  // the first lane of every vector of a block

// kPrefixCounts[bits][i]: how many of bits 0..i are set.
struct PrefixCounts {
  alignas(8) uint8_t counts[256][8];
};

constexpr PrefixCounts make_prefix_counts() {
  PrefixCounts table{};
  for (int bits = 0; bits < 256; ++bits) {
    uint8_t count = 0;
    for (int i = 0; i < 8; ++i) {
      count = static_cast<uint8_t>(count + ((bits >> i) & 1));
      table.counts[bits][i] = count;
    }
  }
  return table;
}

constexpr PrefixCounts kPrefixCounts = make_prefix_counts();

inline __m512 load(const float* values, __mmask16 live) { return _mm512_maskz_loadu_ps(live, values); }
inline __m512 load(const bfloat16* values, __mmask16 live) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(live, values));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
inline __m512 load(const float16* values, __mmask16 live) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(live, values));
}

// Lane i of the result is lane i - d of `values`; the first d lanes are the last of `before`.
template <int d>
inline __m512 shift_up(__m512 values, __m512 before) {
  return _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(values), _mm512_castps_si512(before), kLanes - d));
}

inline __m512 last_lane(__m512 values) { return _mm512_permutexvar_ps(_mm512_set1_epi32(kLanes - 1), values); }

// Tokens at which a state holds: set there, or carried there through `held` tokens from a set one or from `carried`.
// A run of held tokens has its mark, if any, in its lowest bit, so that one addition ripples through the whole run.
inline uint64_t hold_through(uint64_t set, uint64_t held, uint64_t carried) {
  const uint64_t marks = (set << 1) | carried;
  const uint64_t reached = (((marks & held) + held) ^ held) | marks;
  return set | (reached & held);
}

// Which lanes of a vector still belong to the segment of the lane 1, 2, 4 and 8 below, for the vectors of a block.
struct Joined {
  uint64_t by1, by2, by4, by8;

  explicit Joined(uint64_t starts)
      : by1(~(starts | kLaneZero)), by2(by1 & (by1 << 1)), by4(by2 & (by2 << 2)), by8(by4 & (by4 << 4)) {}
};

template <int vector>
inline __mmask16 lanes_of(uint64_t bits) {
  return static_cast<__mmask16>(bits >> (kLanes * vector));
}

// Sums from each segment's start, or from lane 0, up to the lane: a segmented inclusive scan.
template <int vector>
inline __m512 segmented_sums(__m512 values, const Joined& joined) {
  const __m512 zero = _mm512_setzero_ps();
  values = _mm512_mask_add_ps(values, lanes_of<vector>(joined.by1), values, shift_up<1>(values, zero));
  values = _mm512_mask_add_ps(values, lanes_of<vector>(joined.by2), values, shift_up<2>(values, zero));
  values = _mm512_mask_add_ps(values, lanes_of<vector>(joined.by4), values, shift_up<4>(values, zero));
  return _mm512_mask_add_ps(values, lanes_of<vector>(joined.by8), values, shift_up<8>(values, zero));
}

// Lane i: how many of bits 0..i are set.
inline __m512i running_counts(uint32_t bits) {
  const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPrefixCounts.counts[bits & 0xff]));
  const __m128i high = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPrefixCounts.counts[(bits >> 8) & 0xff]));
  const __m128i total_of_low = _mm_set_epi8(7, 7, 7, 7, 7, 7, 7, 7, -1, -1, -1, -1, -1, -1, -1, -1);
  return _mm512_cvtepu8_epi32(_mm_add_epi8(_mm_unpacklo_epi64(low, high), _mm_shuffle_epi8(low, total_of_low)));
}

// How a block stores. While whole blocks remain, even the lanes past those that count fall inside the row's outputs,
// to be overwritten later: a row has at most as many segments as tokens. Plain stores are much the faster ones.
struct WholeBlock {
  template <int vector>
  static __mmask16 lanes(uint64_t) {
    return 0xffff;
  }
  static void ids(int32_t* to, __mmask16, __m512i lanes) { _mm512_storeu_si512(to, lanes); }
  static void floats(float* to, __mmask16, __m512 lanes) { _mm512_storeu_ps(to, lanes); }
  static void bytes(void* to, uint64_t, __m512i lanes) { _mm512_storeu_si512(to, lanes); }
};

struct LastBlock {
  template <int vector>
  static __mmask16 lanes(uint64_t live) {
    return lanes_of<vector>(live);
  }
  static void ids(int32_t* to, __mmask16 live, __m512i lanes) { _mm512_mask_storeu_epi32(to, live, lanes); }
  static void floats(float* to, __mmask16 live, __m512 lanes) { _mm512_mask_storeu_ps(to, live, lanes); }
  static void bytes(void* to, uint64_t live, __m512i lanes) { _mm512_mask_storeu_epi8(to, live, lanes); }
};

template <class Body>
SK_INLINE void for_vectors(const Body& body) {
  body.template operator()<0>();
  body.template operator()<1>();
  body.template operator()<2>();
  body.template operator()<3>();
}

inline uint64_t lowest(uint32_t count) { return _bzhi_u64(~uint64_t{0}, count); }

// Lengths from start positions; rewards from the sums of the segments before; signs from rewards.
inline void finish_segments(bool mean, int32_t count, int32_t length, __m512 last_sum, const SegmentRule<float>& rule,
                            const SegmentRowOut& out) {
  const __m512 baseline = _mm512_set1_ps(rule.baseline);
  const __m512i row_end = _mm512_set1_epi32(length);
  const auto step = [&](int32_t k, auto block) SK_INLINE_LAMBDA {
    using Block = decltype(block);
    const auto live = static_cast<__mmask16>(lowest(static_cast<uint32_t>(std::min(count - k, kLanes))));
    const auto has_next = static_cast<__mmask16>(lowest(static_cast<uint32_t>(std::min(count - k - 1, kLanes))));
    const __m512i begin = _mm512_maskz_loadu_epi32(live, out.lengths + k);
    const __m512i end = _mm512_mask_loadu_epi32(row_end, has_next, out.lengths + k + 1);
    const __m512i lengths = _mm512_sub_epi32(end, begin);
    __m512 rewards = _mm512_mask_loadu_ps(last_sum, has_next, out.rewards + k + 1);
    if (mean) rewards = _mm512_div_ps(rewards, _mm512_cvtepi32_ps(lengths));
    Block::ids(out.lengths + k, live, lengths);
    Block::floats(out.rewards + k, live, rewards);
    if (rule.use_trigger) return;
    const __mmask16 above = _mm512_cmp_ps_mask(rewards, baseline, _CMP_GT_OQ);
    const __mmask16 below = _mm512_cmp_ps_mask(rewards, baseline, _CMP_LT_OQ);
    const __m128i signs = _mm_mask_set1_epi8(_mm_maskz_set1_epi8(above, 1), below, -1);
    _mm_mask_storeu_epi8(out.signs + k, live, signs);
  };
  int32_t k = 0;
  for (; k < count && k + kLanes <= length; k += kLanes) step(k, WholeBlock{});
  if (k < count) step(k, LastBlock{});
}

template <class T>
int32_t segment_dense(bool mean, const T* rewards, int64_t length, const SegmentRule<float>& rule,
                      const SegmentRowOut& out) {
  if (length == 0) return 0;
  const __m512 threshold = _mm512_set1_ps(rule.pivot_threshold);
  const __m512 low = _mm512_set1_ps(rule.low);
  const __m512 high = _mm512_set1_ps(rule.high);
  const uint64_t holds = rule.hold ? ~uint64_t{0} : 0;
  const uint64_t keeps_positive = rule.sequence_sign > 0 ? ~uint64_t{0} : 0;
  const uint64_t keeps_negative = rule.sequence_sign < 0 ? ~uint64_t{0} : 0;
  const uint64_t keeps_neutral = rule.keep_neutral ? ~uint64_t{0} : 0;
  const bool trigger = rule.use_trigger;
  const bool write_mask = rule.want_mask && trigger;
  int32_t* const ids_out = out.ids;
  int32_t* const lengths_out = out.lengths;  // until the end: where each segment starts
  float* const sums_out = out.rewards;       // until the end: the sum of the segment before
  uint64_t was_positive = rule.initial > 0;
  uint64_t was_negative = rule.initial < 0;
  uint64_t first = 1;
  int32_t count = 0;
  __m512 previous = _mm512_setzero_ps();
  __m512 sums = _mm512_setzero_ps();
  __m512i last_id = _mm512_set1_epi32(-1);
  __m512i positions = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);

  const auto block = [&](int64_t t, auto kind, uint64_t live) SK_INLINE_LAMBDA {
    using Block = decltype(kind);
    __m512 values[kBlock / kLanes];
    uint64_t pivots = 0;
    uint64_t above = 0;
    uint64_t below = 0;
    for_vectors([&]<int v>() SK_INLINE_LAMBDA {
      values[v] = load(rewards + t + kLanes * v, Block::template lanes<v>(live));
      const __m512 change = _mm512_abs_ps(_mm512_sub_ps(values[v], shift_up<1>(values[v], previous)));
      pivots |= uint64_t{_mm512_cmp_ps_mask(change, threshold, _CMP_GT_OQ)} << (kLanes * v);
      above |= uint64_t{_mm512_cmp_ps_mask(values[v], high, _CMP_GT_OQ)} << (kLanes * v);
      below |= uint64_t{_mm512_cmp_ps_mask(values[v], low, _CMP_LT_OQ)} << (kLanes * v);
      previous = values[v];
    });
    above &= live;
    below &= live;
    const uint64_t held = ~(above | below) & live & holds;
    const uint64_t positive = hold_through(above, held, was_positive);
    const uint64_t negative = hold_through(below, held, was_negative);
    const uint64_t changed =
        (positive ^ ((positive << 1) | was_positive)) | (negative ^ ((negative << 1) | was_negative));
    const uint64_t starts = (pivots | changed | first) & live;
    was_positive = positive >> (kBlock - 1);
    was_negative = negative >> (kBlock - 1);

    if (write_mask) {
      const uint64_t kept =
          (positive & keeps_positive) | (negative & keeps_negative) | (~(positive | negative) & keeps_neutral);
      Block::bytes(out.mask + t, live, _mm512_maskz_set1_epi8(kept, 1));
    }
    if (trigger) {
      const __m512i ones = _mm512_maskz_set1_epi8(_pext_u64(positive, starts), 1);
      Block::bytes(out.signs + count, lowest(static_cast<uint32_t>(__builtin_popcountll(starts))),
                   _mm512_mask_set1_epi8(ones, _pext_u64(negative, starts), -1));
    }

    const Joined joined(starts);
    for_vectors([&]<int v>() SK_INLINE_LAMBDA {
      const __mmask16 begins = lanes_of<v>(starts);
      const auto begin_count = static_cast<uint32_t>(__builtin_popcount(begins));
      const auto begin_lanes = static_cast<__mmask16>(lowest(begin_count));
      const __m512i running = last_id;
      const __m512i ids = _mm512_add_epi32(running_counts(begins), running);
      Block::ids(ids_out + t + kLanes * v, Block::template lanes<v>(live), ids);
      Block::ids(lengths_out + count, begin_lanes, _mm512_maskz_compress_epi32(begins, positions));
      last_id = _mm512_permutexvar_epi32(_mm512_set1_epi32(kLanes - 1), ids);
      positions = _mm512_add_epi32(positions, _mm512_set1_epi32(kLanes));

      // A segment's sum is complete where the next one starts: one lane up from its last token.
      __m512 now = segmented_sums<v>(values[v], joined);
      now = _mm512_mask_add_ps(now, _mm512_cmpeq_epi32_mask(ids, running), now, last_lane(sums));
      Block::floats(sums_out + count, begin_lanes, _mm512_maskz_compress_ps(begins, shift_up<1>(now, sums)));
      sums = now;
      count += static_cast<int32_t>(begin_count);
    });
    first = 0;
  };
  int64_t t = 0;
  for (; t + kBlock <= length; t += kBlock) block(t, WholeBlock{}, ~uint64_t{0});
  if (t < length) block(t, LastBlock{}, lowest(static_cast<uint32_t>(length - t)));
  // Lanes past the row's end hold zeros and belong to the last segment, so that its sum is in the last lane.
  finish_segments(mean, count, static_cast<int32_t>(length), last_lane(sums), rule, out);
  return count;
}

}  // namespace

extern const SegmentDenseKernels kSegmentDenseAvx512 = {&segment_dense<float>, &segment_dense<bfloat16>,
                                                        &segment_dense<float16>};

}  // namespace segkernel
