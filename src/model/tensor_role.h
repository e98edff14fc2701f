// The parts a decoder is made of, before they have names: what each tensor of a block is for.
#pragma once

#include <cstddef>

namespace sft::model {

enum class Role {
  // embedding block
  kTokenEmbedding,
  kPositionEmbedding,
  kProjectIn,
  kEmbeddingNorm,
  // layer block; the order of q, k, v and of gate, up is the order of the fused product
  kQuery,
  kKey,
  kValue,
  kQueryKeyValue,  // one tensor for the three
  kAttentionOut,
  kGate,
  kUp,      // of a plain MLP too
  kGateUp,  // one tensor for the two
  kDown,
  kRouter,      // of a mixture of experts
  kExpertGate,  // one for each expert, as the two that follow
  kExpertUp,
  kExpertDown,
  kStackedGateUp,  // one tensor for all experts
  kStackedDown,
  kSharedGate,
  kSharedUp,
  kSharedDown,
  kSharedSwitch,  // how much of the shared expert a token gets
  kAttentionNorm,        // of the attention's input, or of the residual sum after it (kPost)
  kAttentionOutputNorm,  // of what the attention adds
  kMlpNorm,
  kSharedNorm,  // of the input of both, side by side
  kMlpOutputNorm,
  kQueryNorm,
  kKeyNorm,
  // head block
  kOutputEmbedding,
  kProjectOut,
  kFinalNorm,
  kCount,
};
inline constexpr std::size_t kNumRoles = static_cast<std::size_t>(Role::kCount);

}  // namespace sft::model
