// A tokenised data set in one HDF5 file. Format: docs/data-format.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sft/data/batch.h"
#include "sft/data/dataset_info.h"

namespace sft::data {

// TRL's packing_strategy.
enum class PackingStrategy {
  kBfd,  // documents cut to max_length, longest first, each into the row with the least space that holds it
  kBfdSplit,  // the same for documents cut into pieces of max_length
  kWrapped,   // documents behind one another, cut every max_length tokens; what lies in a row attends across
              // documents
};

struct Packing {
  PackingStrategy strategy = PackingStrategy::kBfd;
  int64_t scope = 1000;  // documents that are packed among themselves (TRL's map batch); 0: all
};

// How the rows of a file become rows to train on: shuffled, packed, shuffled again, as TRL prepares a data
// set.
struct RowOptions {
  std::optional<int64_t> max_length = {};  // unset: rows whole
  std::optional<uint64_t> shuffle_seed =
      {};                               // shuffle_dataset; TRL takes the run's `seed`, not its `data_seed`
  std::optional<Packing> packing = {};  // needs max_length
};

// Rows to train on. Without packing: the rows of the file ("documents" below), cut.
class TokenDataset {
 public:
  virtual ~TokenDataset() = default;

  // Local. Refuses (Error kInvalidData naming file, object and value): see docs/data-format.md, "What a
  // reader refuses". max_length without packing: rows are cut to it; rows without any label left are left
  // out, as TRL does (then `size() < info().num_rows`). With packing nothing is left out.
  static std::unique_ptr<TokenDataset> open(const std::filesystem::path& path, const RowOptions& options);

  virtual const DatasetInfo& info() const = 0;
  virtual int64_t size() const = 0;                                   // usable rows
  virtual int64_t length(int64_t index) const = 0;                    // tokens of usable row `index`
  virtual int64_t longest_sequence() const = 0;  // tokens that see one another: of a row, or of a document that packing keeps apart
  virtual std::vector<int64_t> row_numbers(int64_t index) const = 0;  // its documents' numbers in the file
  // Thread-safe. Ids are checked against vocab_size. id.row is the number in the file; the caller fills epoch
  // and position. The first label of each document that packing put into a row is kIgnoreIndex, as TRL's
  // collator does.
  virtual TokenRow read(int64_t index) const = 0;
  // What the cut does, for the start table: documents that are not whole in one row, tokens that are in none,
  // documents left out.
  virtual int64_t num_rows_truncated() const = 0;
  virtual int64_t num_tokens_lost() const = 0;
  virtual int64_t num_rows_dropped() const = 0;
};

// Local. Reads everything and checks every id, offset and hash; throws as open() does.
void verify_dataset(const std::filesystem::path& path);

}  // namespace sft::data
