// `sft-dist verify`: a checkpoint, or a model folder without a manifest.
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>

#include <algorithm>

#include "checkpoint/manifest.h"
#include "checkpoint/reader.h"
#include "sft/base/error.h"
#include "sft/base/log.h"
#include "sft/checkpoint/checkpoint.h"
#include "sft/model/adapter.h"

namespace sft::checkpoint {
namespace {

using base::ExitCode;
using base::fail;

constexpr int64_t kPieceElements = int64_t{4} << 20;

bool is_float(const std::string& dtype) {
  return dtype == "F32" || dtype == "BF16" || dtype == "F16" || dtype == "F64";
}

void check_finite(const model::TensorSource& source, const std::string& name,
                  const std::filesystem::path& where) {
  int64_t numel = 1;
  for (const int64_t extent : source.shape(name)) numel *= extent;
  const at::Tensor buffer = at::empty({std::min(numel, kPieceElements)}, at::kFloat);
  for (int64_t begin = 0; begin < numel; begin += kPieceElements) {
    const int64_t end = std::min(numel, begin + kPieceElements);
    const at::Tensor part = buffer.narrow(0, 0, end - begin);
    source.read(name, begin, end, part);
    if (!at::isfinite(part).all().item<bool>()) {
      fail(ExitCode::kInvalidData, "{}: tensor '{}' has a value that is not finite among elements {} to {}",
           where.string(), log::printable(name), begin, end);
    }
  }
}

}  // namespace

void verify_directory(const std::filesystem::path& path) {
  if (std::filesystem::exists(
          (path / kManifestName).parent_path())) {  // also where only the manifest is missing
    CheckpointReader reader(path, parse_manifest(read_manifest_text(path), (path / kManifestName).string()));
    reader.verify_part(0, 1);
    return;
  }
  const auto source =
      model::is_adapter_dir(path) ? model::open_adapter_weights(path) : model::open_model_weights(path);
  for (const std::string& name : source->names()) {
    if (is_float(source->dtype(name))) check_finite(*source, name, path);
  }
}

}  // namespace sft::checkpoint
