#include "sft/train/inspect_step.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "dataset_checks.h"
#include "sft/base/error.h"
#include "sft/base/file.h"
#include "sft/base/json.h"
#include "sft/base/log.h"
#include "sft/data/loader.h"
#include "sft/train/plan.h"
#include "sft/train/run_identity.h"
#include "sft/train/train_state.h"

namespace sft::train {
namespace {

namespace fs = std::filesystem;
using base::ExitCode;
using base::fail;
using nlohmann::json;

constexpr int64_t kMaxManifestBytes = int64_t{1} << 30;

// A place in the run's course, as a checkpoint's manifest holds it (docs/checkpoint-format.md).
struct SavedPlace {
  int64_t step = 0;
  int64_t world_size = 1;
  data::Cursor cursor;
  std::string identity;
};

std::vector<SavedPlace> saved_places(const fs::path& output_dir) {
  std::vector<SavedPlace> places;
  if (!fs::is_directory(output_dir)) return places;
  for (const fs::directory_entry& entry : fs::directory_iterator(output_dir)) {
    const fs::path file = entry.path() / "state" / "MANIFEST.json";
    if (!entry.path().filename().string().starts_with("checkpoint-") || !fs::is_regular_file(file)) continue;
    try {
      const json manifest = base::parse_json(base::read_text(file, kMaxManifestBytes), file.string(),
                                             {.bytes = kMaxManifestBytes});
      places.push_back({manifest.at("step").get<int64_t>(), manifest.at("world_size").get<int64_t>(),
                        TrainState::from_json(manifest.at("train_state").dump()).cursor,
                        manifest.at("environment").dump()});
    } catch (const std::exception& error) {
      log::warning("{} is left aside: {}", entry.path().string(), error.what());
    }
  }
  return places;
}

// The newest with a step below `before`; none: where every run begins.
SavedPlace newest(const std::vector<SavedPlace>& places, int64_t before) {
  SavedPlace result;
  for (const SavedPlace& place : places) {
    if (place.step < before && place.step >= result.step) result = place;
  }
  return result;
}

std::string line_of(const data::Slot& slot, const data::TokenDataset& dataset) {
  const data::MicroBatch row = data::pack({dataset.read(slot.index)});
  return fmt::format("{:>5} {:>4} {:>10} {:>4} {:>8} {:>6} {:>7}  {}\n", slot.epoch, slot.rank,
                     slot.micro_step, slot.slot, slot.position, row.num_tokens(), row.num_targets(),
                     fmt::join(dataset.row_numbers(slot.index), ","));
}

}  // namespace

std::string inspect_step(const config::Options& options, int64_t step, std::optional<int64_t> ranks) {
  const std::string& path = options.data.train_dataset;
  if (path.empty())
    fail(ExitCode::kConfig, "train_dataset is not set: the HDF5 file that sft-prepare writes");
  if (ranks && *ranks < 1) fail(ExitCode::kConfig, "--ranks {}: a run has 1 or more", *ranks);
  const auto dataset = data::TokenDataset::open(path, row_options(options, /*training=*/true));

  std::vector<SavedPlace> places = saved_places(options.save.output_dir);
  std::erase_if(places, [&](const SavedPlace& place) {
    return !has_same_rows(place.identity, options, dataset->info(), dataset->size());
  });
  const int64_t world_size = ranks.value_or(newest(places, INT64_MAX).world_size);
  const SavedPlace from = newest(places, step);
  const RunPlan plan = make_plan(options, dataset->size(), world_size, from.step, from.cursor);
  if (step < 1 || step > plan.max_steps) {
    fail(ExitCode::kConfig, "--step {}: this run has the steps 1 to {} (with {} rank{})", step,
         plan.max_steps, world_size, world_size == 1 ? "" : "s");
  }

  data::LoaderOptions loader_options = loader_options_of(options.data, plan, /*rank=*/0);
  loader_options.prefetch_windows = 0;
  const auto loader = data::DataLoader::create(*dataset, loader_options);
  data::Cursor cursor = from.cursor;
  for (int64_t done = from.step; done + 1 < step; ++done) cursor = loader->after(cursor);

  const data::BatchLayout& layout = plan.layout;
  std::string text = fmt::format(
      "step {} of {}, {} ranks x {} accumulation x {} per device, counted from {}\n{}\n"
      "epoch rank micro-step slot position tokens targets  rows of the file\n",
      step, plan.max_steps, layout.world_size, layout.gradient_accumulation_steps, layout.micro_batch_size,
      from.step > 0 ? fmt::format("checkpoint-{}", from.step) : "the start", path);
  if (plan.micro_batch_tokens > 0) {
    text += fmt::format(
        "(ranks and micro-steps of a cut by rows; micro_batch_tokens = {} deals the rows of the step anew)\n",
        plan.micro_batch_tokens);
  }
  for (const data::Slot& slot : data::window_slots(*dataset, loader_options, cursor))
    text += line_of(slot, *dataset);
  return text + fmt::format("a row's text: sft-prepare inspect {} --row N\n", path);
}

}  // namespace sft::train
