// config.json -> DecoderSpec: values, defaults and refusals; tensor names; where a model folder is found.
#include "sft/model/spec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "sft/base/error.h"
#include "sft/model/decoder.h"
#include "support/temp_dir.h"

namespace sft::model {
namespace spec_test {

using base::Error;
using base::ExitCode;
using nlohmann::json;

DecoderSpec parse(const json& config) {
  return spec_from_config_json(config.dump(), "dir/config.json");
}

json llama(const json& changes = json::object()) {
  json config = {{"model_type", "llama"},   {"vocab_size", 64},       {"hidden_size", 32},
                 {"intermediate_size", 48}, {"num_hidden_layers", 2}, {"num_attention_heads", 4},
                 {"num_key_value_heads", 2}};
  config.update(changes);
  return config;
}
json opt(const json& changes = json::object()) {
  json config = {
      {"model_type", "opt"}, {"hidden_size", 32}, {"num_attention_heads", 4}, {"num_hidden_layers", 2}};
  config.update(changes);
  return config;
}
json gpt2(const json& changes = json::object()) {
  json config = {{"model_type", "gpt2"}, {"n_embd", 32}, {"n_head", 4}, {"n_layer", 2}};
  config.update(changes);
  return config;
}

void expect_refused(const json& config, const std::vector<std::string>& parts) {
  try {
    parse(config);
    FAIL() << "accepted: " << config;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kInvalidData);
    for (const std::string& part : parts) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
          << part << " not in: " << error.what();
    }
    EXPECT_NE(std::string(error.what()).find("dir/config.json"), std::string::npos) << error.what();
  }
}

// As transformers' configuration classes document them.
TEST(Spec, DefaultsAreThoseOfTransformers) {
  const DecoderSpec l = parse({{"model_type", "llama"}});
  EXPECT_EQ(std::tuple(l.vocab_size, l.hidden_size, l.intermediate_size, l.num_hidden_layers,
                       l.num_attention_heads, l.num_key_value_heads, l.head_dim, l.max_position_embeddings),
            std::tuple(32000, 4096, 11008, 32, 32, 32, 128, 2048));
  EXPECT_EQ(l.norm_eps, 1e-6);
  EXPECT_EQ(l.ropes.at(0).theta, 10000.0);
  EXPECT_FALSE(l.tie_word_embeddings || l.attention_bias || l.mlp_bias || l.padding_idx);
  const DecoderSpec o = parse({{"model_type", "opt"}});
  EXPECT_EQ(std::tuple(o.vocab_size, o.hidden_size, o.embedding_size, o.intermediate_size,
                       o.max_position_embeddings),
            std::tuple(50272, 768, 768, 3072, 2048));
  EXPECT_EQ(o.residual_dropout, 0.1);
  EXPECT_EQ(o.padding_idx, 1);
  EXPECT_TRUE(o.tie_word_embeddings);
  const DecoderSpec g = parse({{"model_type", "gpt2"}});
  EXPECT_EQ(std::tuple(g.vocab_size, g.hidden_size, g.intermediate_size, g.max_position_embeddings),
            std::tuple(50257, 768, 3072, 1024));
  EXPECT_EQ(std::tuple(g.embedding_dropout, g.residual_dropout, g.attention_dropout),
            std::tuple(0.1, 0.1, 0.1));
  EXPECT_TRUE(g.tie_word_embeddings && g.hf_counts_first_label && !g.padding_idx);
}

TEST(Spec, RopeOfOldAndNewFiles) {
  EXPECT_EQ(parse(llama({{"rope_theta", 5e5}, {"rope_scaling", nullptr}})).ropes.at(0).theta, 5e5);
  const DecoderSpec parameters =
      parse(llama({{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e5}}}}));
  EXPECT_EQ(parameters.ropes.at(0).theta, 1e5);
  EXPECT_EQ(parameters.ropes.at(0).scaling, RopeScaling::kNone);
  const DecoderSpec linear =
      parse(llama({{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}, {"rope_theta", 2e4}}));
  EXPECT_EQ(linear.ropes.at(0).scaling, RopeScaling::kLinear);
  EXPECT_EQ(std::pair(linear.ropes.at(0).factor, linear.ropes.at(0).theta), std::pair(2.0, 2e4));
  const DecoderSpec scaled = parse(llama({{"rope_scaling",
                                           {{"rope_type", "llama3"},
                                            {"factor", 32.0},
                                            {"low_freq_factor", 1.0},
                                            {"high_freq_factor", 4.0},
                                            {"original_max_position_embeddings", 8192}}}}));
  EXPECT_EQ(scaled.ropes.at(0).scaling, RopeScaling::kLlama3);
  EXPECT_EQ(scaled.ropes.at(0).original_max_position_embeddings, 8192);
}

TEST(Spec, PaddingIndex) {
  EXPECT_EQ(parse(llama({{"pad_token_id", 3}})).padding_idx, 3);
  EXPECT_EQ(parse(llama({{"pad_token_id", -1}})).padding_idx, 63);
  EXPECT_EQ(parse(llama({{"pad_token_id", nullptr}})).padding_idx, std::nullopt);
  EXPECT_EQ(parse(opt({{"pad_token_id", nullptr}})).padding_idx, std::nullopt);
  EXPECT_EQ(parse(gpt2({{"pad_token_id", 3}})).padding_idx, std::nullopt);
}

TEST(Spec, RefusesWhatItCannotRun) {
  expect_refused(json::array(), {"JSON object"});
  expect_refused({{"model_type", "mamba"}},
                 {"model_type", "mamba", "gpt2, gpt_neox, gptj, granite, granitemoe, llama, mistral"});
  expect_refused(json::object(),
                 {"model_type", "missing", "gpt2, gpt_neox, gptj, granite, granitemoe, llama, mistral"});
  expect_refused(llama({{"hidden_act", "mish"}}), {"hidden_act", "mish", "silu"});
  expect_refused(llama({{"hidden_size", "32"}}), {"hidden_size", "\"32\"", "whole number"});
  expect_refused(llama({{"hidden_size", 0}}), {"hidden_size", "0"});
  expect_refused(llama({{"hidden_size", 3.5}}), {"hidden_size", "3.5"});
  expect_refused(llama({{"vocab_size", 5000000000}}), {"vocab_size", "5000000000"});
  expect_refused(llama({{"hidden_size", 34}}), {"hidden_size = 34", "num_attention_heads = 4"});
  expect_refused(llama({{"num_key_value_heads", 3}}), {"num_attention_heads = 4", "num_key_value_heads = 3"});
  expect_refused(llama({{"head_dim", 7}}), {"head_dim", "7", "even"});
  expect_refused(llama({{"pad_token_id", 64}}), {"pad_token_id", "64"});
  expect_refused(llama({{"attention_dropout", 1.0}}), {"attention_dropout", "1.0"});
  expect_refused(llama({{"tie_word_embeddings", 1}}), {"tie_word_embeddings", "true or false"});
  expect_refused(llama({{"rms_norm_eps", 0.0}}), {"rms_norm_eps", "0.0"});
  expect_refused(llama({{"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}}),
                 {"rope_scaling.type", "dynamic", "llama3, yarn, longrope"});
  expect_refused(llama({{"rope_scaling", {{"rope_type", "linear"}}}}), {"rope_scaling.factor", "missing"});
  expect_refused(llama({{"rope_scaling", "linear"}}), {"rope_scaling", "JSON object"});
  expect_refused(llama({{"partial_rotary_factor", 0.5}}), {"partial_rotary_factor", "0.5"});
  expect_refused(llama({{"quantization_config", {{"bits", 4}}}}), {"quantization_config"});
  expect_refused(opt({{"layerdrop", 0.1}}), {"layerdrop", "0.1"});
  expect_refused(opt({{"dropout", -0.1}}), {"dropout", "-0.1"});
  expect_refused(gpt2({{"scale_attn_by_inverse_layer_idx", true}}),
                 {"scale_attn_by_inverse_layer_idx", "true"});
  expect_refused(gpt2({{"reorder_and_upcast_attn", true}}), {"reorder_and_upcast_attn"});
  expect_refused(gpt2({{"add_cross_attention", true}}), {"add_cross_attention"});
}

json of_type(const char* model_type, const json& changes = json::object()) {
  json config = llama(changes);
  config["model_type"] = model_type;
  return config;
}

TEST(Spec, RefusesWhatAFamilyCannotRun) {
  expect_refused(of_type("gemma2", {{"use_bidirectional_attention", true}}), {"use_bidirectional_attention"});
  expect_refused(of_type("gemma3_text", {{"attn_logit_softcapping", 50.0}}),
                 {"attn_logit_softcapping", "null"});
  expect_refused(of_type("gemma3", json::object()), {"model_type", "gemma3_text"});
  expect_refused(of_type("olmo", {{"clip_qkv", 8.0}}), {"clip_qkv", "8.0"});
  expect_refused(of_type("phi", {{"qk_layernorm", true}}), {"qk_layernorm"});
  expect_refused(of_type("stablelm", {{"hidden_dropout", 0.1}}), {"hidden_dropout", "0.1"});
  expect_refused(of_type("falcon", {{"alibi", true}}), {"alibi"});
  expect_refused(of_type("falcon", {{"parallel_attn", false}}), {"parallel_attn"});
  expect_refused(of_type("phi", {{"partial_rotary_factor", 0.4}}), {"partial_rotary_factor", "head_dim = 8"});
  expect_refused(of_type("qwen3", {{"layer_types", {"full_attention"}}}),
                 {"layer_types", "num_hidden_layers"});
  expect_refused(of_type("qwen3", {{"layer_types", {"full_attention", "linear_attention"}}}),
                 {"layer_types", "full_attention, sliding_attention"});
  expect_refused(of_type("qwen3", {{"layer_types", {"full_attention", "sliding_attention"}},
                                   {"sliding_window", nullptr}}),
                 {"sliding_window", "window"});
  expect_refused(of_type("smollm3", {{"no_rope_layers", {1}}}), {"no_rope_layers"});
  expect_refused(of_type("mixtral", {{"router_jitter_noise", 0.1}}), {"router_jitter_noise", "0.1"});
  expect_refused(of_type("mixtral", {{"num_local_experts", 2}, {"num_experts_per_tok", 3}}),
                 {"num_experts_per_tok", "3", "at most 2"});
  expect_refused(of_type("qwen3_moe", {{"router_aux_loss_coef", -1}}), {"router_aux_loss_coef", "-1"});
  expect_refused(of_type("olmoe", {{"clip_qkv", 8.0}}), {"clip_qkv", "8.0"});
  expect_refused(of_type("gptj", {{"rotary_dim", nullptr}}), {"rotary_dim"});
  expect_refused(of_type("bloom", {{"apply_residual_connection_post_layernorm", true}}),
                 {"apply_residual_connection_post_layernorm"});
}

TEST(Spec, LayersDiffer) {
  const DecoderSpec gemma = parse(of_type(
      "gemma3_text", {{"num_hidden_layers", 3}, {"sliding_window_pattern", 3}, {"sliding_window", 5}}));
  EXPECT_EQ(gemma.layers[0].sliding_window, 5);
  EXPECT_EQ(gemma.layers[0].rope, 1);
  EXPECT_EQ(gemma.layers[2].sliding_window, std::nullopt);
  EXPECT_EQ(gemma.layers[2].rope, 0);
  const DecoderSpec smol = parse(of_type("smollm3", {{"num_hidden_layers", 4}, {"pad_token_id", 0}}));
  EXPECT_TRUE(smol.layers[2].rope.has_value());
  EXPECT_FALSE(smol.layers[3].rope.has_value());
}

std::vector<bool> layers_with_experts(const DecoderSpec& spec) {
  std::vector<bool> layers;
  for (const LayerSpec& layer : spec.layers) layers.push_back(layer.has_experts);
  return layers;
}

// As transformers' configuration classes document them, and the layers that its decoder layers choose.
TEST(Spec, MixturesOfExperts) {
  const DecoderSpec mixtral = parse({{"model_type", "mixtral"}, {"num_hidden_layers", 2}});
  EXPECT_EQ(std::tuple(mixtral.mixture->num_experts, mixtral.mixture->num_experts_per_tok,
                       mixtral.mixture->expert_size),
            std::tuple(8, 2, 14336));
  EXPECT_EQ(std::pair(mixtral.ropes.at(0).theta, mixtral.norm_eps), std::pair(1e6, 1e-5));
  EXPECT_TRUE(mixtral.mixture->norm_topk_prob && !mixtral.mixture->stacked_experts);
  EXPECT_EQ(mixtral.mixture->router_aux_loss_coef, 0.001);
  EXPECT_EQ(layers_with_experts(mixtral), std::vector<bool>(2, true));

  const DecoderSpec qwen2 =
      parse({{"model_type", "qwen2_moe"}, {"num_hidden_layers", 4}, {"mlp_only_layers", {0, 2}}});
  EXPECT_EQ(std::tuple(qwen2.mixture->num_experts, qwen2.mixture->num_experts_per_tok,
                       qwen2.mixture->expert_size, qwen2.mixture->shared_expert_size),
            std::tuple(60, 4, 1408, 5632));
  EXPECT_EQ(layers_with_experts(qwen2), (std::vector<bool>{false, true, false, true}));
  EXPECT_TRUE(qwen2.attention_bias && !qwen2.attention_out_bias && !qwen2.mixture->norm_topk_prob);

  const DecoderSpec qwen3 = parse({{"model_type", "qwen3_moe"},
                                   {"num_hidden_layers", 4},
                                   {"decoder_sparse_step", 3},
                                   {"norm_topk_prob", true}});
  EXPECT_EQ(std::tuple(qwen3.mixture->num_experts, qwen3.mixture->num_experts_per_tok,
                       qwen3.mixture->expert_size, qwen3.mixture->shared_expert_size),
            std::tuple(128, 8, 768, 0));
  EXPECT_EQ(layers_with_experts(qwen3), (std::vector<bool>{false, false, true, false}));
  EXPECT_TRUE(qwen3.mixture->norm_topk_prob);
  const DecoderSpec dense =
      parse({{"model_type", "qwen3_moe"}, {"num_hidden_layers", 2}, {"decoder_sparse_step", 3}});
  EXPECT_FALSE(dense.mixture.has_value());

  const DecoderSpec olmoe = parse({{"model_type", "olmoe"}, {"num_local_experts", 12}});
  EXPECT_EQ(std::tuple(olmoe.mixture->num_experts, olmoe.mixture->num_experts_per_tok,
                       olmoe.mixture->router_aux_loss_coef),
            std::tuple(12, 8, 0.01));
  const DecoderSpec granite = parse({{"model_type", "granitemoe"}});
  EXPECT_TRUE(granite.mixture->norm_topk_prob && granite.mixture->stacked_experts);
}

json longrope(const json& short_factor) {
  return of_type("phi3",
                 {{"pad_token_id", 0},
                  {"max_position_embeddings", 64},
                  {"original_max_position_embeddings", 16},
                  {"rope_scaling",
                   {{"type", "longrope"}, {"short_factor", short_factor}, {"long_factor", {1, 2, 3, 4}}}}});
}

TEST(Spec, LongRopeRunsRowsWithinTheOriginalPositions) {
  const DecoderSpec spec = parse(longrope({1.0, 1.5, 2.0, 4.0}));
  EXPECT_EQ(spec.longest_row, 16);
  EXPECT_NEAR(spec.ropes.at(0).attention_factor, std::sqrt(1.0 + std::log(4.0) / std::log(16.0)), 1e-15);
  expect_refused(longrope({1.0}), {"short_factor", "4 frequencies"});
}

TEST(Spec, MistralWithLayerTypesHasWindowsInSomeLayers) {
  const auto windows = [](json changes) {
    json config = llama({{"model_type", "mistral"}, {"num_hidden_layers", 2}, {"sliding_window", 8}});
    config.update(changes);
    std::vector<std::optional<int64_t>> result;
    for (const LayerSpec& layer : parse(config).layers) result.push_back(layer.sliding_window);
    return result;
  };
  using Windows = std::vector<std::optional<int64_t>>;
  EXPECT_EQ(windows(json::object()), (Windows{8, 8}));
  EXPECT_EQ(windows({{"layer_types", nullptr}}), (Windows{8, 8}));
  EXPECT_EQ(windows({{"layer_types", {"full_attention", "sliding_attention"}}}), (Windows{std::nullopt, 8}));
}

TEST(Spec, RefusesKeysThatChangeResultsOfEveryFamily) {
  expect_refused(llama({{"is_causal", false}}), {"is_causal"});
  expect_refused(llama({{"per_layer_config", {{"0", json::object()}}}}), {"per_layer_config"});
  expect_refused(llama({{"transformers_weights", "other.safetensors"}}), {"transformers_weights"});
  parse(llama({{"is_causal", true}, {"per_layer_config", nullptr}, {"transformers_weights", nullptr}}));
}

TEST(Decoder, TakesNamesOfCheckpointsOfTheBareModel) {
  const auto first = [](const json& config, int64_t block) {
    return Decoder::create(parse(config))->block_tensors(block).front();
  };
  EXPECT_EQ(first(gpt2(), 1).name, "transformer.h.0.attn.c_attn.weight");
  EXPECT_EQ(first(gpt2(), 1).aliases, std::vector<std::string>{"h.0.attn.c_attn.weight"});
  EXPECT_EQ(first(opt(), 0).aliases, (std::vector<std::string>{"decoder.embed_tokens.weight", "lm_head.weight"})) << "it is tied";
  EXPECT_EQ(first(llama(), 2).aliases, std::vector<std::string>{"layers.1.self_attn.q_proj.weight"});
  EXPECT_TRUE(first(llama(), 3).aliases.empty()) << "lm_head has no prefix";
}

TEST(Decoder, RefusesRowsBeyondLearnedPositions) {
  const auto decoder = Decoder::create(parse(gpt2({{"n_positions", 8}})));
  const auto batch_of = [](int64_t length) {
    data::TokenRow row;
    row.input_ids.assign(static_cast<std::size_t>(length), 1);
    row.labels = row.input_ids;
    return data::pack({row});
  };
  EXPECT_EQ(decoder->make_inputs(batch_of(8), at::kCPU).position_ids.numel(), 8);
  EXPECT_THROW(Decoder::create(parse(longrope({1, 1, 1, 1})))->make_inputs(batch_of(17), at::kCPU), Error);
  EXPECT_THROW(decoder->make_inputs(batch_of(9), at::kCPU), Error);
}

class HubCache : public testing::Test {
 protected:
  void SetUp() override { setenv("HF_HUB_CACHE", folder_.path().c_str(), 1); }
  void TearDown() override { unsetenv("HF_HUB_CACHE"); }
  void add(const std::string& relative, const std::string& text) {
    std::filesystem::create_directories((folder_ / relative).parent_path());
    sft::test::write_file(folder_ / relative, text);
  }
  void expect_refused(const std::string& name, const std::string& part) {
    try {
      resolve_model_dir(name);
      FAIL() << "found " << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kInvalidData);
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }
  const sft::test::TempDir folder_;
};

TEST_F(HubCache, FollowsTheMainReference) {
  add("models--org--name/refs/main", "0123abc\n");
  add("models--org--name/snapshots/0123abc/config.json", "{}");
  EXPECT_EQ(resolve_model_dir("org/name"), folder_ / "models--org--name/snapshots/0123abc");
}

// An environment variable for as long as this lives.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    setenv(name, value, 1);
  }
  ~Variable() {
    if (before_) {
      setenv(name_, before_->c_str(), 1);
    } else {
      unsetenv(name_);
    }
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

TEST_F(HubCache, IsWhereHuggingfaceHubFindsIt) {
  add("hub/models--org--name/refs/main", "0123abc\n");
  add("hub/models--org--name/snapshots/0123abc/config.json", "{}");
  const std::filesystem::path model = folder_ / "hub/models--org--name/snapshots/0123abc";
  const Variable home("HOME", folder_.path().c_str());
  for (const char* value : {"~/hub", "$HOME/hub", "${HOME}/hub"}) {
    const Variable older("HUGGINGFACE_HUB_CACHE", value);
    {
      const Variable newer("HF_HUB_CACHE", "");
      EXPECT_EQ(resolve_model_dir("org/name"), model) << value;
    }
    const Variable newer("HF_HUB_CACHE", value);
    const Variable hidden("HUGGINGFACE_HUB_CACHE", "/nowhere");
    EXPECT_EQ(resolve_model_dir("org/name"), model) << value;
  }
  const Variable older("HUGGINGFACE_HUB_CACHE", "");
  {
    const Variable newer("HF_HUB_CACHE", "");
    const Variable hub_home("HF_HOME", "~");
    EXPECT_EQ(resolve_model_dir("org/name"), model);
  }
  const Variable newer("HF_HUB_CACHE", "$SFT_NO_SUCH_VARIABLE/a$/~/${HOME");
  expect_refused("org/name", "($SFT_NO_SUCH_VARIABLE/a$/~/${HOME)");
}

TEST_F(HubCache, TakesFolders) {
  add("model/config.json", "{}");
  EXPECT_EQ(resolve_model_dir((folder_ / "model").string()), folder_ / "model");
  std::filesystem::create_directories(folder_ / "empty");
  expect_refused((folder_ / "empty").string(), "no config.json");
}

TEST_F(HubCache, ATokenizerNeedsNoConfig) {
  add("tokenizer/tokenizer.json", "{}");
  EXPECT_EQ(resolve_tokenizer_dir((folder_ / "tokenizer").string()), folder_ / "tokenizer");
  add("models--org--tokens/refs/main", "0123abc\n");
  add("models--org--tokens/snapshots/0123abc/tokenizer.json", "{}");
  EXPECT_EQ(resolve_tokenizer_dir("org/tokens"), folder_ / "models--org--tokens/snapshots/0123abc");
  try {
    resolve_tokenizer_dir("org/absent");
    ADD_FAILURE() << "found a tokenizer that is not there";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).rfind("tokenizer_name_or_path = org/absent: neither a folder", 0), 0u) << error.what();
  }
}

TEST_F(HubCache, SaysWhatIsMissing) {
  expect_refused("org/absent", "sft-prepare");
  expect_refused("../escape", "neither a folder");
  expect_refused("", "neither a folder");
  add("models--org--half/refs/main", "0123abc");
  expect_refused("org/half", "no config.json");
  add("models--org--evil/refs/main", "../../elsewhere");
  expect_refused("org/evil", "not a commit id");
}

}  // namespace spec_test
}  // namespace sft::model
