// A mixture of experts: a router, the experts' MLPs on the tokens it gives them, and an expert for all tokens
// where there is one.
#pragma once

#include <vector>

#include "model/layout.h"
#include "model/lora.h"
#include "model/mlp.h"
#include "sft/model/decoder.h"

namespace sft::model {

// Local. Lives for one call.
class Mixture {
 public:
  Mixture(const DecoderSpec& spec, const BlockView& block, const LinearRun& run)
      : spec_(spec), mixture_(*spec.mixture), block_(block), run_(run) {}

  // [T, hidden_size] -> the same. Adds to `routers` unless null; saved null: nothing is kept.
  at::Tensor forward(const at::Tensor& h, RouterSums* routers, std::vector<at::Tensor>* saved) const;
  // Empties `saved`. router_grad as in Decoder::layer_backward.
  at::Tensor backward(const at::Tensor& grad, const at::Tensor& h, const at::Tensor& router_grad,
                      std::vector<at::Tensor>& saved) const;

 private:
  // Which tokens go to which expert.
  struct Routing {
    at::Tensor experts;          // int64 [T, k]
    at::Tensor chosen, weights;  // [T, k]: probabilities of these experts, and what their results count
    at::Tensor order;            // int64 [T * k]: places in `experts`, by expert, then by token
    std::vector<int64_t> ends;   // [E]: into `order`
  };
  // The part of one expert.
  struct Part {
    at::Tensor places, tokens;  // int64 [n]
    at::Tensor share;           // [n, 1]
  };
  Routing route(const at::Tensor& probabilities) const;
  Part part_of(const Routing& routing, int64_t expert) const;
  void count(const at::Tensor& probabilities, const Routing& routing, RouterSums& routers) const;
  at::Tensor router_backward(const at::Tensor& grad_weights, const at::Tensor& h, const Routing& routing,
                             const at::Tensor& probabilities, const at::Tensor& router_grad) const;
  at::Tensor switched(const at::Tensor& h) const;
  at::Tensor shared_backward(const at::Tensor& grad, const at::Tensor& h, const at::Tensor& share,
                             const at::Tensor& up) const;

  Mlp expert(int64_t number) const;
  Mlp shared_expert() const { return {block_, kSharedMlp, spec_.activation, run_}; }
  bool has_shared_expert() const { return mixture_.shared_expert_size > 0; }

  const DecoderSpec& spec_;
  const MixtureSpec& mixture_;
  const BlockView& block_;
  const LinearRun& run_;
};

}  // namespace sft::model
