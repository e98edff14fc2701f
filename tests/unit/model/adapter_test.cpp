// What an adapter applies to, adapter_config.json, and first values.
#include "sft/model/adapter.h"

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "model/layout.h"
#include "model/lora.h"
#include "model/lora_random.h"
#include "sft/base/error.h"

namespace sft::model {
namespace adapter_test {

AdapterSpec targeting(std::vector<std::string> modules) {
  AdapterSpec adapter;
  adapter.target_modules = std::move(modules);
  return adapter;
}

std::string error_of(const std::string& json) {
  try {
    adapter_from_json(json, "adapter_config.json");
  } catch (const base::Error& error) {
    EXPECT_EQ(error.code(), base::ExitCode::kInvalidData);
    return error.what();
  }
  return "";
}

DecoderSpec llama_spec() {
  return spec_from_config_json(
      R"({"model_type": "llama", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
          "num_attention_heads": 2, "tie_word_embeddings": true})",
      "config.json");
}

std::vector<std::string> trainable(const Decoder& decoder) {
  std::vector<std::string> names;
  for (int64_t b = 0; b < decoder.num_blocks(); ++b) {
    for (const TensorDef& def : decoder.block_tensors(b)) {
      if (def.trainable) names.push_back(def.name);
    }
  }
  return names;
}

TEST(AdapterSpec, TargetsByTheEndOfTheName) {
  const AdapterSpec adapter = targeting({"q_proj", "mlp.c_proj"});
  EXPECT_TRUE(adapter.targets("model.layers.0.self_attn.q_proj"));
  EXPECT_TRUE(adapter.targets("q_proj"));
  EXPECT_FALSE(adapter.targets("model.layers.0.self_attn.eq_proj"));
  EXPECT_TRUE(adapter.targets("transformer.h.3.mlp.c_proj"));
  EXPECT_FALSE(adapter.targets("transformer.h.3.attn.c_proj"));
}

TEST(AdapterSpec, TargetsByARegularExpressionOverTheWholeName) {
  AdapterSpec adapter;
  adapter.target_pattern = R"(.*\.[01]\..*(q|v)_proj)";
  EXPECT_TRUE(adapter.targets("model.layers.1.self_attn.v_proj"));
  EXPECT_FALSE(adapter.targets("model.layers.2.self_attn.v_proj"));
  EXPECT_FALSE(adapter.targets("model.layers.1.self_attn.v_proj.x"));
}

TEST(AdapterSpec, SavesModulesAndWhatLiesInThem) {
  AdapterSpec adapter;
  adapter.modules_to_save = {"embed_tokens", "1.mlp"};
  EXPECT_TRUE(adapter.saves("model.embed_tokens"));
  EXPECT_TRUE(adapter.saves("model.layers.1.mlp.gate_proj"));
  EXPECT_FALSE(adapter.saves("model.layers.0.mlp.gate_proj"));
}

TEST(AdapterSpec, ScaleIsAlphaOverRankOrItsRoot) {
  AdapterSpec adapter;
  adapter.r = 16;
  adapter.lora_alpha = 32;
  EXPECT_EQ(adapter.scale(), 2.0);
  adapter.use_rslora = true;
  EXPECT_EQ(adapter.scale(), 8.0);
}

TEST(AdapterSpec, DefaultsAreThoseOfPeft) {
  EXPECT_EQ(default_target_modules("llama"), (std::vector<std::string>{"q_proj", "v_proj"}));
  EXPECT_EQ(default_target_modules("gpt2"), std::vector<std::string>{"c_attn"});
  EXPECT_TRUE(default_target_modules("no-such-model").empty());
}

TEST(AdapterConfig, ComesBackAsItWasWritten) {
  AdapterSpec adapter = targeting({"q_proj"});
  adapter.r = 3;
  adapter.lora_alpha = 7.5;
  adapter.lora_dropout = 0.25;
  adapter.use_rslora = adapter.use_dora = true;
  adapter.modules_to_save = {"lm_head"};
  const std::string text = adapter_to_json(adapter, adapter.target_modules, llama_spec(), "some/model");
  const AdapterSpec back = adapter_from_json(text, "adapter_config.json");
  EXPECT_EQ(back.r, 3);
  EXPECT_EQ(back.lora_alpha, 7.5);
  EXPECT_EQ(back.lora_dropout, 0.25);
  EXPECT_TRUE(back.use_rslora && back.use_dora);
  EXPECT_EQ(back.target_modules, adapter.target_modules);
  EXPECT_EQ(back.modules_to_save, adapter.modules_to_save);
  const auto json = nlohmann::ordered_json::parse(text);
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  EXPECT_TRUE(std::ranges::is_sorted(keys));
  EXPECT_EQ(json["base_model_name_or_path"], "some/model");
  EXPECT_EQ(json["fan_in_fan_out"], false);
}

TEST(AdapterConfig, WhatWouldChangeTheResultIsRefusedByName) {
  EXPECT_EQ(error_of(R"({"peft_type": "LORA", "bias": "none", "rank_pattern": {}, "lora_bias": false})"), "");
  for (const auto& [json, key] : std::vector<std::pair<std::string, std::string>>{
           {R"({"peft_type": "LORA", "rank_pattern": {"q_proj": 4}})", "rank_pattern"},
           {R"({"peft_type": "LORA", "layers_to_transform": [1]})", "layers_to_transform"},
           {R"({"peft_type": "LORA", "bias": "all"})", "bias"},
           {R"({"peft_type": "LORA", "trainable_token_indices": [5]})", "trainable_token_indices"},
           {R"({"peft_type": "IA3"})", "peft_type"},
           {R"({"peft_type": "LORA", "init_lora_weights": "pissa"})", "init_lora_weights"},
           {R"({"peft_type": "LORA", "r": 0})", "r = 0"},
           {R"({"peft_type": "LORA", "r": "four"})", "r"},
           {R"({"peft_type": "LORA", "target_modules": "(q_proj"})", "target_modules"}}) {
    EXPECT_NE(error_of(json).find(key), std::string::npos) << json << ": " << error_of(json);
  }
}

TEST(AdaptedDecoder, OnlyAdaptersAndSavedModulesAreTrainable) {
  AdapterSpec adapter = targeting({"v_proj"});
  adapter.modules_to_save = {"model.norm"};
  const auto decoder = Decoder::create(llama_spec(), &adapter);
  EXPECT_EQ(trainable(*decoder),
            (std::vector<std::string>{"base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight",
                                      "base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight",
                                      "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight",
                                      "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight",
                                      "base_model.model.model.norm.weight"}));
}

TEST(AdaptedDecoder, AllLinearLeavesOutEmbeddingsAndHead) {
  AdapterSpec adapter;
  adapter.all_linear = true;
  const auto decoder = Decoder::create(llama_spec(), &adapter);
  EXPECT_EQ(decoder->adapted_modules(), (std::vector<std::string>{"down_proj", "gate_proj", "k_proj",
                                                                  "o_proj", "q_proj", "up_proj", "v_proj"}));
  EXPECT_EQ(trainable(*decoder).size(), 2U * 2U * 7U);
}

TEST(AdaptedDecoder, EachAdapterDrawsItsOwnDropout) {
  const auto sites = [](const DecoderSpec& spec) {
    AdapterSpec adapter;
    adapter.all_linear = true;
    const auto family = std::ranges::find(all_families(), spec.model_type, &Family::model_type);
    std::map<int32_t, int> count;
    const std::vector<BlockLayout> layouts = make_layouts(spec, **family, &adapter);
    for (const auto& [role, place] : layouts[1].adapters) ++count[place.dropout_site];
    return count;
  };
  const DecoderSpec gpt2 = spec_from_config_json(
      R"({"model_type": "gpt2", "vocab_size": 40, "n_embd": 16, "n_head": 2, "n_layer": 1, "n_positions": 32})", "config.json");
  EXPECT_EQ(sites(gpt2).size(), 4U);  // c_attn, attn.c_proj, c_fc, mlp.c_proj
  EXPECT_EQ(sites(llama_spec()).size(), 7U);
}

TEST(AdaptedDecoder, TargetsThatCannotBeAdaptedAreNamed) {
  for (const auto& [target, expected] :
       std::vector<std::pair<std::string, std::string>>{{"c_attn", "q_proj, k_proj"},
                                                        {"embed_tokens", "lora_modules_to_save"},
                                                        {"input_layernorm", "lora_modules_to_save"}}) {
    const AdapterSpec adapter = targeting({target});
    try {
      Decoder::create(llama_spec(), &adapter);
      ADD_FAILURE() << target << " was taken";
    } catch (const base::Error& error) {
      EXPECT_EQ(error.code(), base::ExitCode::kConfig);
      EXPECT_NE(std::string(error.what()).find(expected), std::string::npos) << error.what();
    }
  }
}

TEST(AdaptedDecoder, OfAMixtureOnlyTheAttentionIsAdapted) {
  const DecoderSpec spec = spec_from_config_json(
      R"({"model_type": "qwen2_moe", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
          "num_key_value_heads": 2, "num_experts": 3, "num_experts_per_tok": 2, "mlp_only_layers": [0]})",
      "config.json");
  AdapterSpec attention = targeting({"q_proj", "o_proj"});
  attention.modules_to_save = {"model.norm"};
  EXPECT_EQ(Decoder::create(spec, &attention)->adapted_modules(),
            (std::vector<std::string>{"o_proj", "q_proj"}));
  const auto expect_refused = [&](const AdapterSpec& adapter, const std::string& module) {
    try {
      Decoder::create(spec, &adapter);
      ADD_FAILURE() << module << " was taken";
    } catch (const base::Error& error) {
      EXPECT_EQ(error.code(), base::ExitCode::kConfig);
      for (const std::string& part :
           {module, std::string("lora_target_modules = q_proj, k_proj, v_proj, o_proj")})
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  expect_refused(targeting({"gate_proj"}), "layers.0.mlp.gate_proj");
  expect_refused(targeting({"experts.1.up_proj"}), "layers.1.mlp.experts.1.up_proj");
  expect_refused(targeting({"shared_expert.down_proj"}), "layers.1.mlp.shared_expert.down_proj");
  expect_refused(targeting({"mlp.gate"}), "layers.1.mlp.gate");
  AdapterSpec all = targeting({});
  all.all_linear = true;
  expect_refused(all, "layers.0.mlp.gate_proj");
  attention.modules_to_save = {"mlp.gate"};
  expect_refused(attention, "lora_modules_to_save takes in model.layers.1.mlp.gate");
}

TEST(AdaptedDecoder, WhatATiedHeadAndAMisspeltNameWouldDropIsRefused) {
  DecoderSpec spec = llama_spec();
  spec.tie_word_embeddings = true;
  const auto error_with = [&](const AdapterSpec& adapter) -> std::string {
    try {
      Decoder::create(spec, &adapter);
    } catch (const base::Error& error) {
      EXPECT_EQ(error.code(), base::ExitCode::kConfig);
      return error.what();
    }
    return "";
  };
  AdapterSpec adapter = targeting({"q_proj", "lm_head"});
  EXPECT_NE(error_with(adapter).find("lora_target_modules names lm_head"), std::string::npos) << error_with(adapter);
  adapter.modules_to_save = {"lm_head"};  // a matrix of its own, saved as a whole
  EXPECT_EQ(error_with(adapter), "");
  AdapterSpec all = targeting({});
  all.all_linear = true;
  EXPECT_EQ(error_with(all), "");
  all.modules_to_save = {"lm_haed"};
  EXPECT_NE(error_with(all).find("lora_modules_to_save names lm_haed"), std::string::npos) << error_with(all);
}

struct Moments {
  double mean, deviation, largest;
};
Moments moments(const at::Tensor& t) {
  return {t.mean().item<double>(), t.std().item<double>(), t.abs().max().item<double>()};
}

// 4 standard errors: a fixed seed, so either always right or always wrong.
TEST(AdapterInit, FollowsPeftsDistributions) {
  Lora lora;
  lora.a = at::zeros({32, 400});
  lora.b = at::zeros({300, 32});
  lora.name_a = "a";
  lora.name_b = "b";
  const double count = 32.0 * 400.0, bound = 1 / std::sqrt(400.0);

  lora_initialize(lora, AdapterInit::kKaiming, 42);
  const Moments uniform = moments(lora.a);
  EXPECT_NEAR(uniform.mean, 0, 4 * bound / std::sqrt(3 * count));
  EXPECT_NEAR(uniform.deviation, bound / std::sqrt(3), 0.02 * bound);
  EXPECT_LE(uniform.largest, bound);
  EXPECT_GE(uniform.largest, 0.99 * bound);
  EXPECT_EQ(lora.b.abs().sum().item<double>(), 0);

  lora_initialize(lora, AdapterInit::kGaussian, 42);
  const Moments normal = moments(lora.a);
  EXPECT_NEAR(normal.mean, 0, 4 / 32.0 / std::sqrt(count));
  EXPECT_NEAR(normal.deviation, 1 / 32.0, 4 / 32.0 / std::sqrt(2 * count));
  EXPECT_GE(normal.largest, 3.0 / 32);
  EXPECT_EQ(lora.b.abs().sum().item<double>(), 0);

  lora_initialize(lora, AdapterInit::kRandom, 42);
  EXPECT_NEAR(moments(lora.b).deviation, 1 / std::sqrt(3.0 * 32.0), 0.02 / std::sqrt(32.0));
}

TEST(AdapterInit, DependsOnSeedAndNameOnly) {
  const auto values = [](const char* name, uint64_t seed) {
    const at::Tensor t = at::zeros({5, 7});
    fill_uniform(t, 1.0, name, seed);
    return t;
  };
  EXPECT_TRUE(values("x", 1).equal(values("x", 1)));
  EXPECT_FALSE(values("x", 1).equal(values("x", 2)));
  EXPECT_FALSE(values("x", 1).equal(values("y", 1)));
}

}  // namespace adapter_test
}  // namespace sft::model
