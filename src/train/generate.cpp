#include "sft/train/generate.h"

#include <ATen/ops/argmax.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "loaded_model.h"
#include "sft/base/error.h"
#include "sft/base/file.h"
#include "sft/base/json.h"

namespace sft::train {
namespace {

// eos_token_id of generation_config.json, else of config.json: a number or a list.
std::vector<int64_t> eos_ids(const std::filesystem::path& model_dir) {
  for (const char* name : {"generation_config.json", "config.json"}) {
    if (!std::filesystem::exists(model_dir / name)) continue;
    const nlohmann::json config =
        base::parse_json(base::read_text(model_dir / name), (model_dir / name).string());
    const nlohmann::json eos = config.value("eos_token_id", nlohmann::json());
    if (eos.is_number_integer()) return {eos.get<int64_t>()};
    if (eos.is_array()) return eos.get<std::vector<int64_t>>();
  }
  return {};
}

data::MicroBatch one_row(const std::vector<int64_t>& ids) {
  data::TokenRow row;
  for (const int64_t id : ids) row.input_ids.push_back(static_cast<int32_t>(id));
  row.labels = row.input_ids;
  return data::pack({row});
}

}  // namespace

std::vector<int64_t> generate_greedily(const std::filesystem::path& model_dir, std::vector<int64_t> prompt,
                                       int64_t max_new_tokens, parallel::Communicator& comm) {
  const LoadedModel loaded = load_model(model_dir, comm);
  const model::DecoderSpec& spec = loaded.decoder->spec();
  const int64_t vocab_size = spec.vocab_size;
  for (const int64_t id : prompt) {
    if (id < 0 || id >= vocab_size)
      base::fail(base::ExitCode::kConfig, "token id {} is outside the model's vocabulary of {}", id,
                 vocab_size);
  }
  std::vector<int64_t> stops = eos_ids(model_dir);  // an adapter may have been trained with another one than its base model
  if (stops.empty()) stops = eos_ids(loaded.model_dir);
  const int64_t longest = spec.longest_row.value_or(spec.max_position_embeddings);
  std::vector<int64_t> generated;
  while (static_cast<int64_t>(generated.size()) < max_new_tokens &&
         static_cast<int64_t>(prompt.size()) < longest) {
    const int64_t next = loaded.engine->logits(one_row(prompt))[-1].argmax().item<int64_t>();
    if (std::find(stops.begin(), stops.end(), next) != stops.end()) break;
    prompt.push_back(next);
    generated.push_back(next);
  }
  return generated;
}

}  // namespace sft::train
