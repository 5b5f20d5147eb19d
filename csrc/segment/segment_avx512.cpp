// 16 tokens at a time. Comparisons become bit masks, on which the trigger is integer arithmetic; sums are a segmented
// scan across lanes; what belongs to a segment is compressed out at the lanes where one starts.
//
// `schmitt_step`, `starts_segment`, `fold` and `keeps` of segment.h, in the language of masks: the tests hold both
// against the same reference, and their ids, signs and masks against each other bit for bit.
#include <immintrin.h>

#include "segment_dense.h"

namespace segkernel {
namespace {

constexpr int kLanes = 16;

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

// Lanes in which a state holds: set in `set`, or carried there through `held` lanes from a set one or from `carried`.
// A run of held lanes has its mark, if any, in its lowest bit, so that one addition ripples through the whole run.
inline uint32_t hold_through(uint32_t set, uint32_t held, uint32_t carried) {
  const uint32_t marks = (set << 1) | carried;
  const uint32_t reached = (((marks & held) + held) ^ held) | marks;
  return set | (reached & held);
}

// Sums from each segment's start, or from lane 0, up to the lane: a segmented inclusive scan.
inline __m512 segmented_sums(__m512 values, uint32_t starts) {
  const __m512 zero = _mm512_setzero_ps();
  const uint32_t joined = ~starts & 0xfffe;  // lane i continues lane i - 1
  values = _mm512_mask_add_ps(values, static_cast<__mmask16>(joined), values, shift_up<1>(values, zero));
  const uint32_t joined2 = joined & (joined << 1);
  values = _mm512_mask_add_ps(values, static_cast<__mmask16>(joined2), values, shift_up<2>(values, zero));
  const uint32_t joined4 = joined2 & (joined2 << 2);
  values = _mm512_mask_add_ps(values, static_cast<__mmask16>(joined4), values, shift_up<4>(values, zero));
  const uint32_t joined8 = joined4 & (joined4 << 4);
  return _mm512_mask_add_ps(values, static_cast<__mmask16>(joined8), values, shift_up<8>(values, zero));
}

inline __m512i running_counts(uint32_t bits) {
  const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPrefixCounts.counts[bits & 0xff]));
  const __m128i high = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPrefixCounts.counts[bits >> 8]));
  const __m512i counts = _mm512_cvtepu8_epi32(_mm_unpacklo_epi64(low, high));
  const __m512i in_low = _mm512_set1_epi32(__builtin_popcount(bits & 0xff));
  return _mm512_mask_add_epi32(counts, 0xff00, counts, in_low);
}

// Lengths from start positions, means from sums, signs from rewards.
inline void finish_segments(bool mean, int32_t count, int32_t length, const SegmentRule<float>& rule,
                            const SegmentRowOut& out) {
  const __m512 baseline = _mm512_set1_ps(rule.baseline);
  for (int32_t k = 0; k < count; k += kLanes) {
    const int32_t left = count - k;
    const auto live = static_cast<__mmask16>(left >= kLanes ? 0xffff : (1u << left) - 1);
    const auto has_next = static_cast<__mmask16>(left > kLanes ? 0xffff : (1u << (left - 1)) - 1);
    const __m512i begin = _mm512_maskz_loadu_epi32(live, out.lengths + k);
    const __m512i end = _mm512_mask_loadu_epi32(_mm512_set1_epi32(length), has_next, out.lengths + k + 1);
    const __m512i lengths = _mm512_sub_epi32(end, begin);
    _mm512_mask_storeu_epi32(out.lengths + k, live, lengths);
    if (!mean && rule.use_trigger) continue;
    __m512 rewards = _mm512_maskz_loadu_ps(live, out.rewards + k);
    if (mean) {
      rewards = _mm512_div_ps(rewards, _mm512_cvtepi32_ps(lengths));
      _mm512_mask_storeu_ps(out.rewards + k, live, rewards);
    }
    if (rule.use_trigger) continue;
    const __mmask16 above = _mm512_cmp_ps_mask(rewards, baseline, _CMP_GT_OQ);
    const __mmask16 below = _mm512_cmp_ps_mask(rewards, baseline, _CMP_LT_OQ);
    const __m128i signs = _mm_mask_set1_epi8(_mm_maskz_set1_epi8(above, 1), below, -1);
    _mm_mask_storeu_epi8(out.signs + k, live, signs);
  }
}

// How a step stores. While whole vectors remain, even the lanes past those that count fall inside the row's outputs,
// to be overwritten later: a row has at most as many segments as tokens. Plain stores are much the faster ones.
struct StoreAll {
  static void ids(int32_t* to, __mmask16, __m512i lanes) { _mm512_storeu_si512(to, lanes); }
  static void floats(float* to, __mmask16, __m512 lanes) { _mm512_storeu_ps(to, lanes); }
  static void bytes(void* to, __mmask16, __m128i lanes) { _mm_storeu_si128(static_cast<__m128i*>(to), lanes); }
};

struct StoreLive {
  static void ids(int32_t* to, __mmask16 live, __m512i lanes) { _mm512_mask_storeu_epi32(to, live, lanes); }
  static void floats(float* to, __mmask16 live, __m512 lanes) { _mm512_mask_storeu_ps(to, live, lanes); }
  static void bytes(void* to, __mmask16 live, __m128i lanes) { _mm_mask_storeu_epi8(to, live, lanes); }
};

template <class T>
int32_t segment_dense(bool mean, const T* rewards, int64_t length, const SegmentRule<float>& rule,
                      const SegmentRowOut& out) {
  if (length == 0) return 0;
  const __m512 threshold = _mm512_set1_ps(rule.pivot_threshold);
  const __m512 low = _mm512_set1_ps(rule.low);
  const __m512 high = _mm512_set1_ps(rule.high);
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const uint32_t holds = rule.hold ? ~0u : 0u;
  const uint32_t keeps_positive = rule.sequence_sign > 0 ? ~0u : 0u;
  const uint32_t keeps_negative = rule.sequence_sign < 0 ? ~0u : 0u;
  const uint32_t keeps_neutral = rule.keep_neutral ? ~0u : 0u;
  uint32_t was_positive = rule.initial > 0;
  uint32_t was_negative = rule.initial < 0;
  uint32_t first = 1;
  int32_t count = 0;
  int32_t closed = 0;
  __m512 previous = _mm512_setzero_ps();
  __m512 sums = _mm512_setzero_ps();

  const auto step = [&](int64_t t, auto store, uint32_t live) __attribute__((always_inline)) {
    using Store = decltype(store);
    const auto live_lanes = static_cast<__mmask16>(live);
    const __m512 values = load(rewards + t, live_lanes);

    const __m512 change = _mm512_abs_ps(_mm512_sub_ps(values, shift_up<1>(values, previous)));
    const uint32_t pivots = _mm512_cmp_ps_mask(change, threshold, _CMP_GT_OQ);
    const uint32_t above = _mm512_mask_cmp_ps_mask(live_lanes, values, high, _CMP_GT_OQ);
    const uint32_t below = _mm512_mask_cmp_ps_mask(live_lanes, values, low, _CMP_LT_OQ);
    const uint32_t held = ~(above | below) & live & holds;
    const uint32_t positive = hold_through(above, held, was_positive);
    const uint32_t negative = hold_through(below, held, was_negative);
    const uint32_t changed =
        (positive ^ ((positive << 1) | was_positive)) | (negative ^ ((negative << 1) | was_negative));
    const uint32_t starts = (pivots | changed | first) & live;
    was_positive = (positive >> (kLanes - 1)) & 1;
    was_negative = (negative >> (kLanes - 1)) & 1;
    previous = values;

    const __m512i ids = _mm512_add_epi32(running_counts(starts), _mm512_set1_epi32(count - 1));
    Store::ids(out.ids + t, live_lanes, ids);
    if (rule.want_mask && rule.use_trigger) {
      const uint32_t kept =
          (positive & keeps_positive) | (negative & keeps_negative) | (~(positive | negative) & keeps_neutral);
      Store::bytes(out.mask + t, live_lanes, _mm_maskz_set1_epi8(static_cast<__mmask16>(kept), 1));
    }

    const auto starting = static_cast<uint32_t>(__builtin_popcount(starts));
    const auto starting_lanes = static_cast<__mmask16>((1u << starting) - 1);
    const __m512i positions = _mm512_add_epi32(lane, _mm512_set1_epi32(static_cast<int32_t>(t)));
    Store::ids(out.lengths + count, starting_lanes,
               _mm512_maskz_compress_epi32(static_cast<__mmask16>(starts), positions));
    if (rule.use_trigger) {
      const __m512i states = _mm512_mask_set1_epi32(_mm512_maskz_set1_epi32(static_cast<__mmask16>(positive), 1),
                                                    static_cast<__mmask16>(negative), -1);
      const __m512i of_starts = _mm512_maskz_compress_epi32(static_cast<__mmask16>(starts), states);
      Store::bytes(out.signs + count, starting_lanes, _mm512_cvtepi32_epi8(of_starts));
    }

    // A segment's sum is complete where the next one starts: one lane up from its last token.
    const uint32_t before_first_start = starts == 0 ? 0xffffu : (starts & -starts) - 1;
    const __m512 carried = last_lane(sums);
    __m512 now = segmented_sums(values, starts);
    now = _mm512_mask_add_ps(now, static_cast<__mmask16>(before_first_start), now, carried);
    const uint32_t closing = starts & ~first;
    const auto closing_count = static_cast<uint32_t>(__builtin_popcount(closing));
    Store::floats(out.rewards + closed, static_cast<__mmask16>((1u << closing_count) - 1),
                  _mm512_maskz_compress_ps(static_cast<__mmask16>(closing), shift_up<1>(now, sums)));
    sums = now;
    closed += static_cast<int32_t>(closing_count);
    count += static_cast<int32_t>(starting);
    first = 0;
  };
  int64_t t = 0;
  for (; t + kLanes <= length; t += kLanes) step(t, StoreAll{}, 0xffff);
  if (t < length) step(t, StoreLive{}, (1u << (length - t)) - 1);
  // Lanes past the row's end hold zeros and belong to the last segment, so that its sum is in the last lane.
  out.rewards[closed] = _mm512_cvtss_f32(last_lane(sums));
  finish_segments(mean, count, static_cast<int32_t>(length), rule, out);
  return count;
}

}  // namespace

extern const SegmentDenseKernels kSegmentDenseAvx512 = {&segment_dense<float>, &segment_dense<bfloat16>,
                                                        &segment_dense<float16>};

}  // namespace segkernel
