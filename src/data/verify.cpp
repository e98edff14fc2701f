#include <utility>
#include <vector>

#include "data/dataset_file.h"
#include "sft/base/error.h"

namespace sft::data {
namespace {

using base::ExitCode;
using base::fail;

// Compares num_target_tokens and first_target with what the labels say, token after token.
class TargetCount {
 public:
  explicit TargetCount(const DatasetFile& file) : file_(file), first_targets_(file.read_first_targets()) {}

  void add(int64_t token, bool learnt) {
    if (token == file_.offsets[row_ + 1]) end_row();
    if (!learnt) return;
    if (first_ < 0) first_ = token - file_.offsets[row_];
    ++num_targets_;
  }

  void finish() {
    end_row();
    if (num_targets_ == file_.info.num_target_tokens) return;
    fail(ExitCode::kInvalidData, "{}: num_target_tokens is {}, the labels give {}", file_.path.string(),
         file_.info.num_target_tokens, num_targets_);
  }

 private:
  void end_row() {
    const int64_t expected = first_ < 0 ? file_.length(static_cast<int64_t>(row_)) : first_;
    if (first_targets_[row_] != expected) {
      fail(ExitCode::kInvalidData, "{}: first_target: row {} has {}, the labels give {}", file_.path.string(),
           row_, first_targets_[row_], expected);
    }
    ++row_;
    first_ = -1;
  }

  const DatasetFile& file_;
  std::vector<int32_t> first_targets_;
  std::size_t row_ = 0;
  int64_t first_ = -1;  // in this row, -1: not yet seen
  int64_t num_targets_ = 0;
};

template <typename T, typename Check, typename Learnt>
void verify_labels(const DatasetFile& file, const StoredArray<T>& array, Check&& check, Learnt&& learnt) {
  TargetCount count(file);
  const std::string digest = visit_blocks(array, [&](int64_t first, std::span<const T> block) {
    check(block, first);
    for (std::size_t i = 0; i < block.size(); ++i)
      count.add(first + static_cast<int64_t>(i), learnt(block[i]));
  });
  count.finish();
  file.check_xxh3(array.name(), digest);
}

}  // namespace

void verify_content(const DatasetFile& file) {
  const std::string digest = visit_blocks(
      file.input_ids, [&](int64_t first, std::span<const int32_t> block) { file.check_ids(block, first); });
  file.check_xxh3("input_ids", digest);
  if (file.loss_mask) {
    verify_labels(
        file, *file.loss_mask, [&](auto block, int64_t first) { file.check_loss_mask(block, first); },
        [](uint8_t learnt) { return learnt != 0; });
  }
  if (file.labels) {
    verify_labels(
        file, *file.labels, [&](auto block, int64_t first) { file.check_labels(block, first); },
        [](int32_t label) { return label != kIgnoreIndex; });
  }
}

}  // namespace sft::data
