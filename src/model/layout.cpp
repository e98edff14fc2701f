#include "model/layout.h"

#include <algorithm>
#include <string>

#include "sft/base/error.h"

namespace sft::model {
namespace {

struct Part {
  Role role;
  std::vector<int64_t> weight;  // shape; empty: not there
  int64_t bias = 0;             // elements; 0: none
};

Part linear(const DecoderSpec& spec, Role role, int64_t in, int64_t out, bool bias) {
  return {role, spec.transposed_linear ? std::vector{in, out} : std::vector{out, in}, bias ? out : 0};
}

Part norm(const DecoderSpec& spec, Role role, int64_t size) {
  if (!spec.norm_affine) return {role, {}, 0};
  return {role, {size}, spec.norm_kind == ops::NormKind::kLayerNorm ? size : 0};
}

bool projects(const DecoderSpec& spec) {
  return spec.embedding_size != spec.hidden_size;
}

std::vector<Part> embedding_parts(const DecoderSpec& spec) {
  std::vector<Part> parts{{Role::kTokenEmbedding, {spec.vocab_size, spec.embedding_size}}};
  if (spec.position_kind == PositionKind::kLearned) {
    parts.push_back(
        {Role::kPositionEmbedding, {spec.max_position_embeddings + spec.position_offset, spec.hidden_size}});
  }
  if (projects(spec))
    parts.push_back(linear(spec, Role::kProjectIn, spec.embedding_size, spec.hidden_size, false));
  if (spec.embedding_norm) parts.push_back(norm(spec, Role::kEmbeddingNorm, spec.hidden_size));
  return parts;
}

void add_attention(const DecoderSpec& spec, std::vector<Part>& parts) {
  const int64_t hidden = spec.hidden_size;
  const int64_t query = spec.num_attention_heads * spec.head_dim,
                key = spec.num_key_value_heads * spec.head_dim;
  if (spec.qkv_layout == QkvLayout::kSeparate) {
    parts.push_back(linear(spec, Role::kQuery, hidden, query, spec.attention_bias));
    parts.push_back(linear(spec, Role::kKey, hidden, key, spec.attention_bias));
    parts.push_back(linear(spec, Role::kValue, hidden, key, spec.attention_bias));
  } else {
    parts.push_back(linear(spec, Role::kQueryKeyValue, hidden, query + 2 * key, spec.attention_bias));
  }
  parts.push_back(linear(spec, Role::kAttentionOut, query, hidden, spec.attention_out_bias));
  if (spec.qk_norm != QkNorm::kNone) {
    const bool whole = spec.qk_norm == QkNorm::kWhole;
    parts.push_back(norm(spec, Role::kQueryNorm, whole ? query : spec.head_dim));
    parts.push_back(norm(spec, Role::kKeyNorm, whole ? key : spec.head_dim));
  }
}

void add_mlp(const DecoderSpec& spec, std::vector<Part>& parts) {
  const int64_t hidden = spec.hidden_size, inner = spec.intermediate_size;
  if (spec.fused_gate_up) {
    parts.push_back(linear(spec, Role::kGateUp, hidden, 2 * inner, spec.mlp_bias));
  } else {
    if (spec.gated_mlp) parts.push_back(linear(spec, Role::kGate, hidden, inner, spec.mlp_bias));
    parts.push_back(linear(spec, Role::kUp, hidden, inner, spec.mlp_bias));
  }
  parts.push_back(linear(spec, Role::kDown, inner, hidden, spec.mlp_bias));
}

std::vector<Part> layer_parts(const DecoderSpec& spec) {
  std::vector<Part> parts;
  add_attention(spec, parts);
  add_mlp(spec, parts);
  if (spec.shared_parallel_norm) {
    parts.push_back(norm(spec, Role::kSharedNorm, spec.hidden_size));
  } else if (spec.norm_placement != NormPlacement::kOutput) {
    parts.push_back(norm(spec, Role::kAttentionNorm, spec.hidden_size));
    parts.push_back(norm(spec, Role::kMlpNorm, spec.hidden_size));
  }
  if (spec.norm_placement == NormPlacement::kSandwich || spec.norm_placement == NormPlacement::kOutput) {
    parts.push_back(norm(spec, Role::kAttentionOutputNorm, spec.hidden_size));
    parts.push_back(norm(spec, Role::kMlpOutputNorm, spec.hidden_size));
  }
  return parts;
}

std::vector<Part> head_parts(const DecoderSpec& spec) {
  std::vector<Part> parts;
  // The output embedding is a plain linear in every family. A tied one may still have a bias of its own.
  const int64_t bias = spec.head_bias ? spec.vocab_size : 0;
  if (!spec.tie_word_embeddings) {
    parts.push_back({Role::kOutputEmbedding, {spec.vocab_size, spec.embedding_size}, bias});
  } else if (spec.head_bias) {
    parts.push_back({Role::kOutputEmbedding, {}, bias});
  }
  if (projects(spec))
    parts.push_back(linear(spec, Role::kProjectOut, spec.hidden_size, spec.embedding_size, false));
  if (spec.final_norm) parts.push_back(norm(spec, Role::kFinalNorm, spec.hidden_size));
  return parts;
}

std::string numbered(std::string_view pattern, int64_t layer) {
  std::string name(pattern);
  if (const auto hole = name.find("{}"); hole != std::string::npos)
    name.replace(hole, 2, std::to_string(layer));
  return name;
}

const RoleName& name_of(const Family& family, Role role) {
  const auto entry = std::ranges::find(family.names, role, &RoleName::role);
  if (entry == family.names.end()) {
    base::fail(base::ExitCode::kInternal, "model family {}: no name for tensor role {}", family.model_type,
               static_cast<int>(role));
  }
  return *entry;
}

class LayoutBuilder {
 public:
  LayoutBuilder(const Family& family, int64_t layer) : family_(family), layer_(layer) {
    layout_.weight_index.fill(kAbsent);
    layout_.bias_index.fill(kAbsent);
  }

  BlockLayout build(const std::vector<Part>& parts) {
    for (const Part& part : parts) {
      if (part.weight.size() >= 2)
        add(layout_.weight_index, part.role, ".weight", part.weight, /*decay=*/true);
    }
    for (const Part& part : parts) {
      if (part.weight.size() == 1)
        add(layout_.weight_index, part.role, ".weight", part.weight, /*decay=*/false);
      if (part.bias > 0) add(layout_.bias_index, part.role, ".bias", {part.bias}, /*decay=*/false);
    }
    return std::move(layout_);
  }

 private:
  void add(std::array<int, kNumRoles>& index, Role role, const char* suffix,
           const std::vector<int64_t>& shape, bool decay) {
    index[static_cast<std::size_t>(role)] = static_cast<int>(layout_.tensors.size());
    const RoleName& names = name_of(family_, role);
    TensorDef def{numbered(names.name, layer_) + suffix, {}, shape, decay};
    if (!names.alias.empty()) def.aliases.push_back(numbered(names.alias, layer_) + suffix);
    if (def.name.starts_with(family_.base_prefix))
      def.aliases.push_back(def.name.substr(family_.base_prefix.size()));
    layout_.tensors.push_back(std::move(def));
  }

  const Family& family_;
  int64_t layer_;
  BlockLayout layout_;
};

}  // namespace

int64_t TensorDef::numel() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

std::vector<BlockLayout> make_layouts(const DecoderSpec& spec, const Family& family) {
  std::vector<BlockLayout> layouts{LayoutBuilder(family, 0).build(embedding_parts(spec))};
  for (int64_t layer = 0; layer < spec.num_hidden_layers; ++layer) {
    layouts.push_back(LayoutBuilder(family, layer).build(layer_parts(spec)));
  }
  layouts.push_back(LayoutBuilder(family, 0).build(head_parts(spec)));
  return layouts;
}

}  // namespace sft::model
