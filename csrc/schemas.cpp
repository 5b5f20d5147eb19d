// Every operator's schema: the table of contents. Implementations register themselves at the end of their files.
//
// A parameter that is either a scalar or one value per row is a pair: `float low, Tensor? row_low` ([B], wins when
// given). `reduce` and `how` are enum values: see segkernel/_enums.py.
#include "torch/registration.h"

STABLE_TORCH_LIBRARY(segkernel, library) {
  library.def(
      "detect_pivots(Tensor rewards, Tensor? mask, float threshold, Tensor? row_threshold, Tensor? cu_seqlens)"
      " -> Tensor");
  library.def(
      "hysteresis(Tensor rewards, Tensor? mask, float low, Tensor? row_low, float high, Tensor? row_high,"
      " int initial, Tensor? row_initial, bool hold, Tensor? cu_seqlens) -> Tensor");
  library.def(
      "segment(Tensor rewards, Tensor? mask, float? pivot_threshold, Tensor? row_pivot_threshold,"
      " float baseline, Tensor? row_baseline, float? delta, Tensor? row_delta, bool hold, int initial,"
      " Tensor? row_initial, int reduce, float? sequence_sign, Tensor? row_sequence_sign, bool keep_neutral,"
      " Tensor? cu_seqlens)"
      " -> (Tensor ids, Tensor counts, Tensor lengths, Tensor rewards, Tensor signs, Tensor mask)");
  library.def(
      "segment_by_entropy(Tensor entropy, Tensor? mask, float threshold, Tensor? row_threshold, int min_length,"
      " Tensor? cu_seqlens) -> (Tensor ids, Tensor counts)");
  library.def("segment_by_mask(Tensor mask, Tensor? cu_seqlens) -> (Tensor ids, Tensor counts)");
  library.def(
      "select_tokens(Tensor values, Tensor? mask, float? fraction, Tensor? row_fraction, SymInt? count,"
      " Tensor? row_count, bool largest, bool whole_batch, bool round_up, Tensor? cu_seqlens) -> Tensor");
  library.def(
      "redistribute(Tensor prefix_scores, Tensor? mask, float initial, Tensor? row_initial,"
      " Tensor? sequence_rewards, float mix, Tensor? row_mix, Tensor? cu_seqlens) -> Tensor");
  library.def(
      "gae(Tensor rewards, Tensor values, Tensor? mask, float gamma, Tensor? row_gamma, float lam, Tensor? row_lam,"
      " float value_lam, Tensor? row_value_lam, bool holes_are_steps, Tensor? cu_seqlens)"
      " -> (Tensor advantages, Tensor returns)");
  library.def(
      "discounted_sum(Tensor values, Tensor? mask, float discount, Tensor? row_discount, bool adjoint,"
      " Tensor? cu_seqlens) -> Tensor");
  library.def(
      "group_normalize(Tensor values, Tensor counts, Tensor group, bool per_segment, bool scale, float eps) -> Tensor");
  library.def(
      "segment_reduce(Tensor values, Tensor ids, SymInt num_segments, int reduce, Tensor? cu_seqlens) -> Tensor");
  library.def("segment_broadcast(Tensor values, Tensor ids, int how, Tensor? cu_seqlens) -> Tensor");
  library.def(
      "token_logprobs(Tensor logits, Tensor labels, Tensor? mask, Tensor? token_temperature, float logit_scale,"
      " float temperature, float? softcap, int outputs, bool inplace_backward)"
      " -> (Tensor logprobs, Tensor entropy, Tensor lse, Tensor sum_squares, Tensor mean_logit, Tensor is_argmax)");
  library.def(
      "token_logprobs_backward(Tensor? grad_logprobs, Tensor? grad_entropy, Tensor logits, Tensor labels,"
      " Tensor? mask, Tensor? token_temperature, Tensor entropy, Tensor lse, float logit_scale, float temperature,"
      " float? softcap) -> Tensor");
  library.def(
      "token_logprobs_backward_(Tensor? grad_logprobs, Tensor? grad_entropy, Tensor(a!) logits, Tensor labels,"
      " Tensor? mask, Tensor? token_temperature, Tensor entropy, Tensor lse, float logit_scale, float temperature,"
      " float? softcap) -> ()");
  library.def(
      "token_divergences(Tensor logits, Tensor other_logits, Tensor? labels, Tensor? mask, Tensor? token_temperature,"
      " int kind, float beta, float logit_scale, float temperature, float? softcap, bool inplace_backward)"
      " -> (Tensor divergence, Tensor entropy, Tensor other_entropy, Tensor logprobs, Tensor other_logprobs,"
      " Tensor state)");
  library.def(
      "token_divergences_backward(Tensor? grad_divergence, Tensor? grad_entropy, Tensor? grad_logprobs, Tensor logits,"
      " Tensor other_logits, Tensor? labels, Tensor? mask, Tensor? token_temperature, Tensor state, int kind,"
      " float beta, float logit_scale, float temperature, float? softcap) -> Tensor");
  library.def(
      "token_divergences_backward_(Tensor? grad_divergence, Tensor? grad_entropy, Tensor? grad_logprobs,"
      " Tensor(a!) logits, Tensor other_logits, Tensor? labels, Tensor? mask, Tensor? token_temperature, Tensor state,"
      " int kind, float beta, float logit_scale, float temperature, float? softcap) -> ()");
  // linear_token_logprobs is written in Python around matrix products; the operators with an underscore are its steps.
  library.def(
      "linear_token_logprobs(Tensor hidden, Tensor weight, Tensor? bias, Tensor labels, Tensor? mask,"
      " Tensor? token_temperature, float logit_scale, float temperature, float? softcap, int outputs,"
      " int compute_dtype)"
      " -> (Tensor logprobs, Tensor entropy, Tensor lse, Tensor sum_squares, Tensor mean_logit, Tensor is_argmax)");
  library.def(
      "linear_token_logprobs_backward(Tensor? grad_logprobs, Tensor? grad_entropy, Tensor hidden, Tensor weight,"
      " Tensor? bias, Tensor labels, Tensor? mask, Tensor? token_temperature, Tensor entropy, Tensor lse,"
      " float logit_scale, float temperature, float? softcap, int compute_dtype, bool hidden_needed,"
      " bool weight_needed, bool bias_needed)"
      " -> (Tensor grad_hidden, Tensor grad_weight, Tensor grad_bias)");
  library.def(
      "_linear_token_logprobs_valid(Tensor labels, Tensor? mask, Tensor? token_temperature, int dims, int vocabulary)"
      " -> Tensor");
  library.def(
      "_linear_token_logprobs_fold_(Tensor(a!) sums, Tensor(b!) label_y, Tensor tile, Tensor labels, int first,"
      " Tensor? token_temperature, float logit_scale, float temperature, float? softcap, int outputs) -> ()");
  library.def(
      "_linear_token_logprobs_finish(Tensor sums, Tensor label_y, Tensor labels, Tensor like, int vocabulary,"
      " Tensor? token_temperature, float logit_scale, float temperature, float? softcap)"
      " -> (Tensor logprobs, Tensor entropy, Tensor lse, Tensor sum_squares, Tensor mean_logit, Tensor is_argmax)");
  library.def(
      "_linear_token_logprobs_gradient_(Tensor(a!) tile, Tensor labels, int first, Tensor? grad_logprobs,"
      " Tensor? grad_entropy, Tensor entropy, Tensor lse, Tensor? token_temperature, float logit_scale,"
      " float temperature, float? softcap) -> ()");
  library.def("cpu_isa() -> str");
}
