// Granite: Llama with multipliers on embeddings, scores, what sublayers add, and logits; with dense MLPs or a
// mixture of experts.
#include "model/families/family.h"

namespace sft::model {
namespace {

constexpr std::array kMixtureNames = {
    RoleName{Role::kRouter, "model.layers.{}.block_sparse_moe.router.layer"},
    RoleName{Role::kStackedGateUp, "model.layers.{}.block_sparse_moe.input_linear"},
    RoleName{Role::kStackedDown, "model.layers.{}.block_sparse_moe.output_linear"},
};

DecoderSpec read_granite(const ConfigReader& config) {
  DecoderSpec spec = read_llama(config);
  spec.embedding_scale = config.positive_number("embedding_multiplier", 1.0);
  spec.attention_scale = config.positive_number("attention_multiplier", 1.0);
  spec.residual_multiplier = config.positive_number("residual_multiplier", 1.0);
  spec.logit_scale = 1.0 / config.positive_number("logits_scaling", 1.0);
  return spec;
}

DecoderSpec read_granitemoe(const ConfigReader& config) {
  DecoderSpec spec = read_granite(config);
  read_mixture(config, spec, {.num_experts = 8, .num_experts_per_tok = 2});
  // The softmax is that of the chosen experts' logits: the same as of all, brought to a sum of 1.
  spec.mixture->norm_topk_prob = true;
  spec.mixture->stacked_experts = true;
  return spec;
}

}  // namespace

const Family& granite_family() {
  static const Family kFamily{"granite", "model.", &read_granite, llama_names()};
  return kFamily;
}

const Family& granitemoe_family() {
  static const std::vector<RoleName> kNames = llama_names_with(kMixtureNames);
  static const Family kFamily{"granitemoe", "model.", &read_granitemoe, kNames};
  return kFamily;
}

}  // namespace sft::model
