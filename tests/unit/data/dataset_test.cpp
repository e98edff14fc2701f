#include "sft/data/dataset.h"

#include <gtest/gtest.h>

#include <thread>

#include "sft/base/error.h"
#include "sft/data/sampler.h"
#include "support/dataset_writer.h"
#include "support/temp_dir.h"

namespace sft::data {
namespace dataset_test {

using test::DatasetContent;
using test::Storage;
using Ids = std::vector<int32_t>;

class Dataset : public testing::TestWithParam<Storage> {
 protected:
  std::unique_ptr<TokenDataset> open(DatasetContent content, const RowOptions& options) {
    content.storage = GetParam();
    test::write_dataset(path_, content);
    verify_dataset(path_);
    return TokenDataset::open(path_, options);
  }
  test::TempDir folder_;
  const std::filesystem::path path_ = folder_ / "train.h5";
};

std::string storage_name(const testing::TestParamInfo<Storage>& test) {
  return test.param == Storage::kContiguous ? "Contiguous"
         : test.param == Storage::kChunked  ? "Chunked"
                                            : "Deflated";
}

INSTANTIATE_TEST_SUITE_P(, Dataset,
                         testing::Values(Storage::kContiguous, Storage::kChunked, Storage::kDeflated),
                         storage_name);

TEST_P(Dataset, ReadsRowsWhole) {
  const DatasetContent content = test::formula_dataset({3, 1, 20, 8});
  const auto dataset = open(content, {});
  ASSERT_EQ(dataset->size(), 4);
  for (int64_t r = 3; r >= 0; --r) {
    const TokenRow row = dataset->read(r);
    EXPECT_EQ(row.input_ids, content.rows[static_cast<std::size_t>(r)]);
    EXPECT_EQ(row.labels, row.input_ids);
    EXPECT_EQ(row.id.row, r);
    EXPECT_EQ(dataset->row_numbers(r), std::vector<int64_t>{r});
    EXPECT_EQ(dataset->length(r), static_cast<int64_t>(row.input_ids.size()));
  }
  const DatasetInfo& info = dataset->info();
  EXPECT_EQ(info.num_rows, 4);
  EXPECT_EQ(info.num_tokens, 32);
  EXPECT_EQ(info.num_target_tokens, 32);
  EXPECT_EQ(info.vocab_size, 100);
  EXPECT_EQ(info.eos_token_id, 2);
  EXPECT_EQ(info.pad_token_id, std::nullopt);
  EXPECT_EQ(info.tokenizer_sha256, std::string(64, 'a'));
  EXPECT_EQ(info.prepare_config, content.prepare_config);
  EXPECT_EQ(info.content_xxh3.size(), 32U);
  EXPECT_EQ(dataset->num_rows_truncated() + dataset->num_rows_dropped() + dataset->num_tokens_lost(), 0);
}

TEST_P(Dataset, CutsRows) {
  const auto dataset = open(test::formula_dataset({3, 1, 20, 8}), {.max_length = 8});
  ASSERT_EQ(dataset->size(), 4);
  EXPECT_EQ(dataset->length(2), 8);
  EXPECT_EQ(dataset->read(2).input_ids.size(), 8U);
  EXPECT_EQ(dataset->read(2).labels.size(), 8U);
  EXPECT_EQ(dataset->num_rows_truncated(), 1);
  EXPECT_EQ(dataset->num_tokens_lost(), 12);
  EXPECT_EQ(dataset->num_rows_dropped(), 0);
}

DatasetContent masked() {
  DatasetContent content = test::formula_dataset({5, 4, 3, 2});
  content.loss_mask = {{0, 0, 0, 1, 1}, {1, 0, 0, 0}, {0, 0, 0}, {0, 1}};
  return content;
}

TEST_P(Dataset, MasksLabels) {
  const auto dataset = open(masked(), {});
  ASSERT_EQ(dataset->size(), 4) << "nothing is dropped where nothing is cut, as in TRL";
  const Ids ids = masked().rows[0];
  EXPECT_EQ(dataset->read(0).labels, (Ids{kIgnoreIndex, kIgnoreIndex, kIgnoreIndex, ids[3], ids[4]}));
  EXPECT_EQ(dataset->info().num_target_tokens, 4);
}

TEST_P(Dataset, DropsRowsThatTheCutLeavesWithoutLabels) {
  const auto dataset = open(masked(), {.max_length = 3});
  // Row 0 loses its labels; row 1 keeps that of column 0; row 2 never had any.
  ASSERT_EQ(dataset->size(), 2);
  EXPECT_EQ(dataset->row_numbers(0), std::vector<int64_t>{1});
  EXPECT_EQ(dataset->read(0).id.row, 1);
  EXPECT_EQ(dataset->read(1).input_ids, masked().rows[3]);
  EXPECT_EQ(dataset->num_rows_dropped(), 2);
  EXPECT_EQ(dataset->num_rows_truncated(), 1);
  EXPECT_EQ(dataset->num_tokens_lost(), 5 + 1 + 3);
}

TEST_P(Dataset, ShufflesTheRowsThatAreLeft) {
  const auto dataset = open(masked(), {.max_length = 3, .shuffle_seed = 5});
  const std::vector<int64_t> kept = {1, 3}, order = numpy_permutation(2, 5);
  ASSERT_EQ(dataset->size(), 2);
  for (int64_t index = 0; index < 2; ++index) {
    const int64_t row = kept[static_cast<std::size_t>(order[static_cast<std::size_t>(index)])];
    EXPECT_EQ(dataset->row_numbers(index), std::vector<int64_t>{row});
  }
}

TEST_P(Dataset, ShufflesAsDatasetsDoes) {
  const DatasetContent content = test::formula_dataset({3, 1, 20, 8, 4, 4});
  const auto all = open(content, {.shuffle_seed = 42});
  const std::vector<int64_t> whole = numpy_permutation(6, 42);
  for (int64_t index = 0; index < 6; ++index) {
    EXPECT_EQ(all->read(index).input_ids,
              content.rows[static_cast<std::size_t>(whole[static_cast<std::size_t>(index)])]);
  }
}

TEST_P(Dataset, ReadsLabelsThatAreNotTheIds) {
  DatasetContent content = test::formula_dataset({3, 2});
  content.labels = {{kIgnoreIndex, 7, 8}, {kIgnoreIndex, 9}};
  const auto dataset = open(content, {.max_length = 2});
  EXPECT_EQ(dataset->read(0).labels, (Ids{kIgnoreIndex, 7}));
  EXPECT_EQ(dataset->read(1).labels, content.labels[1]);
}

TEST_P(Dataset, IsReadByThreadsAtOnce) {
  const DatasetContent content = test::formula_dataset(std::vector<int64_t>(200, 9));
  const auto dataset = open(content, {});
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (std::size_t id = 0; id < wrong.size(); ++id) {
    threads.emplace_back([&, id] {
      for (int64_t r = 0; r < 200; ++r)
        wrong[id] += dataset->read(r).input_ids != content.rows[static_cast<std::size_t>(r)];
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST_P(Dataset, ContentHashDependsOnContentOnly) {
  const std::string first = open(masked(), {})->info().content_xxh3;
  DatasetContent other = masked();
  other.prepare_config = R"({"dataset_text_field": "review"})";
  EXPECT_EQ(open(other, {.max_length = 3})->info().content_xxh3, first);
  other.loss_mask[0][0] = 1;
  EXPECT_NE(open(other, {.max_length = 3})->info().content_xxh3, first);
}

TEST(DatasetOptions, RefusesMaxLengthBelowOne) {
  try {
    TokenDataset::open("unread.h5", {.max_length = 0});
    FAIL();
  } catch (const base::Error& error) {
    EXPECT_EQ(error.code(), base::ExitCode::kConfig);
  }
}

}  // namespace dataset_test
}  // namespace sft::data
