#include "sft/data/dataset.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "data/dataset_file.h"
#include "sft/base/error.h"

namespace sft::data {
namespace {

using base::ExitCode;
using base::fail;

class FileDataset final : public TokenDataset {
 public:
  FileDataset(DatasetFile file, std::optional<int64_t> max_length)
      : file_(std::move(file)), max_length_(max_length.value_or(std::numeric_limits<int64_t>::max())) {
    drop_rows_without_labels(max_length.has_value());
    count_losses();
    refuse_without_targets();
  }

  const DatasetInfo& info() const override { return file_.info; }
  int64_t size() const override { return file_.info.num_rows - num_rows_dropped_; }
  int64_t length(int64_t index) const override { return cut_length(row_number(index)); }
  int64_t row_number(int64_t index) const override {
    return kept_.empty() ? index : kept_[static_cast<std::size_t>(index)];
  }
  int64_t num_rows_truncated() const override { return num_rows_truncated_; }
  int64_t num_tokens_lost() const override { return num_tokens_lost_; }
  int64_t num_rows_dropped() const override { return num_rows_dropped_; }

  TokenRow read(int64_t index) const override {
    TokenRow row;
    row.id.row = row_number(index);
    const int64_t first = file_.offsets[static_cast<std::size_t>(row.id.row)];
    row.input_ids.resize(static_cast<std::size_t>(cut_length(row.id.row)));
    file_.input_ids.read(first, row.input_ids);
    file_.check_ids(row.input_ids, first);
    if (file_.labels) {
      row.labels.resize(row.input_ids.size());
      file_.labels->read(first, row.labels);
      file_.check_labels(row.labels, first);
    } else {
      row.labels = row.input_ids;
      if (file_.loss_mask) mask_labels(row.labels, first);
    }
    return row;
  }

 private:
  int64_t cut_length(int64_t row) const { return std::min(file_.length(row), max_length_); }

  void mask_labels(std::vector<int32_t>& labels, int64_t first) const {
    std::vector<uint8_t> learnt(labels.size());
    file_.loss_mask->read(first, learnt);
    file_.check_loss_mask(learnt, first);
    for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = learnt[i] != 0 ? labels[i] : kIgnoreIndex;
  }

  // TRL drops only where it cuts, and by any label in the slice, column 0 included.
  void drop_rows_without_labels(bool cuts) {
    if (!cuts) return;
    const std::vector<int32_t> first_targets = file_.read_first_targets();
    const auto is_kept = [&](int64_t row) {
      return first_targets[static_cast<std::size_t>(row)] < cut_length(row);
    };
    if (first_targets.empty()) return;
    for (int64_t row = 0; row < file_.info.num_rows; ++row) num_rows_dropped_ += !is_kept(row);
    if (num_rows_dropped_ == 0 || size() == 0) return;
    kept_.reserve(static_cast<std::size_t>(size()));
    for (int64_t row = 0; row < file_.info.num_rows; ++row) {
      if (is_kept(row)) kept_.push_back(row);
    }
  }

  void count_losses() {
    int64_t num_tokens_kept = 0;
    for (int64_t index = 0; index < size(); ++index) {
      num_rows_truncated_ += length(index) < file_.length(row_number(index));
      num_tokens_kept += length(index);
      longest_row_ = std::max(longest_row_, length(index));
    }
    num_tokens_lost_ = file_.info.num_tokens - num_tokens_kept;
  }

  void refuse_without_targets() const {
    if (size() == 0) {
      fail(ExitCode::kInvalidData, "{}: max_length = {} leaves no row with a target: raise it",
           file_.path.string(), max_length_);
    }
    if (longest_row_ < 2) {
      fail(ExitCode::kInvalidData, "{}: no row has more than one token{}: there is no next token to learn",
           file_.path.string(), max_length_ < 2 ? " within max_length = 1" : "");
    }
  }

  DatasetFile file_;
  int64_t max_length_;
  std::vector<int64_t> kept_;  // usable rows; empty: all
  int64_t num_rows_truncated_ = 0, num_tokens_lost_ = 0, num_rows_dropped_ = 0, longest_row_ = 0;
};

}  // namespace

std::unique_ptr<TokenDataset> TokenDataset::open(const std::filesystem::path& path,
                                                 std::optional<int64_t> max_length) {
  if (max_length && *max_length < 1)
    fail(ExitCode::kConfig, "max_length is {}: it must be at least 1", *max_length);
  return std::make_unique<FileDataset>(DatasetFile::open(path), max_length);
}

}  // namespace sft::data
