#include "model_work.h"

namespace sft::train {

metrics::ModelWork model_work(const model::Decoder& decoder) {
  const model::DecoderSpec& spec = decoder.spec();
  metrics::ModelWork work;
  // A layer's tensors of two dimensions (or three, of stacked experts) are weights of linear layers.
  int64_t routed = 0, frozen_routed = 0;
  for (int64_t layer = 0; layer < decoder.num_layers(); ++layer) {
    for (const model::TensorDef& tensor : decoder.block_tensors(layer + 1)) {
      if (tensor.shape.size() < 2) continue;
      if (tensor.routed) {
        routed += tensor.numel();
        if (!tensor.trainable) frozen_routed += tensor.numel();
        continue;
      }
      work.block_linear_parameters += tensor.numel();
      if (!tensor.trainable) work.frozen_block_linear_parameters += tensor.numel();
    }
  }
  if (spec.mixture) {
    const auto active = [&](int64_t all) {
      return all / spec.mixture->num_experts * spec.mixture->num_experts_per_tok;
    };
    work.block_linear_parameters += active(routed);
    work.frozen_block_linear_parameters += active(frozen_routed);
  }
  // The embedding's and the head's projections, where the embedding is narrower.
  if (spec.embedding_size != spec.hidden_size)
    work.block_linear_parameters += 2 * spec.embedding_size * spec.hidden_size;
  work.head_parameters = spec.embedding_size * spec.vocab_size;
  const int64_t output_block = spec.tie_word_embeddings ? 0 : decoder.num_blocks() - 1;
  work.head_is_frozen = !decoder.block_tensors(output_block).front().trainable;
  work.num_layers = spec.num_hidden_layers;
  work.num_heads = spec.num_attention_heads;
  work.head_dim = spec.head_dim;
  return work;
}

metrics::StepWork step_work(const data::Window& window) {
  metrics::StepWork work{.num_tokens = window.num_tokens, .num_targets = window.num_targets};
  for (const data::MicroBatch& batch : window.micro_batches) {
    for (std::size_t row = 0; row + 1 < batch.cu_seqlens.size(); ++row) {
      const auto length = static_cast<double>(batch.cu_seqlens[row + 1] - batch.cu_seqlens[row]);
      work.sum_squared_lengths += length * length;
    }
  }
  return work;
}

}  // namespace sft::train
