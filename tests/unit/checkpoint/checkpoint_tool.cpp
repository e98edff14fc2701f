// checkpoint_tool save|background|final MODEL_DIR OUTPUT_DIR MAX_SHARD_SIZE STEP [SAVE_TOTAL_LIMIT]
//     writes a model folder by two ranks (threads): as checkpoint-STEP, in the foreground or in the
//     background, or as the final model
// checkpoint_tool newest OUTPUT_DIR...    prints the step of the newest valid checkpoint of each, or -1
// The optimizer state exp_avg is half of each parameter, so that a reader can tell where it came from.
#include <ATen/ops/empty.h>
#include <fmt/core.h>

#include <chrono>
#include <exception>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "checkpoint/store.h"
#include "sft/base/file.h"
#include "sft/checkpoint/checkpoint.h"
#include "support/checkpoint_contents.h"
#include "support/thread_ranks.h"

namespace {

sft::checkpoint::Contents read_model(const std::filesystem::path& model_dir, int64_t step) {
  const auto source = sft::model::open_model_weights(model_dir);
  sft::checkpoint::Contents contents;
  contents.step = step;
  contents.train_state = contents.environment = "{}";
  for (const std::string& name : source->names()) {
    const std::vector<int64_t> shape = source->shape(name);
    const int64_t numel = sft::test::numel(shape);
    const at::Tensor values = at::empty({numel}, at::kFloat);
    source->read(name, 0, numel, values);
    contents.model.push_back({name, shape, 0, numel, values});
    contents.optimizer.push_back({"exp_avg." + name, shape, 0, numel, values.mul(0.5)});
  }
  for (const auto& entry : std::filesystem::directory_iterator(model_dir)) {
    const std::string name = entry.path().filename();
    if (name.ends_with("config.json")) contents.files.push_back({name, sft::base::read_text(entry.path())});
  }
  return contents;
}

sft::checkpoint::SaveReport save_by(const std::string& way, sft::checkpoint::Store& store,
                                    const sft::checkpoint::Contents& contents) {
  if (way == "final") return store.save_final_model(contents);
  if (way == "save") return store.save(contents);
  store.start_save(contents);
  return store.finish_save();
}

void save(const std::vector<std::string>& arguments) {
  sft::checkpoint::StoreHooks hooks;
  hooks.first_pause = std::chrono::milliseconds(1);
  sft::checkpoint::StoreOptions options;
  options.output_dir = arguments.at(2);
  options.max_shard_bytes = sft::checkpoint::parse_size(arguments.at(3));
  const int64_t step = std::stoll(arguments.at(4));
  if (arguments.size() > 5) options.save_total_limit = std::stoll(arguments[5]);
  sft::test::run_ranks(2, [&](sft::parallel::Communicator& comm) {
    const auto store = sft::checkpoint::open_store(options, comm, hooks);
    const auto report = save_by(arguments[0], *store, read_model(arguments.at(1), step));
    if (comm.rank() == 0) sft::checkpoint::verify_directory(report.path);
  });
}

void print_newest(const std::filesystem::path& output_dir) {
  sft::checkpoint::StoreOptions options;
  options.output_dir = output_dir;
  sft::test::run_ranks(2, [&](sft::parallel::Communicator& comm) {
    const auto store = sft::checkpoint::Store::open(options, comm);
    const auto reader = store->open_newest();
    if (comm.rank() == 0) fmt::print("{}\n", reader ? reader->step() : -1);
  });
}

}  // namespace

int main(int argc, char** argv) try {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if ((arguments.size() == 5 || arguments.size() == 6) &&
      (arguments[0] == "save" || arguments[0] == "background" || arguments[0] == "final")) {
    save(arguments);
  } else if (arguments.size() >= 2 && arguments[0] == "newest") {
    for (std::size_t i = 1; i < arguments.size(); ++i) print_newest(arguments[i]);
  } else {
    throw std::invalid_argument("unknown arguments: see the head of checkpoint_tool.cpp");
  }
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "checkpoint_tool: {}\n", error.what());
  return 1;
}
