#include "sft/train/export.h"

#include <map>
#include <nlohmann/json.hpp>

#include "loaded_model.h"
#include "sft/base/error.h"
#include "sft/base/file.h"
#include "sft/base/json.h"
#include "sft/checkpoint/checkpoint.h"
#include "tokenizer_files.h"

namespace sft::train {
namespace {

namespace fs = std::filesystem;
using base::ExitCode;
using base::fail;

// The model's tensors under the names of a model without adapters.
std::vector<checkpoint::TensorSlice> model_tensors(const engine::Engine& engine) {
  std::map<std::string, at::Tensor> by_name;
  for (const auto* blocks : {&engine.frozen_blocks(), &engine.blocks()}) {
    for (const engine::ParameterBlock& block : *blocks) {
      for (std::size_t i = 0; i < block.tensors().size(); ++i)
        by_name[block.tensors()[i].name] =
            block.parameters().narrow(0, block.placement(i).offset, block.placement(i).numel);
    }
  }
  std::vector<checkpoint::TensorSlice> slices;
  for (int64_t b = 0; b < engine.decoder().num_blocks(); ++b) {
    for (const model::TensorDef& tensor : engine.decoder().block_tensors(b)) {
      if (tensor.adapter != model::AdapterPart::kNone) continue;
      slices.push_back({tensor.model_name, tensor.shape, 0, tensor.numel(), by_name.at(tensor.name)});
    }
  }
  return slices;
}

// Tokenizer files come from beside the adapter, where training put them, else from the base model.
std::vector<checkpoint::SideFile> side_files(const LoadedModel& loaded, const fs::path& adapter_dir) {
  std::map<std::string, std::string> files;
  for (const fs::path& folder : {loaded.model_dir, adapter_dir}) {
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
      const std::string name = entry.path().filename().string(),
                        extension = entry.path().extension().string();
      const bool belongs_to_model =
          extension == ".json" || extension == ".txt" || extension == ".model" || extension == ".jinja";
      const bool replaced = name == "config.json" || name == "goodput.json" || name == model::kAdapterConfigFile ||
                            !checkpoint::can_be_side_file(name) || name.ends_with(".index.json");
      if (belongs_to_model && !replaced && fs::is_regular_file(entry.path()))
        files[name] = base::read_text(entry.path(), kMaxTokenizerBytes);
    }
  }
  const bool beside_adapter = fs::exists(adapter_dir / "tokenizer_config.json");
  for (checkpoint::SideFile& file : named_chat_templates(beside_adapter ? adapter_dir : loaded.model_dir))
    files[file.name] = std::move(file.bytes);
  nlohmann::json config = base::parse_json(loaded.config_json, (loaded.model_dir / "config.json").string());
  config.erase("torch_dtype");
  config["dtype"] = "float32";
  config["tie_word_embeddings"] = loaded.decoder->spec().tie_word_embeddings;
  const fs::path generation = adapter_dir / "generation_config.json";
  if (fs::exists(generation)) {  // the tokens that training chose
    const nlohmann::json chosen = base::parse_json(base::read_text(generation), generation.string());
    for (const char* key : {"eos_token_id", "pad_token_id"}) {
      if (chosen.is_object() && chosen.contains(key)) config[key] = chosen[key];
    }
  }
  files["config.json"] = config.dump(2) + "\n";
  std::vector<checkpoint::SideFile> result;
  for (auto& [name, bytes] : files) result.push_back({name, std::move(bytes)});
  return result;
}

}  // namespace

void export_merged(const fs::path& adapter_dir, const fs::path& output, parallel::Communicator& comm) {
  if (!model::is_adapter_dir(adapter_dir))
    fail(ExitCode::kConfig, "export --merge {}: the folder holds no {}", adapter_dir.string(),
         model::kAdapterConfigFile);
  const auto store = checkpoint::Store::open({.output_dir = output, .save_total_limit = std::nullopt}, comm);
  if (store->has_results())
    fail(ExitCode::kConfig, "export --merge: {} holds a model already; choose another folder",
         output.string());
  const LoadedModel loaded = load_model(adapter_dir, comm);
  loaded.engine->merge_adapters();
  checkpoint::Contents contents;
  contents.model = model_tensors(*loaded.engine);
  contents.files = side_files(loaded, adapter_dir);
  store->save_final_model(contents);
}

}  // namespace sft::train
