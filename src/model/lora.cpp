#include "model/lora.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>

#include <cmath>

#include "model/lora_random.h"

namespace sft::model {
namespace {

ops::LinearWeights plain(const at::Tensor& weight) {
  return {weight, {}, false};
}

// W + s B A, as [out, in].
at::Tensor merged(const Lora& lora) {
  const at::Tensor& weight = lora.base.weight;
  const at::Tensor w = (lora.base.transposed ? weight.t() : weight).to(lora.a.scalar_type());
  return w + at::mm(lora.b, lora.a).mul_(lora.scale);
}
at::Tensor row_norms(const at::Tensor& weight) {
  return at::linalg_vector_norm(weight, 2, at::IntArrayRef{1});
}

// dropout(t), of the input in the forward and of its gradient in the backward.
class Dropout {
 public:
  Dropout(const Lora& lora, const LinearRun& run)
      : site_{.probability = run.mode.training ? lora.dropout : 0.0,
              .seed = run.mode.seed,
              .layer = static_cast<int32_t>(run.layer),
              .site = lora.site,
              .cu_seqlens = run.in.cu_seqlens,
              .rows = run.in.dropout_rows},
        run_(run) {}
  bool active() const { return site_.probability > 0; }
  at::Tensor operator()(const at::Tensor& t) const {
    if (!active() || !run_.rows.defined()) return ops::dropout_apply(t, site_);
    const at::Tensor all = at::ones({run_.in.input_ids.size(0), t.size(1)}, t.options());
    return t * ops::dropout_apply(all, site_).index_select(0, run_.rows);
  }

 private:
  ops::DropoutSite site_;
  const LinearRun& run_;
};

}  // namespace

void lora_forward(const Lora& lora, const at::Tensor& x, const at::Tensor& y, const LinearRun& run) {
  const ops::ComputeDtype compute = run.mode.compute;
  const Dropout dropout(lora, run);
  const at::Tensor dropped = dropout(x);
  const at::Tensor low = ops::linear_forward(dropped, plain(lora.a), compute).mul_(lora.scale);
  const at::Tensor delta = ops::linear_forward(low, plain(lora.b), compute);
  if (!lora.magnitude.defined()) {
    y.add_(delta);
    return;
  }
  const at::Tensor gain = lora.magnitude / row_norms(merged(lora));
  at::Tensor product;  // W dropout(x)
  if (dropout.active()) {
    product = ops::linear_forward(dropped, {lora.base.weight, {}, lora.base.transposed}, compute);
  } else {
    product = lora.base.bias.defined() ? y - lora.base.bias : y.clone();
  }
  y.add_(product.mul_(gain - 1)).add_(delta.mul_(gain));
}

void lora_backward(const Lora& lora, const at::Tensor& grad_y, const at::Tensor& x, const at::Tensor& grad_x,
                   const LinearRun& run) {
  const ops::ComputeDtype compute = run.mode.compute;
  const Dropout dropout(lora, run);
  const at::Tensor dropped = dropout(x);
  const at::Tensor low = ops::linear_forward(dropped, plain(lora.a), compute).mul_(lora.scale);
  at::Tensor grad_delta = grad_y, through_base;
  if (lora.magnitude.defined()) {
    const ops::LinearWeights base{lora.base.weight, {}, lora.base.transposed};
    const at::Tensor norms = row_norms(merged(lora)), gain = lora.magnitude / norms;
    const at::Tensor direction =
        ops::linear_forward(dropped, base, compute).add_(ops::linear_forward(low, plain(lora.b), compute));
    lora.grad_magnitude.add_((grad_y * direction).sum(0).div_(norms));
    through_base = ops::linear_backward(grad_y * (gain - 1), dropped, base, {}, compute);
    grad_delta = grad_y * gain;
  }
  const at::Tensor grad_low =
      ops::linear_backward(grad_delta, low, plain(lora.b), {lora.grad_b, {}}, compute).mul_(lora.scale);
  at::Tensor grad = ops::linear_backward(grad_low, dropped, plain(lora.a), {lora.grad_a, {}}, compute);
  if (through_base.defined()) grad.add_(through_base);
  grad_x.add_(dropout(grad));
}

void lora_initialize(const Lora& lora, AdapterInit init, uint64_t seed) {
  const auto reach = [](const at::Tensor& t) { return 1.0 / std::sqrt(static_cast<double>(t.size(1))); };
  if (init == AdapterInit::kGaussian) {
    fill_normal(lora.a, 1.0 / static_cast<double>(lora.a.size(0)), lora.name_a, seed);
  } else {
    fill_uniform(lora.a, reach(lora.a), lora.name_a, seed);
  }
  if (init == AdapterInit::kRandom) {
    fill_uniform(lora.b, reach(lora.b), lora.name_b, seed);
  } else {
    lora.b.zero_();
  }
  if (lora.magnitude.defined()) lora.magnitude.copy_(row_norms(merged(lora)));
}

void lora_merge(const Lora& lora) {
  at::Tensor weight = merged(lora);
  if (lora.magnitude.defined()) weight.mul_((lora.magnitude / row_norms(weight)).unsqueeze(1));
  lora.base.weight.copy_(lora.base.transposed ? weight.t() : weight);
}

}  // namespace sft::model
