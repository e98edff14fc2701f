// A model of tests/golden/models in flat buffers, run block by block as the engine runs it.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <optional>

#include "sft/base/file.h"
#include "sft/model/adapter.h"
#include "sft/model/decoder.h"
#include "sft/model/weights.h"

namespace sft::model::golden_models {

namespace fs = std::filesystem;

inline const fs::path kGoldens = fs::path(SFT_SOURCE_DIR) / "tests" / "golden" / "models";

inline at::Tensor read_tensor(const TensorSource& source, const std::string& name) {
  const std::vector<int64_t> shape = source.shape(name);
  at::Tensor t = at::empty(shape, at::TensorOptions(at::kFloat));
  source.read(name, 0, t.numel(), t);
  return t;
}

// The flat buffers of one block as the engine makes them: every view on a 64-byte boundary, or one element
// further on.
struct FlatBlock {
  std::vector<at::Tensor> weights, grads;
  BlockTensors views() const { return {weights, grads}; }
};

enum class Spacing { kAligned, kGaps };

// The tensor by its name or an alias, from `adapter` where that has it.
inline at::Tensor read_tensor(const TensorSource& source, const TensorSource* adapter, const TensorDef& def) {
  if (adapter != nullptr && adapter->contains(def.name)) return read_tensor(*adapter, def.name);
  if (source.contains(def.name)) return read_tensor(source, def.name);
  for (const std::string& alias : def.aliases) {
    if (source.contains(alias)) return read_tensor(source, alias);
  }
  ADD_FAILURE() << def.name << " is in no file";
  return at::zeros(def.shape);
}

inline FlatBlock make_block(const std::vector<TensorDef>& defs, const TensorSource& source,
                            const TensorSource* adapter, at::ScalarType dtype, Spacing spacing) {
  int64_t total = 0;
  std::vector<int64_t> offsets;
  for (const TensorDef& def : defs) {
    offsets.push_back(total);
    total += (def.numel() + 15) / 16 * 16 + (spacing == Spacing::kGaps ? 16 : 0);
  }
  const at::Tensor weights = at::zeros({total}, at::TensorOptions(dtype)), grads = at::zeros_like(weights);
  FlatBlock block;
  for (std::size_t i = 0; i < defs.size(); ++i) {
    block.weights.push_back(weights.narrow(0, offsets[i], defs[i].numel()).view(defs[i].shape));
    const at::Tensor grad = grads.narrow(0, offsets[i], defs[i].numel()).view(defs[i].shape);
    block.grads.push_back(defs[i].trainable ? grad : at::Tensor());
    block.weights.back().copy_(read_tensor(source, adapter, defs[i]));
  }
  return block;
}

struct Row {
  std::vector<int64_t> ids, labels;
  int64_t position = 0;  // in the epoch's order
};

inline std::vector<int64_t> integers(const at::Tensor& t) {
  const at::Tensor whole = t.to(at::kLong).contiguous();
  const auto* values = whole.const_data_ptr<int64_t>();
  return {values, values + whole.numel()};
}

inline std::vector<Row> read_rows(const TensorSource& golden) {
  const auto ids = integers(read_tensor(golden, "input_ids")),
             labels = integers(read_tensor(golden, "labels"));
  std::vector<Row> rows;
  auto begin = std::ptrdiff_t{0};
  for (const int64_t length : integers(read_tensor(golden, "lengths"))) {
    rows.push_back({{ids.begin() + begin, ids.begin() + begin + length},
                    {labels.begin() + begin, labels.begin() + begin + length},
                    static_cast<int64_t>(rows.size())});
    begin += length;
  }
  return rows;
}

inline data::MicroBatch pack(std::span<const Row> rows) {
  std::vector<int64_t> ids, positions, target_positions, target_ids;
  data::MicroBatch batch;
  batch.cu_seqlens = {0};
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < row.ids.size(); ++i) {
      if (i + 1 < row.ids.size() && row.labels[i + 1] != data::kIgnoreIndex) {
        target_positions.push_back(static_cast<int64_t>(ids.size()));
        target_ids.push_back(row.labels[i + 1]);
      }
      ids.push_back(row.ids[i]);
      positions.push_back(static_cast<int64_t>(i));
    }
    batch.cu_seqlens.push_back(static_cast<int64_t>(ids.size()));
    batch.rows.push_back({0, row.position, 0});
  }
  const auto options = at::TensorOptions(at::kLong);
  batch.input_ids = at::tensor(ids, options);
  batch.position_ids = at::tensor(positions, options);
  batch.target_positions = at::tensor(target_positions, options);
  batch.target_ids = at::tensor(target_ids, options);
  return batch;
}

class Model {
 public:
  Model(const fs::path& folder, at::ScalarType dtype, Spacing spacing = Spacing::kAligned,
        const std::function<void(DecoderSpec&)>& change = {}, const fs::path& adapter_folder = {}) {
    const fs::path config = folder / "config.json";
    DecoderSpec spec = spec_from_config_json(base::read_text(config), config.string());
    if (change) change(spec);
    std::optional<AdapterSpec> adapter;
    std::unique_ptr<TensorSource> adapter_weights;
    if (!adapter_folder.empty()) {
      const fs::path file = adapter_folder / kAdapterConfigFile;
      adapter = adapter_from_json(base::read_text(file), file.string());
      adapter_weights = open_adapter_weights(adapter_folder);
    }
    decoder_ = Decoder::create(spec, adapter ? &*adapter : nullptr);
    const auto weights = open_model_weights(folder);
    for (int64_t b = 0; b < decoder_->num_blocks(); ++b) {
      blocks_.push_back(
          make_block(decoder_->block_tensors(b), *weights, adapter_weights.get(), dtype, spacing));
    }
  }

  // Adds the gradients of loss_scale * (sum of cross-entropy) + aux_scale * (load-balancing loss); returns
  // that sum.
  double forward_backward(const data::MicroBatch& batch, double loss_scale, const RunMode& mode,
                          double aux_scale = 0.0) {
    const DecoderInputs in = decoder_->make_inputs(batch, at::kCPU);
    const int64_t layers = decoder_->num_layers();
    std::vector<BlockSaved> saved(static_cast<std::size_t>(layers) + 1);
    RouterSums routers;
    at::Tensor x = decoder_->embedding_forward(block(0), in, mode, saved.data());
    for (int64_t l = 0; l < layers; ++l) {
      x = decoder_->layer_forward(l, block(l + 1), x, in, mode, &saved[static_cast<std::size_t>(l) + 1],
                                  &routers);
    }
    aux_loss_ = routers.loss().item<double>();
    const at::Tensor router_grad = aux_scale > 0 ? routers.gradient() * aux_scale : at::Tensor();
    logits_ = decoder_->head_logits(block(layers + 1), block(0), x, mode);
    const auto head = decoder_->head_forward_backward(block(layers + 1), block(0), x, in, mode, loss_scale);
    EXPECT_EQ(decoder_->head_forward(block(layers + 1), block(0), x, in, mode).loss_sum.item<double>(),
              head.loss_sum.item<double>());
    at::Tensor grad = head.grad;
    for (int64_t l = layers - 1; l >= 0; --l) {
      grad = decoder_->layer_backward(l, block(l + 1), grad, in, mode, saved[static_cast<std::size_t>(l) + 1],
                                      router_grad);
    }
    decoder_->embedding_backward(block(0), grad, in, mode, saved[0]);
    return head.loss_sum.item<double>();
  }

  void merge_adapters() {
    for (int64_t b = 0; b < decoder_->num_blocks(); ++b) decoder_->merge_adapters(b, block(b));
    // What is left of the adapters must not count twice.
    for (int64_t b = 0; b < decoder_->num_blocks(); ++b) {
      const auto& defs = decoder_->block_tensors(b);
      for (std::size_t i = 0; i < defs.size(); ++i) {
        if (defs[i].adapter == AdapterPart::kB) blocks_[static_cast<std::size_t>(b)].weights[i].zero_();
      }
    }
  }

  // Every weight moved by `step` times `direction`'s tensor of the same place.
  void move_weights(const std::vector<std::vector<at::Tensor>>& direction, double step) {
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
      for (std::size_t i = 0; i < blocks_[b].weights.size(); ++i)
        blocks_[b].weights[i].add_(direction[b][i], step);
    }
  }

  const std::vector<FlatBlock>& blocks() const { return blocks_; }
  const Decoder& decoder() const { return *decoder_; }
  const at::Tensor& logits() const { return logits_; }
  double aux_loss() const { return aux_loss_; }  // of the last batch
  std::vector<std::pair<std::string, at::Tensor>> gradients() const {
    std::vector<std::pair<std::string, at::Tensor>> all;
    for (int64_t b = 0; b < decoder_->num_blocks(); ++b) {
      const auto& defs = decoder_->block_tensors(b);
      for (std::size_t i = 0; i < defs.size(); ++i) {
        if (defs[i].trainable) all.emplace_back(defs[i].name, blocks_[static_cast<std::size_t>(b)].grads[i]);
      }
    }
    return all;
  }

 private:
  BlockTensors block(int64_t b) const { return blocks_[static_cast<std::size_t>(b)].views(); }
  std::unique_ptr<Decoder> decoder_;
  std::vector<FlatBlock> blocks_;
  at::Tensor logits_;
  double aux_loss_ = 0.0;
};

}  // namespace sft::model::golden_models
