#include "resume.h"

#include <ATen/ops/empty.h>

#include "sft/base/error.h"

#include "sft/base/log.h"
#include "sft/engine/flat_io.h"
#include "sft/model/weights.h"

namespace sft::train {

std::unique_ptr<checkpoint::Reader> find_checkpoint(const config::SaveOptions& options,
                                                    checkpoint::Store& store, parallel::Communicator& comm) {
  const std::string& wanted = options.resume_from_checkpoint;
  const auto refuse_results = [&](const char* which, const char* remedy) {
    if (!store.has_results() || options.overwrite_output_dir) return;
    throw base::Error(base::ExitCode::kConfig,
                      fmt::format("output_dir = {} {}; set {}overwrite_output_dir = true to replace them, or "
                                  "another output_dir",
                                  options.output_dir, which, remedy),
                      base::SeenBy::kAllRanks);
  };
  if (wanted.empty()) {
    refuse_results("already holds results", "resume_from_checkpoint = true to go on from them, ");
    return nullptr;
  }
  auto reader = wanted == "true" ? store.open_newest() : store.open_checkpoint(wanted);
  if (!reader) refuse_results("holds the results of a run, and no checkpoint to go on from", "");
  if (comm.rank() == 0) {
    if (reader) {
      log::info("resuming from {}", reader->path().string());
    } else {
      log::info("resume_from_checkpoint = true: {} holds no checkpoint yet, starting afresh",
                options.output_dir);
    }
  }
  return reader;
}

void discard_results(const config::SaveOptions& options, checkpoint::Store& store, parallel::Communicator& comm) {
  store.discard_checkpoints();
  if (comm.rank() == 0)
    std::filesystem::remove(std::filesystem::path(options.output_dir) / "trainer_log.jsonl");
}

void set_others_aside(int64_t step, checkpoint::Place place, const config::SaveOptions& options, checkpoint::Store& store) {
  if (options.resume_from_checkpoint == "true") return;
  store.set_aside_after(place == checkpoint::Place::kElsewhere ? -1 : step);
}

namespace {

// Small beside the parameters: every rank reads all of it.
void load_tensor_state(const engine::ParameterBlock& block, const optim::TensorState& state,
                       const model::TensorSource& source) {
  model::TensorDef tensor = block.tensors()[state.tensor];
  tensor.shape = state.shape;
  const std::string name = engine::name_in_source(tensor, source, state.name + ".");
  const at::Tensor values = at::empty({state.data.numel()}, state.data.options().device(c10::kCPU));
  source.read(name, 0, state.data.numel(), values);
  state.data.copy_(values);
}

}  // namespace

TrainState restore(const checkpoint::Reader& reader, engine::Engine& engine, optim::Optimizer& optimizer,
                   metrics::TrainLog& log, parallel::Communicator& comm) {
  if (!reader.has_optimizer()) {
    throw base::Error(
        base::ExitCode::kInvalidData,
        fmt::format(
            "{} holds no optimizer state (save_only_model = true): it cannot be resumed; it can be the "
            "model_name_or_path of a new run",
            reader.path().string()),
        base::SeenBy::kAllRanks);
  }
  const TrainState state = TrainState::from_json(reader.train_state());
  optimizer.set_scalars(state.optimizer_scalars);
  const optim::AtEvaluationPoint saved_at(optimizer);
  engine.load_trainable(reader.model());
  for (std::size_t b = 0; b < engine.blocks().size(); ++b) {
    const optim::RangeState& range = optimizer.states()[b];
    for (std::size_t s = 0; s < range.names.size(); ++s) {
      engine::load_flat(engine.blocks()[b], range.tensors[s], reader.optimizer(), range.names[s] + ".", comm);
    }
    for (const optim::TensorState& tensor : range.of_tensors)
      load_tensor_state(engine.blocks()[b], tensor, reader.optimizer());
  }
  optimizer.set_step_count(state.optimizer_steps);
  log.restore(reader.side_file("trainer_state.json"));
  return state;
}

void forget_lost_best_model(TrainState& state, checkpoint::Place place, checkpoint::Store& store,
                            parallel::Communicator& comm) {
  if (place != checkpoint::Place::kOwnName) {
    if (state.best.step >= 0 && comm.rank() == 0)
      log::warning("the best model so far, of step {}, was of another course: the best is sought from here on",
                   state.best.step);
    state.best = {};
    return;
  }
  int64_t& step = state.best.checkpoint_step;
  if (step < 0 || store.has_checkpoint(step)) return;
  if (comm.rank() == 0)
    log::warning("the best checkpoint so far, checkpoint-{}, is not in output_dir any more: it cannot be loaded at the end", step);
  step = -1;
}

void check_weights(const model::Decoder& decoder, const std::filesystem::path& model_dir) {
  const auto source = model::open_model_weights(model_dir);
  for (int64_t block = 0; block < decoder.num_blocks(); ++block) {
    for (const model::TensorDef& tensor : decoder.block_tensors(block)) {
      if (tensor.adapter == model::AdapterPart::kNone) engine::name_in_source(tensor, *source, "");
    }
  }
}

}  // namespace sft::train
