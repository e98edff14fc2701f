// What a data set file says about itself (docs/data-format.md).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace sft::data {

inline constexpr int32_t kIgnoreIndex = -100;

struct DatasetInfo {
  int64_t num_rows = 0;           // in the file
  int64_t num_tokens = 0;         // in the file
  int64_t num_target_tokens = 0;  // tokens whose label is not kIgnoreIndex, before truncation
  int64_t vocab_size = 0;
  std::optional<int64_t> bos_token_id, eos_token_id, pad_token_id;
  std::string tokenizer_sha256;
  std::string content_xxh3;    // identifies the content; part of a run's fingerprint
  std::string prepare_config;  // JSON of the options it was prepared with
};

}  // namespace sft::data
