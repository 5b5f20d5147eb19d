// Blocks of 64 tokens, up to 16 of them (a chunk) at a time. Comparisons become bits, on which the trigger is integer
// arithmetic; what belongs to a segment is compressed out at its last token. Sums, maxima and minima are a segmented
// scan of three levels: inside groups of four tokens, inside groups of four groups, and across the sixteen lanes.
//
// Each step is a loop of its own over the chunk's blocks: a step's chain of dependent instructions is long, and only
// short loops leave the processor enough independent ones to look at.
#include <immintrin.h>

#include <bit>
#include <cstring>

#include "../../simd/inline.h"
#include "../../simd/load_avx512.h"
#include "../../simd/valid_avx512vbmi2.h"
#include "segment_fours_avx512vbmi2.h"
#include "segment_simd.h"

namespace segkernel {
namespace {

constexpr int kChunk = 16;  // blocks: its scratch memory stays in the first-level cache

// Of 32 bits, those up to this lane's, for the lower and the upper half.
constexpr auto kUpToLow = lanes_table([](int i) { return (uint64_t{2} << i) - 1; });
constexpr auto kUpToHigh = lanes_table([](int i) { return (uint64_t{2} << (kLanes + i)) - 1; });

// Where token t of a block is after `by_fours`, as an index into its four vectors; and back, plus one.
constexpr auto kPlace = bytes_table([](int t) { return t / kFours + kLanes * (t % kFours); });
constexpr auto kTokensUpTo = bytes_table([](int place) { return kFours * (place % kLanes) + place / kLanes + 1; });
constexpr auto kByteBefore = bytes_table([](int i) { return i - 1; });

// A bit per token.
struct Bits {
  __mmask16 of[kFours];

  uint64_t all() const {
    uint64_t bits;
    std::memcpy(&bits, of, sizeof(bits));
    return bits;
  }
};

// What the steps leave for those after them, per block.
struct Chunk {
  Bits pivots[kChunk], above[kChunk], below[kChunk];
  uint64_t starts[kChunk];
  // Of the segments that end in the block, or are open at its end: the place of the last token, and the block's tokens
  // in it.
  alignas(64) uint8_t places[kChunk][kBlock];
  alignas(64) uint8_t tokens[kChunk][kBlock];
  // Sums by fours; the fours that go on with the sum before them, up to each of their tokens; and that sum.
  alignas(64) float sums[kChunk][kFours][kLanes];
  Bits through[kChunk];
  alignas(64) float sums_before[kChunk][kLanes];
};

// See segment_blocks.h.
template <class T, Reduce kFold>
class DenseRow {
 public:
  static constexpr int kBlocks = kChunk;

  DenseRow(bool mean, const SegmentRule<float>& rule) : mean_(mean), rule_(rule), finder_(rule) {}

  int32_t count() const { return count_; }

  void add(const T* rewards, int blocks, uint64_t live, const SegmentTarget& to) {
    const int32_t earlier = count_;
    compare(rewards, blocks);
    find_starts(blocks, live, to);
    number_tokens(blocks, earlier, to);
    add_inside_fours(rewards, blocks);
    add_across_fours(blocks);
    write_segments(blocks, to);
  }

 private:
  void compare(const T* rewards, int blocks) {
    const __m512 threshold = _mm512_set1_ps(rule_.pivot_threshold);
    const __m512 low = _mm512_set1_ps(rule_.low);
    const __m512 high = _mm512_set1_ps(rule_.high);
    __m512 previous = last_reward_;
    for (int block = 0; block < blocks; ++block) {
      for_vectors([&]<int v>() SK_INLINE_LAMBDA {
        const __m512 values = load16(rewards + kBlock * block + kLanes * v);
        const __m512 change = _mm512_abs_ps(_mm512_sub_ps(values, shift_up<1>(values, previous)));
        _store_mask16(&chunk_.pivots[block].of[v], _mm512_cmp_ps_mask(change, threshold, _CMP_GT_OQ));
        _store_mask16(&chunk_.above[block].of[v], _mm512_cmp_ps_mask(values, high, _CMP_GT_OQ));
        _store_mask16(&chunk_.below[block].of[v], _mm512_cmp_ps_mask(values, low, _CMP_LT_OQ));
        previous = values;
      });
    }
    last_reward_ = previous;
  }

  // Also writes what the bits settle: signs and mask, where the trigger makes them.
  void find_starts(int blocks, uint64_t live, const SegmentTarget& to) {
    const bool trigger = rule_.use_trigger;
    const bool write_mask = rule_.want_mask && trigger;
    StartFinder finder = finder_;
    int64_t started = 0;
    for (int block = 0; block < blocks; ++block) {
      const uint64_t tokens = block == blocks - 1 ? live : ~uint64_t{0};
      const auto [starts, positive, negative, kept] =
          finder.next(chunk_.pivots[block].all(), chunk_.above[block].all(), chunk_.below[block].all(), tokens);
      if (write_mask) _mm512_storeu_si512(to.mask + kBlock * block, _mm512_maskz_set1_epi8(kept, 1));
      if (trigger) {
        const __m512i ones = _mm512_maskz_set1_epi8(_pext_u64(positive, starts), 1);
        _mm512_storeu_si512(to.signs + started, _mm512_mask_set1_epi8(ones, _pext_u64(negative, starts), -1));
      }
      const uint64_t ends = (starts >> 1) | (tokens ^ (tokens >> 1));
      const __m512i places = _mm512_maskz_compress_epi8(ends, kPlace.load());
      const __m512i up_to = _mm512_permutexvar_epi8(places, kTokensUpTo.load());
      const __m512i before = _mm512_maskz_permutexvar_epi8(~uint64_t{1}, kByteBefore.load(), up_to);
      _mm512_store_si512(chunk_.places[block], places);
      _mm512_store_si512(chunk_.tokens[block], _mm512_sub_epi8(up_to, before));
      chunk_.starts[block] = starts;
      started += std::popcount(starts);
    }
    finder_ = finder;
    count_ += static_cast<int32_t>(started);
  }

  // A token's id is the number of starts up to it, less one.
  void number_tokens(int blocks, int32_t earlier, const SegmentTarget& to) const {
    const __m512i up_to_low = kUpToLow.load();
    const __m512i up_to_high = kUpToHigh.load();
    int32_t last_id = earlier - 1;
    for (int block = 0; block < blocks; ++block) {
      for (int half = 0; half < 2; ++half) {
        const auto starts = static_cast<uint32_t>(chunk_.starts[block] >> (kBlock / 2 * half));
        const __m512i all = _mm512_set1_epi32(static_cast<int32_t>(starts));
        const __m512i before = _mm512_set1_epi32(last_id);
        const __m512i low = _mm512_popcnt_epi32(_mm512_and_si512(all, up_to_low));
        const __m512i high = _mm512_popcnt_epi32(_mm512_and_si512(all, up_to_high));
        int32_t* ids = to.ids + kBlock * block + kBlock / 2 * half;
        _mm512_storeu_si512(ids, _mm512_add_epi32(before, low));
        _mm512_storeu_si512(ids + kLanes, _mm512_add_epi32(before, high));
        last_id += std::popcount(starts);
      }
    }
  }

  void add_inside_fours(const T* rewards, int blocks) {
    for (int block = 0; block < blocks; ++block) {
      __m512 sums[kFours];
      for_vectors([&]<int v>() SK_INLINE_LAMBDA { sums[v] = load16(rewards + kBlock * block + kLanes * v); });
      by_fours(sums);
      const Fours<kFold> fours(sums, ~chunk_.starts[block]);
      for_vectors([&]<int v>() SK_INLINE_LAMBDA {
        _mm512_store_ps(chunk_.sums[block][v], sums[v]);
        chunk_.through[block].of[v] = fours.through[v];
      });
    }
  }

  // What each four of a block's tokens goes on with. Four blocks have 64 such, which are added up in the same way.
  void add_across_fours(int blocks) {
    const __m512 zero = _mm512_setzero_ps();
    for (int block = blocks; block % kFours != 0; ++block) {  // blocks of nothing let the open segment's sum through
      _mm512_store_ps(chunk_.sums[block][kFours - 1], nothing<kFold>());
      chunk_.through[block].of[kFours - 1] = 0xffff;
    }
    for (int block = 0; block < blocks; block += kFours) {
      __m512 sums[kFours];
      uint64_t goes_on = 0;
      for_vectors([&]<int v>() SK_INLINE_LAMBDA {
        sums[v] = _mm512_load_ps(chunk_.sums[block + v][kFours - 1]);
        goes_on |= uint64_t{chunk_.through[block + v].of[kFours - 1]} << (kLanes * v);
      });
      by_fours(sums);
      const Fours<kFold> fours(sums, goes_on);

      const uint32_t whole = fours.through[kFours - 1];
      const uint32_t by1 = whole & ~1u;
      const uint32_t by2 = by1 & (by1 << 1);
      const uint32_t by4 = by2 & (by2 << 2);
      const uint32_t by8 = by4 & (by4 << 4);
      __m512 lanes = sums[kFours - 1];
      lanes = fold_joined<kFold>(lanes, static_cast<__mmask16>(by1), shift_up<1>(lanes, zero));
      lanes = fold_joined<kFold>(lanes, static_cast<__mmask16>(by2), shift_up<2>(lanes, zero));
      lanes = fold_joined<kFold>(lanes, static_cast<__mmask16>(by4), shift_up<4>(lanes, zero));
      lanes = fold_joined<kFold>(lanes, static_cast<__mmask16>(by8), shift_up<8>(lanes, zero));
      const uint32_t from_earlier_blocks = whole & ~(whole + 1);
      lanes = fold_joined<kFold>(lanes, static_cast<__mmask16>(from_earlier_blocks), open_sum_);

      const __m512 before = shift_up<1>(lanes, open_sum_);
      for (int j = kFours - 1; j > 0; --j) {
        sums[j] = fold_joined<kFold>(sums[j - 1], fours.through[j - 1], before);
      }
      sums[0] = before;
      open_sum_ = last_lane(lanes);
      from_fours(sums);
      for_vectors([&]<int v>() SK_INLINE_LAMBDA { _mm512_store_ps(chunk_.sums_before[block + v], sums[v]); });
    }
  }

  // A segment that goes on in the next block is written for now, and written over there.
  void write_segments(int blocks, const SegmentTarget& to) {
    const __m512 baseline = _mm512_set1_ps(rule_.baseline);
    const __m512i in_second_half = _mm512_set1_epi32(2 * kLanes);
    int64_t started = 0;
    for (int block = 0; block < blocks; ++block) {
      const uint64_t starts = chunk_.starts[block];
      const int starting = std::popcount(starts);
      const int goes_on = (starts & 1) == 0;
      __m512 sums[kFours];
      const __m512 before = _mm512_load_ps(chunk_.sums_before[block]);
      for_vectors([&]<int v>() SK_INLINE_LAMBDA {
        sums[v] = _mm512_load_ps(chunk_.sums[block][v]);
        sums[v] = fold_joined<kFold>(sums[v], chunk_.through[block].of[v], before);
      });
      __m512i earlier_tokens = _mm512_zextsi128_si512(_mm_cvtsi32_si128(goes_on ? open_tokens_ : 0));
      for (int k = 0; k < starting + goes_on; k += kLanes) {
        const auto widen_bytes = [k](const uint8_t* bytes) {
          return _mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes + k)));
        };
        const __m512i places = widen_bytes(chunk_.places[block]);
        const __m512i lengths = _mm512_add_epi32(widen_bytes(chunk_.tokens[block]), earlier_tokens);
        earlier_tokens = _mm512_setzero_si512();
        const __m512 first_half = _mm512_permutex2var_ps(sums[0], places, sums[1]);
        const __m512 second_half = _mm512_permutex2var_ps(sums[2], places, sums[3]);
        __m512 rewards = _mm512_mask_mov_ps(first_half, _mm512_test_epi32_mask(places, in_second_half), second_half);
        if (mean_) rewards = _mm512_div_ps(rewards, _mm512_cvtepi32_ps(lengths));
        const int64_t segment = started - goes_on + k;
        _mm512_storeu_si512(to.lengths + segment, lengths);
        _mm512_storeu_ps(to.rewards + segment, rewards);
        if (rule_.use_trigger) continue;
        const __m128i ones = _mm_maskz_set1_epi8(_mm512_cmp_ps_mask(rewards, baseline, _CMP_GT_OQ), 1);
        const __m128i signs = _mm_mask_set1_epi8(ones, _mm512_cmp_ps_mask(rewards, baseline, _CMP_LT_OQ), -1);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to.signs + segment), signs);
      }
      started += starting;
      open_tokens_ = starting == 0 ? open_tokens_ + kBlock : std::countl_zero(starts) + 1;
    }
  }

  const bool mean_;
  const SegmentRule<float>& rule_;
  StartFinder finder_;
  // Of the tokens so far: the segments, the last reward; and what the open segment has.
  int32_t count_ = 0;
  int32_t open_tokens_ = 0;
  __m512 last_reward_ = _mm512_setzero_ps();  // in the last lane
  __m512 open_sum_ = _mm512_setzero_ps();     // in every lane
  Chunk chunk_;
};

}  // namespace

extern const SegmentKernels kSegmentAvx512Vbmi2 = kSegmentByBlocks<DenseRow, ValidTokensAvx512Vbmi2>;

}  // namespace segkernel
