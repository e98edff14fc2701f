// Softmax of attention scores and its backward, a query at a time.
#pragma once

#include <cstdint>

namespace sft::ops::cpu {

// The scores that a query sees, of `padded` ones.
struct VisibleKeys {
  int64_t begin, end;
};

// What the softmax is of: scale * score; softcap * tanh(scale * score / softcap) where there is one; and of
// ALiBi slope * (key - query) added, the query being the last key that it sees.
struct ScoreRule {
  float scale;
  float softcap = 0.0F;  // 0: none
  float slope = 0.0F;
  bool only_scales() const { return softcap == 0.0F && slope == 0.0F; }
};

// scores <- softmax of the visible scores, zeros elsewhere. Returns the log of the sum of their exponentials.
float softmax_row(float* scores, const ScoreRule& rule, VisibleKeys visible, int64_t padded);

// scores <- probabilities, from the row's logsumexp; grad <- gradient of the scores as they were, from that
// of the probabilities. delta: dot product of the row's output and its gradient.
void softmax_backward_row(float* scores, float* grad, const ScoreRule& rule, float logsumexp, float delta,
                          VisibleKeys visible, int64_t padded);

// x <- x * by, where visible.
void multiply_row(float* x, const float* by, VisibleKeys visible);

float dot(const float* a, const float* b, int64_t n);
// The same of bf16 values.
float dot_bf16(const uint16_t* a, const uint16_t* b, int64_t n);

// y <- x, rounded to bf16
void round_to_bf16(const float* x, uint16_t* y, int64_t n);
// y[i] <- x[i] in the low half, next[i] in the high half, rounded to bf16
void round_to_pairs(const float* x, const float* next, uint32_t* y, int64_t n);

}  // namespace sft::ops::cpu
