// One adapted linear: what its low-rank adapter adds to the product, and its backward (contracts:
// sft/model/adapter.h).
#pragma once

#include "model/layout.h"
#include "sft/model/decoder.h"
#include "sft/ops/ops.h"

namespace sft::model {

// Where a linear is run: what its adapter's dropout depends on.
struct LinearRun {
  int64_t layer = 0;  // as in dropout sites
  const DecoderInputs& in;
  const RunMode& mode;
  at::Tensor rows = {};  // which tokens x consists of; undefined: all, in order
};

// y [T, out] holds W x + b and becomes the adapted output.
void lora_forward(const Lora& lora, const at::Tensor& x, const at::Tensor& y, const LinearRun& run);
// Adds the gradients of A, B and the magnitude, and to grad_x [T, in] what reaches x through the adapter.
void lora_backward(const Lora& lora, const at::Tensor& grad_y, const at::Tensor& x, const at::Tensor& grad_x,
                   const LinearRun& run);

// First values. A function of seed and of the tensors' names alone.
void lora_initialize(const Lora& lora, AdapterInit init, uint64_t seed);
// W becomes the weight that gives the adapted output by itself.
void lora_merge(const Lora& lora);

}  // namespace sft::model
