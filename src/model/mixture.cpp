// Sums are deterministic: an expert has a token once, and experts add to the result one after the other.
#include "model/mixture.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <tuple>
#include <utility>

namespace sft::model {
namespace {

// Places in what is saved; the experts' follow.
enum Slot : std::size_t { kProbabilities, kSharedShare, kSharedUp, kFirstExpertUp };

}  // namespace

at::Tensor RouterSums::loss() const {
  if (rows == 0) return at::zeros({}, at::TensorOptions().dtype(at::kDouble));
  const double factor = static_cast<double>(chosen.size(0)) / static_cast<double>(rows);
  return (chosen * probability).sum() * (factor / static_cast<double>(rows));
}

at::Tensor RouterSums::gradient() const {
  const double factor = static_cast<double>(chosen.size(0)) / static_cast<double>(rows);
  return chosen * (factor / static_cast<double>(rows));
}

at::Tensor Mixture::forward(const at::Tensor& h, RouterSums* routers, std::vector<at::Tensor>* saved) const {
  const at::Tensor logits =
      ops::linear_forward(h, {block_.weight(Role::kRouter), {}, false}, run_.mode.compute);
  const at::Tensor probabilities = at::softmax(logits, 1);
  const Routing routing = route(probabilities);
  if (routers != nullptr) count(probabilities, routing, *routers);

  std::vector<at::Tensor> kept(kFirstExpertUp + static_cast<std::size_t>(mixture_.num_experts));
  at::Tensor y;
  if (has_shared_expert()) {
    kept[kSharedShare] = switched(h);
    y = shared_expert().forward(h, kept[kSharedShare], kept[kSharedUp]);
  } else {
    y = at::zeros_like(h);
  }
  for (int64_t e = 0; e < mixture_.num_experts; ++e) {
    const Part part = part_of(routing, e);
    if (part.tokens.size(0) == 0) continue;
    at::Tensor& up = kept[kFirstExpertUp + static_cast<std::size_t>(e)];
    y.index_add_(0, part.tokens, expert(e).forward(h.index_select(0, part.tokens), part.share, up));
    if (saved == nullptr) up.reset();
  }
  if (saved != nullptr) {
    kept[kProbabilities] = probabilities;
    *saved = std::move(kept);
  }
  return y;
}

at::Tensor Mixture::backward(const at::Tensor& grad, const at::Tensor& h, const at::Tensor& router_grad,
                             std::vector<at::Tensor>& saved) const {
  const at::Tensor probabilities = saved[kProbabilities];
  const Routing routing = route(probabilities);
  const at::Tensor grad_weights = at::zeros_like(routing.weights).view({-1, 1});
  const at::Tensor grad_h = has_shared_expert()
                                ? shared_backward(grad, h, saved[kSharedShare], saved[kSharedUp])
                                : at::zeros_like(h);
  for (int64_t e = 0; e < mixture_.num_experts; ++e) {
    const Part part = part_of(routing, e);
    if (part.tokens.size(0) == 0) continue;
    const at::Tensor up = std::exchange(saved[kFirstExpertUp + static_cast<std::size_t>(e)], at::Tensor());
    const Mlp::Grads grads =
        expert(e).backward(grad.index_select(0, part.tokens), h.index_select(0, part.tokens), part.share, up);
    grad_h.index_add_(0, part.tokens, grads.x);
    grad_weights.index_copy_(0, part.places, grads.share);
  }
  saved.clear();
  return grad_h.add_(
      router_backward(grad_weights.view_as(routing.weights), h, routing, probabilities, router_grad));
}

Mlp Mixture::expert(int64_t number) const {
  return {block_.expert(static_cast<int>(number)), mixture_.stacked_experts ? kStackedExpertMlp : kExpertMlp,
          spec_.activation, run_};
}

Mixture::Routing Mixture::route(const at::Tensor& probabilities) const {
  Routing routing;
  std::tie(routing.chosen, routing.experts) = at::topk(probabilities, mixture_.num_experts_per_tok, 1);
  routing.weights =
      mixture_.norm_topk_prob ? routing.chosen / routing.chosen.sum(1, /*keepdim=*/true) : routing.chosen;
  const at::Tensor flat = routing.experts.flatten();
  routing.order = std::get<1>(at::sort(flat, /*stable=*/true, /*dim=*/0, /*descending=*/false));
  const at::Tensor ends = at::bincount(flat, {}, mixture_.num_experts).cumsum(0).to(at::kCPU);
  routing.ends.assign(ends.const_data_ptr<int64_t>(), ends.const_data_ptr<int64_t>() + ends.size(0));
  return routing;
}

Mixture::Part Mixture::part_of(const Routing& routing, int64_t expert) const {
  const int64_t begin = expert == 0 ? 0 : routing.ends[static_cast<std::size_t>(expert - 1)];
  Part part;
  part.places = routing.order.narrow(0, begin, routing.ends[static_cast<std::size_t>(expert)] - begin);
  part.tokens = part.places.div(mixture_.num_experts_per_tok, "floor");
  part.share = routing.weights.flatten().index_select(0, part.places).unsqueeze(1);
  return part;
}

void Mixture::count(const at::Tensor& probabilities, const Routing& routing, RouterSums& routers) const {
  const at::Tensor chosen = at::bincount(routing.experts.flatten(), {}, mixture_.num_experts).to(at::kDouble);
  const at::Tensor sums = probabilities.sum(at::IntArrayRef{0}, /*keepdim=*/false, at::kDouble);
  routers.chosen = routers.chosen.defined() ? routers.chosen + chosen : chosen;
  routers.probability = routers.probability.defined() ? routers.probability + sums : sums;
  routers.rows += probabilities.size(0);
}

at::Tensor Mixture::router_backward(const at::Tensor& grad_weights, const at::Tensor& h,
                                    const Routing& routing, const at::Tensor& probabilities,
                                    const at::Tensor& router_grad) const {
  at::Tensor grad_chosen = grad_weights;
  if (mixture_.norm_topk_prob) {
    const at::Tensor along = (grad_weights * routing.weights).sum(1, /*keepdim=*/true);
    grad_chosen = (grad_weights - along) / routing.chosen.sum(1, /*keepdim=*/true);
  }
  at::Tensor grad = at::zeros_like(probabilities).scatter_(1, routing.experts, grad_chosen);
  if (router_grad.defined()) grad.add_(router_grad.to(grad.scalar_type()));
  const at::Tensor along = (grad * probabilities).sum(1, /*keepdim=*/true);
  const at::Tensor grad_logits = (grad - along).mul_(probabilities);
  return ops::linear_backward(grad_logits, h, {block_.weight(Role::kRouter), {}, false},
                              {block_.grad(Role::kRouter), {}}, run_.mode.compute);
}

// [T, 1]: what the shared expert's result counts.
at::Tensor Mixture::switched(const at::Tensor& h) const {
  return at::sigmoid(FusedLinear(block_, {Role::kSharedSwitch}).forward(h, run_));
}

at::Tensor Mixture::shared_backward(const at::Tensor& grad, const at::Tensor& h, const at::Tensor& share,
                                    const at::Tensor& up) const {
  const Mlp::Grads grads = shared_expert().backward(grad, h, share, up);
  const at::Tensor grad_logit = grads.share * share * (1 - share);
  return FusedLinear(block_, {Role::kSharedSwitch}).backward(grad_logit, h, run_).add_(grads.x);
}

}  // namespace sft::model
