// A tokenised data set in one HDF5 file. Format: docs/data-format.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "sft/data/batch.h"

namespace sft::data {

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

class TokenDataset {
 public:
  virtual ~TokenDataset() = default;

  // Local. Refuses (Error kInvalidData naming file, object and value): see docs/data-format.md, "What a
  // reader refuses". max_length: rows are cut to it; rows without any label left are left out, as TRL does
  // (then `size() < info().num_rows`).
  static std::unique_ptr<TokenDataset> open(const std::filesystem::path& path,
                                            std::optional<int64_t> max_length);

  virtual const DatasetInfo& info() const = 0;
  virtual int64_t size() const = 0;                     // usable rows
  virtual int64_t length(int64_t index) const = 0;      // tokens of usable row `index`, after the cut
  virtual int64_t row_number(int64_t index) const = 0;  // its number in the file
  // Thread-safe. Ids are checked against vocab_size. id.row is the row's number in the file; the caller fills
  // epoch and position.
  virtual TokenRow read(int64_t index) const = 0;
  // Rows and tokens the cut loses, for the start table.
  virtual int64_t num_rows_truncated() const = 0;
  virtual int64_t num_tokens_lost() const = 0;
  virtual int64_t num_rows_dropped() const = 0;
};

// Local. Reads everything and checks every id, offset and hash; throws as open() does.
void verify_dataset(const std::filesystem::path& path);

}  // namespace sft::data
