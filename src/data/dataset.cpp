#include "sft/data/dataset.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "data/dataset_file.h"
#include "data/packing.h"
#include "sft/base/error.h"
#include "sft/data/sampler.h"

namespace sft::data {
namespace {

using base::ExitCode;
using base::fail;

class FileDataset final : public TokenDataset {
 public:
  FileDataset(DatasetFile file, const RowOptions& options)
      : file_(std::move(file)),
        max_length_(options.max_length.value_or(std::numeric_limits<int64_t>::max())) {
    if (options.packing) {
      strategy_ = options.packing->strategy;
      pack(*options.packing, options.shuffle_seed);
    } else if (options.max_length) {
      drop_rows_without_labels();
    }
    if (options.shuffle_seed) order_ = permuted(order_, size(), *options.shuffle_seed);
    count_losses();
    refuse_without_targets();
  }

  const DatasetInfo& info() const override { return file_.info; }
  int64_t size() const override {
    return packed_ ? packed_->size() : file_.info.num_rows - num_rows_dropped_;
  }
  int64_t num_rows_truncated() const override { return num_rows_truncated_; }
  int64_t num_tokens_lost() const override { return num_tokens_lost_; }
  int64_t num_rows_dropped() const override { return num_rows_dropped_; }

  int64_t length(int64_t index) const override {
    int64_t sum = 0;
    for_each_piece(index, [&](const Piece& piece) { sum += piece.length; });
    return sum;
  }

  int64_t longest_sequence() const override { return longest_sequence_; }

  std::vector<int64_t> row_numbers(int64_t index) const override {
    std::vector<int64_t> numbers;
    for_each_piece(index, [&](const Piece& piece) { numbers.push_back(piece.row); });
    return numbers;
  }

  TokenRow read(int64_t index) const override {
    TokenRow row;
    row.id.row = -1;
    for_each_piece(index, [&](const Piece& piece) {
      if (row.id.row < 0) row.id.row = piece.row;
      append(piece, row);
    });
    return row;
  }

 private:
  // A row of the file, as far as it is used when it is not packed.
  Piece cut(int64_t row) const {
    return {row, 0, static_cast<int32_t>(std::min(file_.length(row), max_length_))};
  }

  template <typename Visit>
  void for_each_piece(int64_t index, Visit&& visit) const {
    const int64_t row = order_.empty() ? index : order_[static_cast<std::size_t>(index)];
    if (!packed_) return visit(cut(row));
    for (const Piece& piece : packed_->row(row)) visit(piece);
  }

  void append(const Piece& piece, TokenRow& row) const {
    const std::size_t begin = row.input_ids.size();
    const int64_t first = file_.offsets[static_cast<std::size_t>(piece.row)] + piece.begin;
    row.input_ids.resize(begin + static_cast<std::size_t>(piece.length));
    row.labels.resize(row.input_ids.size());
    const std::span<int32_t> ids = std::span(row.input_ids).subspan(begin);
    const std::span<int32_t> labels = std::span(row.labels).subspan(begin);
    file_.input_ids.read(first, ids);
    file_.check_ids(ids, first);
    if (file_.labels) {
      file_.labels->read(first, labels);
      file_.check_labels(labels, first);
    } else {
      std::copy(ids.begin(), ids.end(), labels.begin());
      if (file_.loss_mask) mask_labels(labels, first);
    }
    if (!packed_ || strategy_ == PackingStrategy::kWrapped) return;
    labels[0] = kIgnoreIndex;
    row.segment_lengths.push_back(piece.length);
  }

  void mask_labels(std::span<int32_t> labels, int64_t first) const {
    std::vector<uint8_t> learnt(labels.size());
    file_.loss_mask->read(first, learnt);
    file_.check_loss_mask(learnt, first);
    for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = learnt[i] != 0 ? labels[i] : kIgnoreIndex;
  }

  // `order` (empty: the identity over n), permuted as datasets.Dataset.shuffle(seed) does.
  static std::vector<int64_t> permuted(const std::vector<int64_t>& order, int64_t n, uint64_t seed) {
    std::vector<int64_t> result = numpy_permutation(n, seed);
    if (order.empty()) return result;
    for (int64_t& index : result) index = order[static_cast<std::size_t>(index)];
    return result;
  }

  void pack(const Packing& packing, const std::optional<uint64_t>& shuffle_seed) {
    const int64_t n = file_.info.num_rows;
    std::vector<int64_t> order;
    if (shuffle_seed) order = numpy_permutation(n, *shuffle_seed);
    const auto document = [&](int64_t i) -> Piece {
      const int64_t row = order.empty() ? i : order[static_cast<std::size_t>(i)];
      return {row, 0, static_cast<int32_t>(file_.length(row))};
    };
    packed_ = pack_documents(n, document, max_length_, packing);
  }

  // TRL drops only where it cuts, and by any label in the slice, column 0 included.
  void drop_rows_without_labels() {
    const std::vector<int32_t> first_targets = file_.read_first_targets();
    const auto is_kept = [&](int64_t row) {
      return first_targets[static_cast<std::size_t>(row)] < cut(row).length;
    };
    if (first_targets.empty()) return;
    for (int64_t row = 0; row < file_.info.num_rows; ++row) num_rows_dropped_ += !is_kept(row);
    if (num_rows_dropped_ == 0 || size() == 0) return;
    order_.reserve(static_cast<std::size_t>(size()));
    for (int64_t row = 0; row < file_.info.num_rows; ++row) {
      if (is_kept(row)) order_.push_back(row);
    }
  }

  void count_losses() {
    int64_t num_tokens_kept = 0, num_whole = 0;
    const bool across = packed_ && strategy_ == PackingStrategy::kWrapped;
    for (int64_t index = 0; index < size(); ++index) {
      if (across) longest_sequence_ = std::max(longest_sequence_, length(index));
      for_each_piece(index, [&](const Piece& piece) {
        num_whole += piece.length == file_.length(piece.row);
        num_tokens_kept += piece.length;
        longest_sequence_ = std::max<int64_t>(longest_sequence_, piece.length);
      });
    }
    num_rows_truncated_ = file_.info.num_rows - num_rows_dropped_ - num_whole;
    num_tokens_lost_ = file_.info.num_tokens - num_tokens_kept;
  }

  void refuse_without_targets() const {
    if (size() == 0) {
      fail(ExitCode::kInvalidData, "{}: max_length = {} leaves no row with a target: raise it",
           file_.path.string(), max_length_);
    }
    if (longest_sequence_ < 2) {
      fail(ExitCode::kInvalidData, "{}: no row has more than one token{}: there is no next token to learn",
           file_.path.string(), max_length_ < 2 ? " within max_length = 1" : "");
    }
  }

  DatasetFile file_;
  int64_t max_length_;
  PackingStrategy strategy_ = PackingStrategy::kBfd;
  std::optional<PackedRows> packed_;
  std::vector<int64_t>
      order_;  // of rows of the file or, where packed, of packed rows; empty: all, as they come
  int64_t num_rows_truncated_ = 0, num_tokens_lost_ = 0, num_rows_dropped_ = 0, longest_sequence_ = 0;
};

}  // namespace

std::unique_ptr<TokenDataset> TokenDataset::open(const std::filesystem::path& path,
                                                 const RowOptions& options) {
  if (options.max_length && *options.max_length < 1)
    fail(ExitCode::kConfig, "max_length is {}: it must be at least 1", *options.max_length);
  if (options.packing && !options.max_length)
    fail(ExitCode::kConfig, "packing needs max_length, the length of the rows it fills");
  return std::make_unique<FileDataset>(DatasetFile::open(path), options);
}

void verify_dataset(const std::filesystem::path& path) {
  verify_content(DatasetFile::open(path));
}

}  // namespace sft::data
