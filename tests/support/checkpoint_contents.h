// A checkpoint's contents whose values follow from name and index, at any world size and any ownership of
// slices.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "sft/checkpoint/checkpoint.h"

namespace sft::test {

struct Shape {
  std::string name;
  std::vector<int64_t> shape;
};

// Sizes that are no multiples of a page or a rank count, an empty tensor, and one large enough for several
// chunks.
inline const std::vector<Shape>& model_shapes() {
  static const std::vector<Shape> shapes = {
      {"model.embed.weight", {331, 67}}, {"model.layers.0.w", {129, 257}}, {"model.layers.0.b", {257}},
      {"model.layers.1.w", {257, 129}},  {"model.empty", {0, 4}},          {"model.norm", {7}}};
  return shapes;
}

inline int64_t numel(const std::vector<int64_t>& shape) {
  int64_t result = 1;
  for (const int64_t extent : shape) result *= extent;
  return result;
}

inline float value_of(const std::string& name, int64_t index, int64_t step) {
  uint32_t hash = static_cast<uint32_t>(step) * 2654435761U;
  for (const char c : name) hash = hash * 31 + static_cast<unsigned char>(c);
  hash = (hash ^ static_cast<uint32_t>(index)) * 2246822519U;
  return static_cast<float>(hash >> 9) * 0x1.0p-20F - 4.0F;
}

enum class Ownership {
  kReplicated,    // every rank holds everything
  kShardedState,  // optimizer state in equal slices (ZeRO-1)
  kShardedAll,    // parameters too (ZeRO-3)
  kWholeTensors,  // each tensor of the state on one rank
};

class ContentsMaker {
 public:
  ContentsMaker(int rank, int world_size, Ownership ownership)
      : rank_(rank), world_size_(world_size), ownership_(ownership) {}

  checkpoint::Contents make(int64_t step) const {
    checkpoint::Contents contents;
    contents.step = step;
    contents.train_state = "{\"step\":" + std::to_string(step) + ",\"loss\":\"0x1.8p+1\"}";
    contents.environment = R"({"threads":2})";
    int64_t index = 0;
    for (const Shape& shape : model_shapes()) {
      const bool cut = ownership_ == Ownership::kShardedAll;
      add(contents.model, shape.name, shape.shape, step, cut, -1);
      for (const char* state : {"exp_avg.", "exp_avg_sq."}) {
        add(contents.optimizer, state + shape.name, shape.shape, step,
            cut || ownership_ == Ownership::kShardedState,
            ownership_ == Ownership::kWholeTensors ? index++ % world_size_ : -1);
      }
    }
    if (rank_ == 0) {
      contents.files = {{"config.json", "{\"model_type\": \"test\"}\n"},
                        {"state/empty.txt", ""},
                        {"run.ini", "seed = 1\n"}};
    }
    return contents;
  }

 private:
  void add(std::vector<checkpoint::TensorSlice>& slices, const std::string& name,
           const std::vector<int64_t>& shape, int64_t step, bool cut, int64_t only_rank) const {
    if (only_rank >= 0 && only_rank != rank_) return;
    const int64_t total = numel(shape);
    const int64_t begin = cut ? total * rank_ / world_size_ : 0;
    const int64_t end = cut ? total * (rank_ + 1) / world_size_ : total;
    at::Tensor data = at::empty({end - begin}, at::kFloat);
    for (int64_t i = begin; i < end; ++i) data.data_ptr<float>()[i - begin] = value_of(name, i, step);
    slices.push_back({name, shape, begin, end, data});
  }

  int64_t rank_, world_size_;
  Ownership ownership_;
};

// How many of the elements [begin, end) differ from what make(step) put there.
inline int64_t count_wrong(const model::TensorSource& source, const std::string& name, int64_t begin,
                           int64_t end, int64_t step) {
  const at::Tensor data = at::empty({end - begin}, at::kFloat);
  source.read(name, begin, end, data);
  int64_t wrong = 0;
  for (int64_t i = begin; i < end; ++i) wrong += data.data_ptr<float>()[i - begin] != value_of(name, i, step);
  return wrong;
}

// The same over all tensors, this rank's part of `parts`.
inline int64_t count_wrong(const checkpoint::Reader& reader, int64_t step, int64_t part = 0,
                           int64_t parts = 1) {
  int64_t wrong = 0;
  for (const Shape& shape : model_shapes()) {
    const int64_t total = numel(shape.shape);
    const int64_t begin = total * part / parts, end = total * (part + 1) / parts;
    wrong += count_wrong(reader.model(), shape.name, begin, end, step);
    for (const char* state : {"exp_avg.", "exp_avg_sq."}) {
      wrong += count_wrong(reader.optimizer(), state + shape.name, begin, end, step);
    }
  }
  return wrong;
}

// Shards so small that model_shapes() fill several.
inline checkpoint::StoreOptions store_options(const std::filesystem::path& folder) {
  checkpoint::StoreOptions options;
  options.output_dir = folder;
  options.max_shard_bytes = 150'000;
  return options;
}

}  // namespace sft::test
