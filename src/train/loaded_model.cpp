#include "loaded_model.h"

#include <nlohmann/json.hpp>

#include "sft/base/error.h"
#include "sft/base/file.h"
#include "sft/base/json.h"
#include "sft/engine/flat_io.h"
#include "sft/model/weights.h"

namespace sft::train {
namespace {

namespace fs = std::filesystem;

fs::path base_model_dir(const std::string& adapter_config, const fs::path& file) {
  const nlohmann::json config = base::parse_json(adapter_config, file.string());
  const nlohmann::json base = config.value("base_model_name_or_path", nlohmann::json());
  if (!base.is_string() || base.get<std::string>().empty())
    base::fail(base::ExitCode::kInvalidData, "{}: there is no base_model_name_or_path", file.string());
  try {
    return model::resolve_model_dir(base.get<std::string>());
  } catch (const base::Error& error) {
    base::fail(base::ExitCode::kInvalidData, "{}: the adapter's base model is not found: {}", file.string(),
               error.what());
  }
}

}  // namespace

LoadedModel load_model(const fs::path& dir, parallel::Communicator& comm) {
  LoadedModel loaded;
  loaded.model_dir = dir;
  model::check_links(dir);
  if (model::is_adapter_dir(dir)) {
    const fs::path file = dir / model::kAdapterConfigFile;
    const std::string text = base::read_text(file);
    loaded.adapter = model::adapter_from_json(text, file.string());
    loaded.model_dir = base_model_dir(text, file);
  }
  const fs::path config_file = loaded.model_dir / "config.json";
  loaded.config_json = base::read_text(config_file);
  loaded.decoder =
      model::Decoder::create(model::spec_of_model(loaded.model_dir), loaded.adapter ? &*loaded.adapter : nullptr);
  loaded.timers = std::make_unique<base::PhaseTimers>();
  loaded.engine =
      std::make_unique<engine::Engine>(*loaded.decoder, engine::EngineOptions{}, comm, *loaded.timers);
  loaded.engine->load_parameters(*model::open_model_weights(loaded.model_dir));
  if (loaded.adapter) {
    const auto adapter = model::open_adapter_weights(dir);
    engine::check_holds_exactly(loaded.engine->blocks(), *adapter);
    loaded.engine->load_trainable(*adapter);
  }
  return loaded;
}

}  // namespace sft::train
