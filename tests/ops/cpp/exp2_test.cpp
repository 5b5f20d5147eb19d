// Largest errors of exp2 and log2, in units in the last place (ulp), and of tanh, absolute, against the C library in
// double.
//
// Usage: exp2_test vec|scalar STRIDE. `vec` tests csrc/simd/vec_math.h for the instruction set of the compiler flags,
// `scalar` csrc/core/scalar_vec.h. One float in STRIDE is tested, all of them with 1; log2 and `vec` tanh are tested at
// one in 101 of those. Prints the largest errors and exits with 1 if one exceeds its bound.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "core/dtypes.h"
#include "core/scalar_vec.h"
#include "simd/vec_math.h"

using namespace segkernel;

namespace {

constexpr int kBlock = 4096;

using Function = void (*)(const float* x, float* y);  // [kBlock] each

template <Vec (*kFunction)(Vec)>
void by_vectors(const float* x, float* y) {
  for (int i = 0; i < kBlock; i += Vec::kLanes) kFunction(Vec::load(x + i)).store(y + i);
}
void vec_exp2(const float* x, float* y) { by_vectors<segkernel::exp2>(x, y); }
void vec_log2(const float* x, float* y) { by_vectors<segkernel::log2>(x, y); }
void vec_exp2_in_range(const float* x, float* y) { by_vectors<segkernel::exp2_in_range>(x, y); }
template <Interleaved<Vec> (*kFunction)(Interleaved<Vec>)>
void by_pairs(const float* x, float* y) {
  for (int i = 0; i < kBlock; i += 2 * Vec::kLanes) {
    const auto values = kFunction({Vec::load(x + i), Vec::load(x + i + Vec::kLanes)});
    values.a.store(y + i);
    values.b.store(y + i + Vec::kLanes);
  }
}
void interleaved_exp2_in_range(const float* x, float* y) { by_pairs<segkernel::exp2_in_range>(x, y); }
void interleaved_log2(const float* x, float* y) { by_pairs<segkernel::log2>(x, y); }
void vec_tanh(const float* x, float* y) { by_vectors<segkernel::tanh>(x, y); }
void scalar_exp2(const float* x, float* y) {
  for (int i = 0; i < kBlock; ++i) y[i] = fast_exp2(x[i]);
}
void scalar_tanh(const float* x, float* y) {
  for (int i = 0; i < kBlock; ++i) y[i] = tanh_of_product(x[i], 1.0f);
}
void scalar_reciprocal(const float* x, float* y) {
  for (int i = 0; i < kBlock; ++i) y[i] = -negative_reciprocal(x[i]);
}

// exp2 in double; below 2^-20 by its series, which vectorizes, and whose next term is below 2^-62.
void exact_exp2(const float* x, double* y) {
  constexpr double kLn2 = 0.6931471805599453;
  bool small = true;
  for (int i = 0; i < kBlock; ++i) small &= std::fabs(x[i]) < 0x1p-20f;
  for (int i = 0; i < kBlock; ++i) {
    const double a = x[i] * kLn2;
    y[i] = small ? 1 + (a + a * a / 2) : std::exp2(double{x[i]});
  }
}
void exact_log2(const float* x, double* y) {
  for (int i = 0; i < kBlock; ++i) y[i] = std::log2(double{x[i]});
}
void exact_tanh(const float* x, double* y) {
  for (int i = 0; i < kBlock; ++i) y[i] = std::tanh(double{x[i]});
}
void exact_reciprocal(const float* x, double* y) {
  for (int i = 0; i < kBlock; ++i) y[i] = 1 / double{x[i]};
}

// `error` in units in the last place of floats at `exact`.
double in_ulp(double error, double exact) {
  uint64_t bits;
  memcpy(&bits, &exact, sizeof(bits));
  bits &= uint64_t{0x7ff} << 52;
  double binade;
  memcpy(&binade, &bits, sizeof(binade));
  return error / (binade * 0x1p-23);
}
double absolute(double error, double) { return error; }

struct Worst {
  double error = 0;
  float at = 0;
};

// Raises `worst` to the largest error at the floats with bit patterns first, first + stride, ... below `end`.
template <double (*kMeasure)(double, double)>
void scan(uint32_t first, uint32_t end, uint32_t stride, Function function, void (*exact)(const float*, double*),
          Worst& worst) {
  static float x[kBlock], y[kBlock];
  static double expected[kBlock], errors[kBlock];
  for (uint64_t begin = first; begin < end; begin += uint64_t{kBlock} * stride) {
    for (int i = 0; i < kBlock; ++i) {  // the last block repeats its last float
      const uint64_t bits = begin + uint64_t{stride} * i;
      x[i] = float_from_bits(static_cast<uint32_t>(bits < end ? bits : end - 1));
    }
    function(x, y);
    exact(x, expected);
    for (int i = 0; i < kBlock; ++i) {
      const double error = kMeasure(std::fabs(y[i] - expected[i]), expected[i]);
      errors[i] = error == error ? error : INFINITY;
    }
    for (int i = 0; i < kBlock; ++i) {
      if (errors[i] > worst.error) worst = {errors[i], x[i]};
    }
  }
}

bool report(const char* what, const Worst& worst, double bound) {
  std::printf("%s: at most %.4g (x = %.9g), bound %.4g\n", what, worst.error, worst.at, bound);
  return worst.error <= bound;
}

float value(Function function, float x) {
  float xs[kBlock], ys[kBlock];
  for (float& each : xs) each = x;
  function(xs, ys);
  return ys[0];
}

bool expect(bool condition, const char* what) {
  if (!condition) std::printf("expected %s\n", what);
  return condition;
}

// Whether both functions give the same bits on random floats in [low, high).
bool same_bits(Function function, Function other, float low, float high) {
  float x[kBlock], y[kBlock], other_y[kBlock];
  uint32_t state = 1;
  for (float& each : x) {
    state = state * 1664525u + 1013904223u;
    each = low + (high - low) * static_cast<float>(state >> 8) * 0x1p-24f;
  }
  function(x, y);
  other(x, other_y);
  return memcmp(y, other_y, sizeof(y)) == 0;
}

constexpr uint32_t kSign = 0x80000000u;
constexpr uint32_t kInfinity = 0x7f800000u;

bool test_tanh(Function tanh, uint32_t stride, double bound) {
  Worst worst;
  scan<absolute>(0, kInfinity + 1, stride, tanh, exact_tanh, worst);
  scan<absolute>(kSign, (kInfinity | kSign) + 1, stride, tanh, exact_tanh, worst);
  bool ok = report("tanh on [-inf, inf], absolute error", worst, bound);
  ok &= expect(bits_of_float(value(tanh, 0.0f)) == 0 && bits_of_float(value(tanh, -0.0f)) == kSign,
               "tanh(0) = 0 with the sign of 0");
  return ok & expect(std::isnan(value(tanh, NAN)), "tanh(NaN) = NaN");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const bool vec = std::strcmp(argv[1], "vec") == 0;
  const auto stride = static_cast<uint32_t>(std::atoi(argv[2]));
  const Function exp2 = vec ? vec_exp2 : scalar_exp2;

  Worst worst;
  scan<in_ulp>(0, bits_of_float(127.0f) + 1, stride, exp2, exact_exp2, worst);
  scan<in_ulp>(kSign, bits_of_float(-126.0f) + 1, stride, exp2, exact_exp2, worst);
  bool ok = report("exp2 on [-126, 127], error in ulp", worst, vec ? 3.2 : 0.51);
  ok &= expect(value(exp2, 0.0f) == 1 && value(exp2, -0.0f) == 1, "exp2(0) = 1");
  ok &= expect(std::isnan(value(exp2, NAN)) && std::isnan(value(exp2, -NAN)), "exp2(NaN) = NaN");
  for (const float above : {127.5f, 128.0f, 129.0f, 256.0f, 300.0f, 384.0f, 1e4f, 3e9f, 3e38f, INFINITY}) {
    ok &= expect(value(exp2, above) >= 0x1.fffff0p126f, "exp2(t) >= 2^127, rounded, for t > 127");
  }
  if (!vec) {
    Worst worst_reciprocal;
    scan<in_ulp>(bits_of_float(0.5f), bits_of_float(1) + 1, 1, scalar_reciprocal, exact_reciprocal, worst_reciprocal);
    ok &= report("reciprocal on [1/2, 1], error in ulp", worst_reciprocal, 1.1);
    ok &= test_tanh(scalar_tanh, stride, 1.2e-7);
    return ok ? 0 : 1;
  }

  for (const float below : {-126.01f, -126.25f, Vec::kLowest}) {
    ok &= expect(value(exp2, below) >= 0 && value(exp2, below) <= 0x1p-126f, "0 <= exp2(t) <= 2^-126 for t < -126");
  }
  ok &= expect(value(exp2, Vec::kLowest) == 0, "exp2(kLowest) = 0");

  Worst worst_log2;
  scan<in_ulp>(bits_of_float(0x1p-126f), bits_of_float(0x1p126f), 101 * stride, vec_log2, exact_log2, worst_log2);
  ok &= report("log2 on [2^-126, 2^126), error in ulp", worst_log2, Vec::kLanes == 16 ? 3 : 2.3);
  for (int exponent = -126; exponent <= 126; ++exponent) {
    ok &= expect(value(vec_log2, std::ldexp(1.0f, exponent)) == exponent, "log2(2^n) = n");
  }
  ok &= expect(std::isnan(value(vec_log2, NAN)), "log2(NaN) = NaN");

  ok &= expect(same_bits(vec_exp2, vec_exp2_in_range, -126, 126) &&
                   same_bits(vec_exp2, interleaved_exp2_in_range, -126, 126) &&
                   same_bits(vec_log2, interleaved_log2, 0.0625f, 16),
               "the bits of Vec from Interleaved<Vec> and from exp2_in_range");

  ok &= test_tanh(vec_tanh, 101 * stride, 1.5e-7);
  return ok ? 0 : 1;
}
