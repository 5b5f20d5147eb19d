// Row kernels of token_logprobs against literals and a plain implementation in double.
//
// Linked with the kernels of one instruction set; -DKERNELS names their table. Prints the largest errors and exits with
// 1 if one exceeds its bound.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "ops/token_logprobs/token_logprobs_kernels.h"

using namespace segkernel;

namespace {

bool passed = true;
double largest_output_error = 0;
double largest_gradient_error = 0;  // relative to the gradient, beyond the rounding to T

void expect(bool condition, const char* what) {
  if (!condition) std::printf("failed: %s\n", what);
  passed &= condition;
}

// NaN counts as infinite.
void raise(double& largest, double error) {
  if (!(error <= largest)) largest = error == error ? error : INFINITY;
}

template <class T>
const RowKernels<T>& kernels();
template <>
const RowKernels<float>& kernels<float>() {
  return KERNELS.of_float;
}
template <>
const RowKernels<bfloat16>& kernels<bfloat16>() {
  return KERNELS.of_bfloat16;
}
template <>
const RowKernels<float16>& kernels<float16>() {
  return KERNELS.of_float16;
}

template <class T>
constexpr double kHalfUlp = 0x1p-24;
template <>
constexpr double kHalfUlp<bfloat16> = 0x1p-8;
template <>
constexpr double kHalfUlp<float16> = 0x1p-11;

struct Result {
  double logprob, entropy, lse, sum_squares, mean_logit;
  int64_t argmax;
};

template <class T>
Result run(const std::vector<T>& logits, int64_t label, const LogitTransform& transform) {
  auto sums = RowSums<double>::empty();
  const auto count = static_cast<int64_t>(logits.size());
  kernels<T>().accumulate(logits.data(), count, 0, transform, Outputs::statistics, sums);
  const double label_y = y_of(&logits[label], transform, kernels<T>());
  return {logprob_of(label_y, sums.running, transform.factor), entropy_of(sums.running),
          log_sum_exp(sums.running, transform.factor),         sum_squares_of(sums.running),
          mean_logit_of(sums, transform.factor, count),        sums.totals.index};
}

// z of every logit, in double.
template <class T>
std::vector<double> transformed(const std::vector<T>& logits, double scale, double temperature, const double* softcap) {
  std::vector<double> z;
  for (const T x : logits) {
    const double scaled = scale * widen(x);
    z.push_back((softcap == nullptr ? scaled : *softcap * std::tanh(scaled / *softcap)) / temperature);
  }
  return z;
}

Result exact(const std::vector<double>& z, int64_t label) {
  double max = -INFINITY, sum = 0, entropy = 0, squares = 0, total = 0;
  for (const double each : z) max = each > max ? each : max;
  for (const double each : z) sum += std::exp(each - max);
  const double lse = max + std::log(sum);
  for (const double each : z) {
    entropy -= each == -INFINITY ? 0 : std::exp(each - lse) * (each - lse);
    squares += std::exp(2 * (each - lse));
    total += each;
  }
  const auto argmax = std::max_element(z.begin(), z.end()) - z.begin();
  return {z[label] - lse, entropy, lse, squares, total / static_cast<double>(z.size()), argmax};
}

template <class T>
void check(const std::vector<float>& values, const double* softcap, double temperature) {
  std::vector<T> logits;
  for (const float value : values) logits.push_back(narrow<T>(value));
  const auto label = static_cast<int64_t>(logits.size() / 2);
  const auto transform = LogitTransform::make<float>(1, temperature, softcap);
  const std::vector<double> z = transformed(logits, 1, temperature, softcap);
  const Result expected = exact(z, label);
  const Result actual = run(logits, label, transform);
  for (const double error : {actual.logprob - expected.logprob, actual.entropy - expected.entropy,
                             actual.lse - expected.lse, actual.sum_squares - expected.sum_squares,
                             // a mean over -inf is -inf
                             actual.mean_logit == expected.mean_logit ? 0 : actual.mean_logit - expected.mean_logit}) {
    raise(largest_output_error, std::fabs(error));
  }
  // The cap rounds, and may make the y of different logits equal.
  if (softcap == nullptr) expect(actual.argmax == expected.argmax, "index of the first of the largest logits");

  for (const double grad_entropy : {0.0, 0.3}) {
    const RowGradient gradient{0.7, grad_entropy, expected.lse, expected.entropy};
    std::vector<T> grad(logits.size());
    kernels<T>().gradient(logits.data(), grad.data(), static_cast<int64_t>(logits.size()), transform,
                          gradient.off_label(transform));
    for (size_t i = 0; i < z.size(); ++i) {
      const double y = softcap == nullptr ? 0 : std::tanh(widen(logits[i]) / *softcap);
      const double log_p = z[i] - expected.lse, p = std::exp(log_p);
      const double entropy_term = p == 0 ? 0 : grad_entropy * p * (log_p + expected.entropy);
      const double wanted = -transform.slope * (1 - y * y) * (0.7 * p + entropy_term);
      const double magnitude = transform.slope * (0.7 * p + std::fabs(entropy_term));
      const double rounding = kHalfUlp<T> * std::fabs(wanted) + 0x1p-25;  // float16 has subnormals
      const double error = (std::fabs(widen(grad[i]) - wanted) - rounding) / (magnitude + 1e-6);
      raise(largest_gradient_error, error);
    }
  }
}

// Uniform in [0, 1), by a linear congruential generator.
double uniform() {
  static uint64_t state = 1;
  state = 6364136223846793005u * state + 1442695040888963407u;
  return static_cast<double>(state >> 11) * 0x1p-53;
}

template <class T>
void check_rows() {
  constexpr double kSoftcap = 5;
  for (const int count : {1, 2, 7, 8, 15, 17, 31, 33, 257, 1000, 4099, 20011}) {
    std::vector<float> random, ascending, masked;
    for (int i = 0; i < count; ++i) {
      random.push_back(static_cast<float>(3 * (uniform() + uniform() + uniform() + uniform() - 2)));
      ascending.push_back(static_cast<float>(-40 + 65.0 * i / count));
      masked.push_back(i % 3 == 0 && i != count / 2 ? -INFINITY : random.back());
    }
    for (const std::vector<float>& row : {random, ascending, masked}) {
      check<T>(row, nullptr, 1);
      check<T>(row, nullptr, 0.7);
      check<T>(row, &kSoftcap, 1.3);
    }
  }
  // Later logits exceed the running maximum by more than the exponent range of floats.
  for (const float jump : {80.0f, 95.0f, 150.0f, 190.0f, 300.0f, 1000.0f}) {
    std::vector<float> row(8192, 0.0f);
    for (size_t i = 0; i < 4096; ++i) row[i] = -jump;
    check<T>(row, nullptr, 1);
  }
}

template <class T>
void check_literals() {
  // Probabilities 1/2, 1/4, 1/8, 1/8: log-probabilities -1, -2, -3 and entropy 1.75 in bits.
  std::vector<T> logits;
  for (const float value : {0.0f, -1.0f, -2.0f, -2.0f}) logits.push_back(narrow<T>(value));
  const auto bits = LogitTransform::make<float>(kLn2, 1, nullptr);
  const double log_probs[] = {-0.6931471805599453, -1.3862943611198906, -2.0794415416798357, -2.0794415416798357};
  for (int label = 0; label < 4; ++label) {
    const Result result = run(logits, label, bits);
    expect(std::fabs(result.logprob - log_probs[label]) < 2e-7, "log-probabilities of 1/2, 1/4, 1/8, 1/8");
    expect(std::fabs(result.entropy - 1.2130075659799042) < 2e-7, "entropy of 1.75 bits");
  }
  // d logprob / d z = [label] - p, off the label: -p.
  const double lse = 0.6931471805599453;
  T grad[4];
  kernels<T>().gradient(logits.data(), grad, 4, bits, RowGradient{1 / kLn2, 0, lse, 0}.off_label(bits));
  for (int i = 0; i < 4; ++i) {
    const float p[] = {0.5f, 0.25f, 0.125f, 0.125f};
    expect(std::fabs(widen(grad[i]) + p[i]) <= p[i] * (2e-7 + kHalfUlp<T>), "gradient -p");
  }
  // NaN and infinity reach the results.
  logits[2] = narrow<T>(NAN);
  expect(std::isnan(run(logits, 0, bits).logprob), "NaN among the logits");
  logits[2] = narrow<T>(INFINITY);
  expect(std::isnan(run(logits, 0, bits).logprob), "infinity among the logits");
}

}  // namespace

int main() {
  check_literals<float>();
  check_literals<bfloat16>();
  check_literals<float16>();
  check_rows<float>();
  check_rows<bfloat16>();
  check_rows<float16>();
  std::printf("outputs: absolute error at most %.4g, bound 2e-5\n", largest_output_error);
  std::printf("gradients: relative error at most %.4g, bound 1e-5\n", largest_gradient_error);
  return passed && largest_output_error <= 2e-5 && largest_gradient_error <= 1e-5 ? 0 : 1;
}
