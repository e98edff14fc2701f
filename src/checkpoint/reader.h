// Opening a checkpoint: manifest, sizes, and every byte against its hash.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"
#include "checkpoint/verified_file.h"
#include "sft/checkpoint/checkpoint.h"

namespace sft::checkpoint {

class CheckpointReader final : public Reader {
 public:
  // Local. Opens all files and reads the tensor headers. Error(kInvalidData).
  CheckpointReader(const std::filesystem::path& path, Manifest manifest);

  const std::filesystem::path& path() const override { return path_; }
  int64_t step() const override { return manifest_.step; }
  const std::string& train_state() const override { return manifest_.train_state; }
  const std::string& environment() const override { return manifest_.environment; }
  bool has_optimizer() const override { return optimizer_ != nullptr; }
  std::string side_file(const std::string& name) const override;
  const model::TensorSource& model() const override { return *model_; }
  const model::TensorSource& optimizer() const override;
  int64_t bytes_verified() const override { return bytes_verified_; }

  // Local. Part `part` of `parts` equal parts of all bytes. Error(kInvalidData) naming file and byte range.
  void verify_part(int64_t part, int64_t parts);

 private:
  std::unique_ptr<model::TensorSource> open_tensors(const std::string& stem) const;

  std::filesystem::path path_;
  Manifest manifest_;
  std::unique_ptr<model::TensorSource> model_, optimizer_;
  int64_t bytes_verified_ = 0;
};

// Local. Text of the manifest in this folder. Error(kInvalidData) when there is none.
std::string read_manifest_text(const std::filesystem::path& checkpoint);

}  // namespace sft::checkpoint
