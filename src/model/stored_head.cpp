#include "model/layout.h"
#include "sft/base/file.h"
#include "sft/base/log.h"
#include "sft/model/spec.h"
#include "sft/model/weights.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>

#include <algorithm>

namespace sft::model {
namespace {

constexpr int64_t kStretches = 64, kStretchElements = 64;

// By stretches that are spread evenly over both: copies are equal, trained ones differ everywhere.
bool differ(const TensorSource& source, const std::string& a, const std::string& b) {
  if (source.shape(a) != source.shape(b)) return true;
  TensorDef all;
  all.shape = source.shape(a);
  const int64_t numel = all.numel(), length = std::min(kStretchElements, numel);
  const at::Tensor values_a = at::empty({length}, at::kFloat), values_b = at::empty({length}, at::kFloat);
  for (int64_t i = 0; i < kStretches; ++i) {
    const int64_t begin = (numel - length) / (kStretches - 1) * i;
    source.read(a, begin, begin + length, values_a);
    source.read(b, begin, begin + length, values_b);
    if (!at::equal(values_a, values_b)) return true;
  }
  return false;
}

}  // namespace

DecoderSpec spec_of_model(const std::filesystem::path& model_dir) {
  const std::filesystem::path file = model_dir / "config.json";
  DecoderSpec spec = spec_from_config_json(base::read_text(file), file.string());
  if (!spec.tie_word_embeddings || !has_weights(model_dir)) return spec;  // who goes on from a checkpoint may have no others
  const auto source = open_model_weights(model_dir);
  const auto family = std::ranges::find(all_families(), spec.model_type, &Family::model_type);
  const auto [input, output] = embeddings(spec, **family);
  const auto in = stored_name(*source, input.names_in_files()), out = stored_name(*source, output.names_in_files());
  if (!in || !out || !differ(*source, *in, *out)) return spec;
  log::warning("{}: tie_word_embeddings is true, but the weights hold an output embedding of their own: as transformers, this run does not tie them",
               model_dir.string());
  spec.tie_word_embeddings = false;
  return spec;
}

}  // namespace sft::model
