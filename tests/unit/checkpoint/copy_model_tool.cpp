// copy_model_tool MODEL_DIR OUTPUT_DIR MAX_SHARD_SIZE: reads a model folder and saves it as checkpoint-3,
// with two ranks (threads). The optimizer state exp_avg is half of each parameter, so that a reader can tell
// where it came from.
#include <ATen/ops/empty.h>
#include <fmt/core.h>

#include <exception>
#include <filesystem>

#include "sft/base/file.h"
#include "sft/checkpoint/checkpoint.h"
#include "support/checkpoint_contents.h"
#include "support/thread_ranks.h"

namespace {

sft::checkpoint::Contents read_model(const std::filesystem::path& model_dir) {
  const auto source = sft::model::open_model_weights(model_dir);
  sft::checkpoint::Contents contents;
  contents.step = 3;
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

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 4) throw std::invalid_argument("usage: copy_model_tool MODEL_DIR OUTPUT_DIR MAX_SHARD_SIZE");
  sft::checkpoint::StoreOptions options;
  options.output_dir = argv[2];
  options.max_shard_bytes = sft::checkpoint::parse_size(argv[3]);
  sft::test::run_ranks(2, [&](sft::parallel::Communicator& comm) {
    const auto store = sft::checkpoint::Store::open(options, comm);
    store->save(read_model(argv[1]));
    store->save_final_model(read_model(argv[1]));
  });
  sft::checkpoint::verify_directory(options.output_dir / "checkpoint-3");
  sft::checkpoint::verify_directory(options.output_dir);
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "copy_model_tool: {}\n", error.what());
  return 1;
}
