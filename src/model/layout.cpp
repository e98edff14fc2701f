#include "model/layout.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <string>

#include "model/lora_random.h"
#include "sft/base/error.h"

namespace sft::model {
namespace {

struct Part {
  Role role;
  std::vector<int64_t> weight;  // shape; empty: not there
  int64_t bias = 0;             // elements; 0: none
  int64_t in = 0, out = 0;      // features of a linear that can be adapted; 0: something else
  int64_t expert = 0;           // which of those with this role
};

// An expert's, or of all experts.
bool is_routed(Role role) {
  return role == Role::kExpertGate || role == Role::kExpertUp || role == Role::kExpertDown ||
         role == Role::kStackedGateUp || role == Role::kStackedDown;
}

// PEFT takes the names of MLPs in a mixture for those of its experts, which transformers holds as one tensor.
bool is_for_peft(const DecoderSpec& spec, Role role) {
  const bool in_attention_or_beside_layers = role <= Role::kAttentionOut || role > Role::kSharedSwitch;
  return !spec.mixture || in_attention_or_beside_layers;
}

Part linear(const DecoderSpec& spec, Role role, int64_t in, int64_t out, bool bias) {
  return {role, spec.transposed_linear ? std::vector{in, out} : std::vector{out, in}, bias ? out : 0, in,
          out};
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

void add_mixture(const DecoderSpec& spec, std::vector<Part>& parts) {
  const MixtureSpec& mixture = *spec.mixture;
  const int64_t hidden = spec.hidden_size, inner = mixture.expert_size, experts = mixture.num_experts;
  parts.push_back({Role::kRouter, {experts, hidden}});
  if (mixture.stacked_experts) {
    parts.push_back({Role::kStackedGateUp, {experts, 2 * inner, hidden}});
    parts.push_back({Role::kStackedDown, {experts, hidden, inner}});
  } else {
    for (int64_t expert = 0; expert < experts; ++expert) {
      parts.push_back({.role = Role::kExpertGate, .weight = {inner, hidden}, .expert = expert});
      parts.push_back({.role = Role::kExpertUp, .weight = {inner, hidden}, .expert = expert});
      parts.push_back({.role = Role::kExpertDown, .weight = {hidden, inner}, .expert = expert});
    }
  }
  if (mixture.shared_expert_size == 0) return;
  parts.push_back(linear(spec, Role::kSharedGate, hidden, mixture.shared_expert_size, false));
  parts.push_back(linear(spec, Role::kSharedUp, hidden, mixture.shared_expert_size, false));
  parts.push_back(linear(spec, Role::kSharedDown, mixture.shared_expert_size, hidden, false));
  parts.push_back(linear(spec, Role::kSharedSwitch, hidden, 1, false));
}

std::vector<Part> layer_parts(const DecoderSpec& spec, int64_t layer) {
  std::vector<Part> parts;
  add_attention(spec, parts);
  if (spec.layers.at(static_cast<std::size_t>(layer)).has_experts) {
    add_mixture(spec, parts);
  } else {
    add_mlp(spec, parts);
  }
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

std::string numbered(std::string_view pattern, int64_t layer, int64_t expert) {
  std::string name(pattern);
  for (const int64_t number : {layer, expert}) {
    if (const auto hole = name.find("{}"); hole != std::string::npos)
      name.replace(hole, 2, std::to_string(number));
  }
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

// In files, without ".weight" or ".bias".
std::string tensor_name(const Family& family, Role role, int64_t layer, int64_t expert = 0) {
  return numbered(name_of(family, role).name, layer, expert);
}

// Of the module, as adapters name it.
std::string module_name(const Family& family, Role role, int64_t layer, int64_t expert = 0) {
  const RoleName& name = name_of(family, role);
  return numbered(name.module.empty() ? name.name : name.module, layer, expert);
}

[[noreturn]] void fail_not_adaptable(const std::string& module) {
  base::fail(base::ExitCode::kConfig,
             "lora_target_modules names {}, which is no linear that can be adapted; it can be trained as a "
             "whole with lora_modules_to_save",
             module);
}

class LayoutBuilder {
 public:
  LayoutBuilder(const DecoderSpec& spec, const Family& family, const AdapterSpec* adapter, int64_t layer)
      : spec_(spec), family_(family), adapter_(adapter), layer_(layer) {
    layout_.weight_index.fill(kAbsent);
    layout_.bias_index.fill(kAbsent);
  }

  BlockLayout build(const std::vector<Part>& parts) {
    for (const Part& part : parts) {
      if (part.weight.size() >= 2) add(layout_.weight_index, part, ".weight", part.weight);
    }
    for (const Part& part : parts) {
      if (part.weight.size() == 1) add(layout_.weight_index, part, ".weight", part.weight);
      if (part.bias > 0) add(layout_.bias_index, part, ".bias", {part.bias});
    }
    if (adapter_ != nullptr) add_adapters(parts);
    return std::move(layout_);
  }

 private:
  void add(std::array<int, kNumRoles>& index, const Part& part, const char* suffix,
           const std::vector<int64_t>& shape) {
    int& place = index[static_cast<std::size_t>(part.role)];
    const int here = static_cast<int>(layout_.tensors.size());
    if (part.expert == 0) place = here;
    if (part.expert == 1) layout_.expert_stride = here - place;
    const RoleName& names = name_of(family_, part.role);
    const std::string module = module_name(family_, part.role, layer_, part.expert);
    TensorDef def;
    def.model_name = tensor_name(family_, part.role, layer_, part.expert) + suffix;
    def.name = adapter_ == nullptr ? def.model_name : module + suffix;
    def.shape = shape;
    def.decay = shape.size() >= 2;
    def.linear = def.decay && part.in > 0;
    def.routed = is_routed(part.role);
    const auto add_alias = [&](const std::string& name) {
      if (name != def.name) def.aliases.push_back(name);
      if (name.starts_with(family_.base_prefix))
        def.aliases.push_back(name.substr(family_.base_prefix.size()));
    };
    if (!names.alias.empty()) add_alias(numbered(names.alias, layer_, part.expert) + suffix);
    add_alias(def.model_name);
    if (part.role == Role::kOutputEmbedding && spec_.output_embedding_from_input)
      add_alias(tensor_name(family_, Role::kTokenEmbedding, 0) + suffix);
    if (part.role == Role::kTokenEmbedding && spec_.tie_word_embeddings) {  // files hold either
      const RoleName& head = name_of(family_, Role::kOutputEmbedding);
      for (const std::string_view name : {head.name, head.alias}) {
        if (!name.empty()) add_alias(std::string(name) + suffix);
      }
    }
    if (adapter_ != nullptr) {
      def.trainable = adapter_->saves(module);
      if (def.trainable) {
        check_is_for_peft(part.role, module, "lora_modules_to_save");
        def.aliases.insert(def.aliases.begin(), def.name);
        def.name.insert(0, kAdapterPrefix);
      }
    }
    layout_.tensors.push_back(std::move(def));
  }

  void check_is_for_peft(Role role, const std::string& module, const char* option) const {
    if (is_for_peft(spec_, role)) return;
    base::fail(base::ExitCode::kConfig,
               "{} takes in {}: in a mixture of experts ({}) only the attention can be adapted; set "
               "lora_target_modules = q_proj, k_proj, v_proj, o_proj, or some of them",
               option, module, spec_.model_type);
  }

  // All A before all B, each in role order.
  void add_adapters(const std::vector<Part>& parts) {
    std::vector<const Part*> targets;
    for (const Part& part : parts) {
      const std::string module =
          part.weight.empty() ? "" : module_name(family_, part.role, layer_, part.expert);
      if (module.empty() || adapter_->saves(module) || !adapter_->targets(module)) continue;
      check_is_for_peft(part.role, module, "lora_target_modules");
      if (part.in > 0) {
        targets.push_back(&part);
      } else if (!adapter_->all_linear) {
        fail_not_adaptable(module);
      }
    }
    for (const Part* part : targets) {
      const std::string module = module_name(family_, part->role, layer_);
      LoraPlace& place = layout_.adapters[part->role];
      place.scale = adapter_->scale();
      place.dropout = adapter_->lora_dropout;
      place.dropout_site = dropout_site(module, targets);
      place.a = add_adapter(module + ".lora_A.weight", AdapterPart::kA, {adapter_->r, part->in});
    }
    for (const Part* part : targets) {
      const std::string module = module_name(family_, part->role, layer_);
      LoraPlace& place = layout_.adapters[part->role];
      place.b = add_adapter(module + ".lora_B.weight", AdapterPart::kB, {part->out, adapter_->r});
      if (adapter_->use_dora)
        place.magnitude =
            add_adapter(module + ".lora_magnitude_vector", AdapterPart::kMagnitude, {part->out});
    }
  }

  // By the last part of its name; by the last two where another target shares that (GPT-2: attn.c_proj, mlp.c_proj).
  int32_t dropout_site(const std::string& module, const std::vector<const Part*>& targets) const {
    constexpr uint32_t kAboveTheDecodersSites = 1U << 16;
    const std::size_t last = module.rfind('.');
    const std::string tail = module.substr(last);  // with its dot
    const bool shared = std::ranges::count_if(targets, [&](const Part* other) {
                          return module_name(family_, other->role, layer_).ends_with(tail);
                        }) > 1;
    const std::size_t begin = shared ? module.rfind('.', last - 1) : last;
    return static_cast<int32_t>((name_bits(module.substr(begin + 1)) | kAboveTheDecodersSites) & 0x7FFFFFFFU);
  }

  // transformers decides by name what takes weight decay: adapters do, the magnitude too.
  int add_adapter(const std::string& name, AdapterPart kind, std::vector<int64_t> shape) {
    TensorDef def;
    def.name = std::string(kAdapterPrefix) + name;
    def.shape = std::move(shape);
    def.adapter = kind;
    layout_.tensors.push_back(std::move(def));
    return static_cast<int>(layout_.tensors.size()) - 1;
  }

  const DecoderSpec& spec_;
  const Family& family_;
  const AdapterSpec* adapter_;
  int64_t layer_;
  BlockLayout layout_;
};

// Last parts of the names of a layer's linears.
std::vector<std::string> linear_names(const DecoderSpec& spec, const Family& family) {
  std::vector<std::string> names;
  for (const Part& part : layer_parts(spec, 0)) {
    if (part.in == 0 || !is_for_peft(spec, part.role)) continue;
    const std::string module = module_name(family, part.role, 0);
    names.push_back(module.substr(module.rfind('.') + 1));
  }
  return names;
}

// Every one names a part of the model.
void check_saved_modules(const AdapterSpec& adapter, const std::vector<BlockLayout>& layouts,
                         const DecoderSpec& spec) {
  for (const std::string& name : adapter.modules_to_save) {
    AdapterSpec only;
    only.modules_to_save = {name};
    const auto is_of_it = [&](const TensorDef& tensor) {
      std::string_view module = tensor.name;
      if (tensor.trainable) module.remove_prefix(kAdapterPrefix.size());
      return only.saves(module.substr(0, module.rfind('.')));
    };
    const auto holds_it = [&](const BlockLayout& layout) { return std::ranges::any_of(layout.tensors, is_of_it); };
    if (std::ranges::any_of(layouts, holds_it)) continue;
    base::fail(base::ExitCode::kConfig, "lora_modules_to_save names {}, which is no part of this {} model", name,
               spec.model_type);
  }
}

}  // namespace

std::vector<std::string> TensorDef::names_in_files(const std::string& prefix) const {
  std::vector<std::string> names{prefix + name};
  for (const std::string& alias : aliases) names.push_back(prefix + alias);
  return names;
}

int64_t TensorDef::numel() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

DecoderSpec untied_where_saved(DecoderSpec spec, const Family& family, const AdapterSpec* adapter) {
  if (adapter == nullptr || !spec.tie_word_embeddings) return spec;
  if (adapter->saves(module_name(family, Role::kTokenEmbedding, 0)) ||
      adapter->saves(module_name(family, Role::kOutputEmbedding, 0))) {
    spec.tie_word_embeddings = false;
    spec.output_embedding_from_input = true;
  }
  return spec;
}

std::array<TensorDef, 2> embeddings(const DecoderSpec& spec, const Family& family) {
  DecoderSpec apart = spec;
  apart.tie_word_embeddings = false;
  const BlockLayout input = LayoutBuilder(apart, family, nullptr, 0).build(embedding_parts(apart));
  const BlockLayout output = LayoutBuilder(apart, family, nullptr, 0).build(head_parts(apart));
  return {input.tensors[static_cast<std::size_t>(input.weight(Role::kTokenEmbedding))],
          output.tensors[static_cast<std::size_t>(output.weight(Role::kOutputEmbedding))]};
}

std::vector<BlockLayout> make_layouts(const DecoderSpec& spec, const Family& family,
                                      const AdapterSpec* adapter) {
  if (adapter != nullptr && !adapter->all_linear && spec.tie_word_embeddings) {
    // A tied head is no part of its own.
    const std::string head = module_name(family, Role::kOutputEmbedding, 0);
    if (adapter->targets(head)) fail_not_adaptable(head);
  }
  std::vector<BlockLayout> layouts{LayoutBuilder(spec, family, adapter, 0).build(embedding_parts(spec))};
  for (int64_t layer = 0; layer < spec.num_hidden_layers; ++layer) {
    layouts.push_back(LayoutBuilder(spec, family, adapter, layer).build(layer_parts(spec, layer)));
  }
  layouts.push_back(LayoutBuilder(spec, family, adapter, 0).build(head_parts(spec)));
  if (adapter != nullptr) check_saved_modules(*adapter, layouts, spec);
  const auto adapted = [](const BlockLayout& layout) { return !layout.adapters.empty(); };
  if (adapter != nullptr && std::ranges::none_of(layouts, adapted)) {
    base::fail(base::ExitCode::kConfig,
               "the adapter's target modules ({}) name no linear of this {} model; its layers have {}",
               adapter->target_pattern.empty() ? fmt::format("{}", fmt::join(adapter->target_modules, ", "))
                                               : adapter->target_pattern,
               spec.model_type, fmt::join(linear_names(spec, family), ", "));
  }
  return layouts;
}

std::optional<Lora> BlockView::lora(Role role) const {
  const auto found = layout_.adapters.find(role);
  if (found == layout_.adapters.end()) return std::nullopt;
  const LoraPlace& place = found->second;
  Lora lora;
  if (place.magnitude != kAbsent) lora.base = linear(role);
  lora.a = pick(tensors_.weights, place.a);
  lora.b = pick(tensors_.weights, place.b);
  lora.magnitude = pick(tensors_.weights, place.magnitude);
  lora.grad_a = pick(tensors_.grads, place.a);
  lora.grad_b = pick(tensors_.grads, place.b);
  lora.grad_magnitude = pick(tensors_.grads, place.magnitude);
  lora.scale = place.scale;
  lora.dropout = place.dropout;
  lora.site = place.dropout_site;
  lora.name_a = layout_.tensors[static_cast<std::size_t>(place.a)].name;
  lora.name_b = layout_.tensors[static_cast<std::size_t>(place.b)].name;
  return lora;
}

}  // namespace sft::model
