#include "adapter_setup.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "sft/base/error.h"
#include "sft/base/file.h"
#include "sft/base/hash.h"
#include "sft/base/json.h"
#include "sft/base/log.h"
#include "sft/engine/flat_io.h"

namespace sft::train {
namespace {

using base::ExitCode;
using base::fail;
using nlohmann::json;
namespace fs = std::filesystem;

std::vector<std::string> target_modules(const config::AdapterOptions& options,
                                        const model::DecoderSpec& model) {
  if (!options.lora_target_modules.empty()) return names_in(options.lora_target_modules);
  std::vector<std::string> targets = model::default_target_modules(model.model_type);
  if (targets.empty())
    fail(ExitCode::kConfig,
         "PEFT has no default lora_target_modules for model_type {}: name them, or lora_target_modules = "
         "all-linear",
         model.model_type);
  return targets;
}

model::AdapterInit init_named(const std::string& name) {
  if (name == "gaussian") return model::AdapterInit::kGaussian;
  return name == "false" ? model::AdapterInit::kRandom : model::AdapterInit::kKaiming;
}

constexpr int64_t kStretches = 16, kStretchElements = 64;

void hash_samples(base::Xxh3& hash, const model::TensorSource& weights, const std::string& name,
                  int64_t numel) {
  const int64_t length = std::min(kStretchElements, numel);
  const int64_t stretches = std::min(kStretches, numel / std::max<int64_t>(1, length));
  const at::Tensor values = at::empty({length}, at::TensorOptions(at::kFloat));
  for (int64_t i = 0; i < stretches; ++i) {
    const int64_t begin = stretches == 1 ? 0 : (numel - length) / (stretches - 1) * i;
    weights.read(name, begin, begin + length, values);
    hash.update({static_cast<const std::byte*>(values.const_data_ptr()), values.nbytes()});
  }
}

}  // namespace

std::vector<std::string> names_in(const std::string& text) {
  std::vector<std::string> names;
  std::istringstream words(text);
  for (std::string word; std::getline(words, word, ',');) {
    const auto first = word.find_first_not_of(' '), last = word.find_last_not_of(' ');
    if (first != std::string::npos) names.push_back(word.substr(first, last - first + 1));
  }
  return names;
}

std::optional<AdapterPlan> plan_adapter(const config::AdapterOptions& options,
                                        const model::DecoderSpec& model) {
  if (!options.use_peft) return std::nullopt;
  AdapterPlan plan;
  if (!options.adapter_name_or_path.empty()) {
    plan.start_from = options.adapter_name_or_path;
    const fs::path file = plan.start_from / model::kAdapterConfigFile;
    if (!fs::exists(file))
      fail(ExitCode::kConfig, "adapter_name_or_path = {} holds no {}", options.adapter_name_or_path,
           model::kAdapterConfigFile);
    model::check_links(plan.start_from);
    plan.spec = model::adapter_from_json(base::read_text(file), file.string());
    return plan;
  }
  plan.init = init_named(options.init_lora_weights);
  plan.spec.r = options.lora_r;
  plan.spec.lora_alpha = options.lora_alpha;
  plan.spec.lora_dropout = options.lora_dropout;
  plan.spec.use_rslora = options.use_rslora;
  plan.spec.use_dora = options.use_dora;
  plan.spec.modules_to_save = names_in(options.lora_modules_to_save);
  plan.spec.target_modules = target_modules(options, model);
  plan.spec.all_linear = plan.spec.target_modules == std::vector<std::string>{"all-linear"};
  return plan;
}

std::string adapter_config(const AdapterPlan& plan, const model::Decoder& decoder,
                           const std::string& model_name_or_path) {
  const bool is_folder = fs::is_directory(model_name_or_path);
  const std::string base =
      is_folder ? fs::absolute(model_name_or_path).lexically_normal().string() : model_name_or_path;
  return model::adapter_to_json(plan.spec,
                                plan.spec.all_linear ? decoder.adapted_modules() : plan.spec.target_modules,
                                decoder.spec(), base);
}

std::string adapter_identity(const AdapterPlan& plan, const config::AdapterOptions& options,
                             const std::string& config_json, const model::Decoder& decoder,
                             const model::TensorSource& weights) {
  json adapter;
  adapter["r"] = plan.spec.r;
  adapter["lora_alpha"] = plan.spec.lora_alpha;
  adapter["lora_dropout"] = plan.spec.lora_dropout;
  adapter["use_rslora"] = plan.spec.use_rslora;
  adapter["use_dora"] = plan.spec.use_dora;
  adapter["targets"] = decoder.adapted_modules();
  adapter["modules_to_save"] = plan.spec.modules_to_save;
  adapter["base_dtype"] = options.base_dtype;
  adapter["load_in_4bit"] = options.load_in_4bit;
  adapter["use_bnb_nested_quant"] = options.use_bnb_nested_quant;

  json config = base::parse_json(config_json, "config.json");
  for (const char* key : {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"})
    config.erase(key);
  base::Xxh3 hash;
  for (int64_t block = 0; block < decoder.num_blocks(); ++block) {
    for (const model::TensorDef& tensor : decoder.block_tensors(block)) {
      if (tensor.adapter != model::AdapterPart::kNone) continue;
      hash_samples(hash, weights, engine::name_in_source(tensor, weights, ""), tensor.numel());
    }
  }
  return json{{"adapter", adapter},
              {"base_config_xxh3", base::xxh3_hex(config.dump())},
              {"base_weights_xxh3", hash.hex()}}
      .dump();
}

}  // namespace sft::train
