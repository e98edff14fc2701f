// Bytes of a data set file that changed on the disk: refused, or read as if they had not changed; never a
// crash.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "sft/base/error.h"
#include "sft/data/dataset.h"
#include "support/dataset_writer.h"
#include "support/temp_dir.h"

namespace sft::data {
namespace damaged_dataset_test {

using test::Storage;

std::string storage_name(const testing::TestParamInfo<Storage>& test) {
  return test.param == Storage::kContiguous ? "Contiguous"
         : test.param == Storage::kChunked  ? "Chunked"
                                            : "Deflated";
}

// Everything a run takes from the file.
std::string read_all(const std::filesystem::path& path) {
  verify_dataset(path);
  const auto dataset = TokenDataset::open(path, {.max_length = 6});
  const DatasetInfo& info = dataset->info();
  std::string all = fmt::format("{} {} {} {} {} {} {}\n", info.num_rows, info.num_tokens,
                                info.num_target_tokens, info.vocab_size, info.eos_token_id.value_or(-1),
                                info.tokenizer_sha256, info.prepare_config);
  for (int64_t i = 0; i < dataset->size(); ++i) {
    const TokenRow row = dataset->read(i);
    all +=
        fmt::format("{}: {} | {}\n", row.id.row, fmt::join(row.input_ids, " "), fmt::join(row.labels, " "));
  }
  return all;
}

class DamagedDataset : public testing::TestWithParam<Storage> {
 protected:
  void SetUp() override {
    test::DatasetContent content = test::formula_dataset({5, 9, 2, 14, 7});
    for (const auto& row : content.rows) {
      content.loss_mask.emplace_back(row.size(), 1);
      content.loss_mask.back()[0] = 0;
    }
    content.storage = GetParam();
    test::write_dataset(path_, content);
    bytes_ = test::read_file(path_);
    expected_ = read_all(path_);
  }

  // Whether it is refused; anything else than the same content fails the test.
  bool refused(const std::string& bytes) {
    test::write_file(path_, bytes);
    try {
      EXPECT_EQ(read_all(path_), expected_);
      return false;
    } catch (const base::Error& error) {
      EXPECT_EQ(error.code(), base::ExitCode::kInvalidData) << error.what();
      EXPECT_NE(std::string(error.what()).find(path_.string()), std::string::npos) << error.what();
      return true;
    }
  }

  test::TempDir folder_;
  const std::filesystem::path path_ = folder_ / "train.h5";
  std::string bytes_, expected_;
};

INSTANTIATE_TEST_SUITE_P(, DamagedDataset,
                         testing::Values(Storage::kContiguous, Storage::kChunked, Storage::kDeflated),
                         storage_name);

TEST_P(DamagedDataset, FlippedBitsInTheData) {
  int num_flips = 0, num_refused = 0;
  for (const test::ByteRange& range : test::storage_ranges(path_)) {
    for (int64_t i = range.begin; i < range.end; ++i, ++num_flips) {
      const std::size_t at = static_cast<std::size_t>(i);
      std::string damaged = bytes_;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << (i % 8)));
      num_refused += refused(damaged);
    }
  }
  // The last chunk of an array has bytes that mean nothing.
  EXPECT_GT(num_refused, GetParam() == Storage::kContiguous ? num_flips - 1 : num_flips / 2);
  EXPECT_GT(num_flips, 200);
}

TEST_P(DamagedDataset, FlippedBitsAnywhere) {
  for (std::size_t i = 0; i < bytes_.size(); ++i) {
    if (i % (bytes_[i] == 0 ? 512 : 4) != 0) continue;  // most of the library's own space is unused
    SCOPED_TRACE(fmt::format("byte {}", i));
    std::string damaged = bytes_;
    damaged[i] = static_cast<char>(damaged[i] ^ (1 << (i / 4 % 8)));
    refused(damaged);
  }
}

TEST_P(DamagedDataset, Truncated) {
  for (std::size_t size = 0; size < bytes_.size(); size += size < 32 ? 1 : 97) {
    EXPECT_TRUE(refused(bytes_.substr(0, size))) << size << " of " << bytes_.size() << " bytes";
  }
  EXPECT_TRUE(refused(bytes_.substr(0, bytes_.size() - 1)));
}

TEST_P(DamagedDataset, TruncatedAfterItWasOpened) {
  const auto dataset = TokenDataset::open(path_, {});
  std::filesystem::resize_file(path_, 100);
  int num_refused = 0;
  for (int64_t i = 0; i < dataset->size(); ++i) {
    try {
      dataset->read(i);
    } catch (const base::Error& error) {
      EXPECT_EQ(error.code(), base::ExitCode::kInvalidData) << error.what();
      ++num_refused;
    }
  }
  EXPECT_GT(num_refused, 0);
}

}  // namespace damaged_dataset_test
}  // namespace sft::data
