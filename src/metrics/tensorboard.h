// TensorBoard event files: a sequence of TFRecords, each holding one Event message in protobuf's wire format.
//
//   record   length (uint64) · masked crc32c of the length (uint32) · message · masked crc32c of the message
//   (uint32); little-endian Event    1: wall_time (double)   2: step (int64)   3: file_version (string, first
//   record only)   5: summary (Summary) Summary  1: value (Value, repeated)          Value  1: tag (string)
//   2: simple_value (float)
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "metrics/append_file.h"

namespace sft::metrics {

class TensorBoardFile {
 public:
  // Makes output_dir/runs/<time>_<label>/events.out.tfevents.*; the label is the host's name when it is
  // empty. Error(kStorage).
  TensorBoardFile(const std::filesystem::path& output_dir, const std::string& label);

  // tags: train/loss, eval/loss ...
  void scalars(int64_t step, double wall_time, const std::vector<std::pair<std::string, double>>& tags);
  void sync() { file_.sync(); }

 private:
  AppendFile file_;
};

// The tag of a Hugging Face log key: eval_loss -> eval/loss, loss -> train/loss.
std::string tensorboard_tag(const std::string& key);

// CRC-32C (Castagnoli).
uint32_t crc32c(std::string_view bytes);
std::string tensorboard_record(std::string_view message);

}  // namespace sft::metrics
