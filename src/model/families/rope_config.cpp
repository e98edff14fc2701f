// Rotary positions in config.json.
#include <cmath>
#include <limits>

#include "model/families/family.h"

namespace sft::model {
namespace {

constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();

int64_t rotary_dim(const ConfigReader& reader, const char* key, double factor, const DecoderSpec& spec) {
  const auto dim = static_cast<int64_t>(static_cast<double>(spec.head_dim) * factor);
  if (dim < 2 || dim % 2 != 0 || dim > spec.head_dim) {
    if (factor == 1.0) reader.unsupported("head_dim", "an even number (rotary positions)");
    reader.unsupported(key, "a share of head_dim = " + std::to_string(spec.head_dim) +
                                " that is an even number of features");
  }
  return dim;
}

void read_llama3(const ConfigReader& object, RopeSpec& rope) {
  rope.low_freq_factor = object.positive_number("low_freq_factor", kMissing);
  rope.high_freq_factor = object.positive_number("high_freq_factor", kMissing);
  if (rope.high_freq_factor <= rope.low_freq_factor) {
    object.unsupported("high_freq_factor", "a number above low_freq_factor");
  }
}

// As _compute_yarn_parameters of transformers.
void read_yarn(const ConfigReader& object, RopeSpec& rope, const DecoderSpec& spec) {
  const double ratio = static_cast<double>(spec.max_position_embeddings) /
                       static_cast<double>(rope.original_max_position_embeddings);
  rope.factor = object.positive_number("factor", object.contains("factor") ? ratio : kMissing);
  rope.beta_fast = object.positive_number("beta_fast", 32.0);
  rope.beta_slow = object.positive_number("beta_slow", 1.0);
  rope.truncate = object.flag("truncate", true);
  const auto magnitude = [&](double scale) {
    return rope.factor <= 1.0 ? 1.0 : 0.1 * scale * std::log(rope.factor) + 1.0;
  };
  const double mscale = object.number("mscale", 0.0), mscale_all = object.number("mscale_all_dim", 0.0);
  const double usual =
      mscale != 0.0 && mscale_all != 0.0 ? magnitude(mscale) / magnitude(mscale_all) : magnitude(1.0);
  rope.attention_factor = object.positive_number("attention_factor", usual);
}

// As _compute_longrope_parameters. The long factors apply to a whole batch as soon as one of its rows passes
// the original positions, which depends on what else is in the batch: only rows within them are run.
void read_longrope(const ConfigReader& object, RopeSpec& rope, DecoderSpec& spec) {
  const auto original = static_cast<double>(rope.original_max_position_embeddings);
  rope.factor =
      object.positive_number("factor", static_cast<double>(spec.max_position_embeddings) / original);
  const double usual = rope.factor <= 1.0 ? 1.0 : std::sqrt(1.0 + std::log(rope.factor) / std::log(original));
  rope.attention_factor = object.positive_number("attention_factor", usual);
  rope.short_factor = object.numbers("short_factor");
  if (static_cast<int64_t>(rope.short_factor.size()) != rope.rotary_dim / 2) {
    object.unsupported("short_factor",
                       "one number for each of " + std::to_string(rope.rotary_dim / 2) + " frequencies");
  }
  spec.longest_row = rope.original_max_position_embeddings;
}

}  // namespace

RopeSpec read_rope_object(const ConfigReader& config, const ConfigReader& object, RopeSpec rope,
                          DecoderSpec& spec, bool can_be_partial) {
  const std::string legacy = object.text("type", "default");  // the key's name before transformers 4.45
  std::string type = object.text("rope_type", legacy);
  rope.theta = object.positive_number("rope_theta", rope.theta);
  const double partial = object.number("partial_rotary_factor", kMissing);
  if (!std::isnan(partial)) {
    if (!can_be_partial && partial != 1.0) object.unsupported("partial_rotary_factor", "1.0");
    rope.rotary_dim = rotary_dim(object, "partial_rotary_factor", partial, spec);
  }
  if (type == "default") return rope;

  // A key beside the object wins over one in it, as in transformers.
  const char* kOriginal = "original_max_position_embeddings";
  const int64_t inside = object.positive(kOriginal, spec.max_position_embeddings);
  const int64_t of_family = rope.original_max_position_embeddings;
  rope.original_max_position_embeddings = config.positive(kOriginal, of_family != 0 ? of_family : inside);
  if (config.text("model_type", "") == "phi3" && (type == "su" || type == "yarn")) type = "longrope";
  if (type == "linear") {
    rope.scaling = RopeScaling::kLinear;
    rope.factor = object.positive_number("factor", kMissing);
  } else if (type == "llama3") {
    rope.scaling = RopeScaling::kLlama3;
    rope.factor = object.positive_number("factor", kMissing);
    read_llama3(object, rope);
  } else if (type == "yarn") {
    rope.scaling = RopeScaling::kYarn;
    read_yarn(object, rope, spec);
  } else if (type == "longrope") {
    rope.scaling = RopeScaling::kLongrope;
    read_longrope(object, rope, spec);
  } else {
    object.unsupported(object.has("rope_type") ? "rope_type" : "type",
                       "default, linear, llama3, yarn, longrope");
  }
  return rope;
}

void read_rope(const ConfigReader& config, DecoderSpec& spec, const RopeKeys& keys) {
  std::optional<ConfigReader> object;
  for (const char* key : {"rope_parameters", "rope_scaling"}) {  // rope_scaling wins, as in transformers
    if (config.has(key)) object.emplace(config.object(key));
  }
  RopeSpec rope;
  rope.original_max_position_embeddings = keys.original_positions;
  rope.theta = config.positive_number(keys.theta_key, keys.theta);
  const double partial = config.number(keys.partial_key, keys.partial_rotary_factor);
  if (!keys.can_be_partial && partial != 1.0) config.unsupported(keys.partial_key, "1.0");
  const bool said_inside = object && object->has("partial_rotary_factor");
  if (!said_inside) rope.rotary_dim = rotary_dim(config, keys.partial_key, partial, spec);
  if (object) rope = read_rope_object(config, *object, rope, spec, keys.can_be_partial);
  spec.ropes = {rope};
}

}  // namespace sft::model
