// What a reader refuses (docs/data-format.md): code and message of each fault.
#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sft/base/error.h"
#include "sft/data/dataset.h"
#include "support/dataset_writer.h"
#include "support/temp_dir.h"

namespace sft::data {
namespace bad_dataset_test {

using test::Hdf5Editor;
using test::Storage;

using Change = std::function<void(Hdf5Editor&)>;
using Fault = std::pair<Change, std::vector<std::string>>;

class BadDataset : public testing::Test {
 protected:
  // Rows of 3, 1, 4 tokens; the last two tokens of each are learnt.
  void SetUp() override {
    test::DatasetContent content = test::formula_dataset({3, 1, 4});
    content.loss_mask = {{0, 1, 1}, {1}, {0, 0, 1, 1}};
    test::write_dataset(path_, content);
  }

  void spoil(const Change& change) {
    Hdf5Editor editor(path_, Hdf5Editor::Mode::kEdit);
    change(editor);
  }

  // Both opening and verifying refuse, naming the file and each of `says`.
  void expect_refused(const std::vector<std::string>& says) {
    expect_refused_by([&] { TokenDataset::open(path_, {.max_length = 3}); }, says);
    expect_refused_by([&] { verify_dataset(path_); }, says);
  }

  void expect_refused_by(const std::function<void()>& action, std::vector<std::string> says) {
    says.push_back(path_.string());
    try {
      action();
      ADD_FAILURE() << "accepted";
    } catch (const base::Error& error) {
      EXPECT_EQ(error.code(), base::ExitCode::kInvalidData);
      for (const std::string& part : says)
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << part << " in: " << error.what();
    }
  }

  test::TempDir folder_;
  const std::filesystem::path path_ = folder_ / "train.h5";
};

TEST_F(BadDataset, IsGoodBeforeItIsSpoilt) {
  verify_dataset(path_);
  EXPECT_EQ(TokenDataset::open(path_, {.max_length = 3})->size(), 3);
}

TEST_F(BadDataset, FileThatIsNone) {
  std::filesystem::remove(path_);
  expect_refused({"No such file"});
  std::filesystem::create_directory(path_);
  expect_refused({"not a regular file"});
  std::filesystem::remove(path_);
  test::write_file(path_, "");
  expect_refused({"not a readable HDF5 file"});
  test::write_file(path_, std::string(5000, 'x'));
  expect_refused({"not a readable HDF5 file", "signature"});
}

TEST_F(BadDataset, Header) {
  const std::vector<Fault> faults = {
      {[](Hdf5Editor& file) { file.remove_attribute("format"); }, {"format", "missing"}},
      {[](Hdf5Editor& file) { file.attribute("format", "something else"); }, {"format", "something else"}},
      {[](Hdf5Editor& file) { file.attribute("format", 1); }, {"format", "not a fixed-length string"}},
      {[](Hdf5Editor& file) { file.attribute("format", std::string(5000, 'x')); }, {"format", "5000 bytes"}},
      {[](Hdf5Editor& file) { file.variable_length_attribute("format", "sft-dist-dataset"); },
       {"format", "not a fixed-length string"}},
      {[](Hdf5Editor& file) { file.attribute("version", 2); }, {"version 2"}},
      {[](Hdf5Editor& file) { file.attribute("version", "1"); }, {"version", "int64"}},
      {[](Hdf5Editor& file) { file.remove_attribute("version"); }, {"version", "missing"}},
      {[](Hdf5Editor& file) { file.attribute("vocab_size", 0); }, {"vocab_size is 0"}},
      {[](Hdf5Editor& file) { file.attribute("vocab_size", int64_t{1} << 31); },
       {"vocab_size is 2147483648"}},
      {[](Hdf5Editor& file) { file.attribute("vocab_size", 101); }, {"content_xxh3", "damaged"}},
      {[](Hdf5Editor& file) { file.attribute("pad_token_id", 1); }, {"content_xxh3", "damaged"}},
      {[](Hdf5Editor& file) { file.attribute("num_tokens", 9); }, {"num_tokens is 9", "8"}},
      {[](Hdf5Editor& file) { file.attribute("num_target_tokens", 9); }, {"num_target_tokens is 9"}},
      {[](Hdf5Editor& file) { file.attribute("num_target_tokens", -1); }, {"num_target_tokens is -1"}},
      {[](Hdf5Editor& file) { file.attribute("num_target_tokens", 0); }, {"no row has a target"}},
      {[](Hdf5Editor& file) { file.remove_attribute("tokenizer_sha256"); }, {"tokenizer_sha256", "missing"}},
      {[](Hdf5Editor& file) { file.attribute("content_xxh3", std::string(32, '0')); },
       {"content_xxh3", "damaged"}},
      {[](Hdf5Editor& file) { file.remove("prepare_config"); }, {"prepare_config", "missing"}},
      {[](Hdf5Editor& file) { file.string("prepare_config", "{"); }, {"prepare_config"}},
      {[](Hdf5Editor& file) { file.string("prepare_config", "[1]"); }, {"prepare_config", "object"}},
      {[](Hdf5Editor& file) { file.array<int32_t>("prepare_config", {1}); }, {"prepare_config", "scalar"}},
      {[](Hdf5Editor& file) { file.string("prepare_config", std::string((1 << 20) + 1, ' ')); },
       {"prepare_config", "1048577 bytes"}},
  };
  for (const auto& [change, says] : faults) {
    SetUp();
    spoil(change);
    expect_refused(says);
  }
}

TEST_F(BadDataset, Arrays) {
  const std::string other = folder_ / "other.h5", secret = folder_ / "secret";
  test::write_dataset(other, test::formula_dataset({8}));
  test::write_file(secret, std::string(64, 's'));
  const std::vector<int32_t> ids(8, 1);
  const std::vector<Fault> faults = {
      {[](Hdf5Editor& file) { file.remove("input_ids"); }, {"input_ids", "missing"}},
      {[](Hdf5Editor& file) { file.group("input_ids"); }, {"input_ids", "dataset"}},
      {[](Hdf5Editor& file) { file.array<int64_t>("input_ids", std::vector<int64_t>(8, 1)); },
       {"input_ids", "int32"}},
      {[](Hdf5Editor& file) { file.big_endian("input_ids", 8); }, {"input_ids", "little-endian int32"}},
      {[](Hdf5Editor& file) { file.matrix("input_ids", 2, 4); }, {"input_ids", "one-dimensional"}},
      {[&](Hdf5Editor& file) { file.array("elsewhere", ids), file.soft_link("input_ids", "/elsewhere"); },
       {"input_ids", "hard link"}},
      {[&](Hdf5Editor& file) { file.external_link("input_ids", other, "/input_ids"); },
       {"input_ids", "hard link"}},
      {[&](Hdf5Editor& file) { file.external_storage("input_ids", secret, 8); },
       {"input_ids", "another file"}},
      {[&](Hdf5Editor& file) { file.virtual_array("input_ids", other, 8); },
       {"input_ids", "contiguous nor chunked"}},
      {[](Hdf5Editor& file) { file.other_filter("input_ids", 8); }, {"input_ids", "filter 5"}},
      {[](Hdf5Editor& file) { file.unwritten_chunks("input_ids", int64_t{1} << 40, 1 << 20); },
       {"input_ids", "stores 0"}},
      {[](Hdf5Editor& file) { file.unwritten_chunks("input_ids", int64_t{1} << 26, (1 << 24) + 1); },
       {"input_ids", "64 MiB"}},
      {[](Hdf5Editor& file) {
         file.array<int32_t>("input_ids", {1, 2, 3});
       },
       {"input_ids", "3"}},
      {[](Hdf5Editor& file) { file.array<int32_t>("labels", std::vector<int32_t>(8, 1)); },
       {"both loss_mask and labels"}},
      {[](Hdf5Editor& file) { file.remove("first_target"); }, {"first_target", "missing"}},
      {[](Hdf5Editor& file) { file.remove("loss_mask"); }, {"first_target", "no loss_mask"}},
      {[](Hdf5Editor& file) {
         file.array<uint8_t>("loss_mask", {0, 1});
       },
       {"loss_mask has 2", "8 tokens"}},
      {[](Hdf5Editor& file) { file.array<int32_t>("first_target", {0}); }, {"first_target has 1", "3 rows"}},
      {[](Hdf5Editor& file) { file.array<int64_t>("offsets", {}); }, {"offsets is empty"}},
      {[](Hdf5Editor& file) {
         file.array<int64_t>("offsets", {1, 3, 4, 8});
       },
       {"offsets", "begins with 1"}},
      {[](Hdf5Editor& file) {
         file.array<int64_t>("offsets", {0, 4, 3, 8});
       },
       {"offsets", "row 1", "3"}},
      {[](Hdf5Editor& file) {
         file.array<int64_t>("offsets", {0, 3, 3, 8});
       },
       {"offsets", "row 1", "3"}},
      {[](Hdf5Editor& file) {
         file.array<int64_t>("offsets", {0, 3, 4, 7});
       },
       {"offsets end at token 7", "8"}},
      {[](Hdf5Editor& file) {
         file.array<int64_t>("offsets", {0, 3, 4, int64_t{1} << 40});
       },
       {"offsets", "row 2"}},
  };
  for (const auto& [change, says] : faults) {
    SetUp();
    spoil(change);
    expect_refused(says);
  }
}

TEST_F(BadDataset, Empty) {
  test::write_dataset(path_, {});
  expect_refused({"empty"});
}

TEST_F(BadDataset, WithUserBlock) {
  { const Hdf5Editor file(path_, Hdf5Editor::Mode::kCreate, 512); }
  expect_refused({"user block"});
}

TEST_F(BadDataset, WithoutTargets) {
  test::DatasetContent content = test::formula_dataset({3, 2});
  content.loss_mask = {{0, 0, 0}, {0, 0}};
  test::write_dataset(path_, content);
  expect_refused({"no row has a target"});

  content.loss_mask = {{0, 0, 1}, {0, 0}};
  test::write_dataset(path_, content);
  expect_refused_by([&] { TokenDataset::open(path_, {.max_length = 2}); },
                    {"max_length = 2", "no row with a target"});

  test::write_dataset(path_, test::formula_dataset({3, 2}));
  expect_refused_by([&] { TokenDataset::open(path_, {.max_length = 1}); },
                    {"no row has more than one token"});

  // Wrapped rows go over the ends of documents.
  test::write_dataset(path_, test::formula_dataset({1, 1, 1}));
  const auto wrapped = TokenDataset::open(path_, {.max_length = 2, .packing = Packing{PackingStrategy::kWrapped}});
  EXPECT_EQ(wrapped->longest_sequence(), 2);
  expect_refused_by([&] { TokenDataset::open(path_, {.max_length = 2, .packing = Packing{}}); },
                    {"no row has more than one token"});
}

TEST_F(BadDataset, ValuesAreCheckedWhenTheyAreRead) {
  const auto refuses_row_2 = [&](const test::DatasetContent& content, const std::vector<std::string>& says) {
    for (const Storage storage : {Storage::kContiguous, Storage::kDeflated}) {
      test::DatasetContent stored = content;
      stored.storage = storage;
      test::write_dataset(path_, stored);
      const auto dataset = TokenDataset::open(path_, {});
      dataset->read(1);
      expect_refused_by([&] { dataset->read(2); }, says);
      expect_refused_by([&] { verify_dataset(path_); }, says);
    }
  };
  test::DatasetContent content = test::formula_dataset({3, 1, 4});
  content.rows[2][3] = 100;
  refuses_row_2(content, {"input_ids: row 2, token 3 is 100", "vocabulary of 100"});
  content.rows[2][3] = -1;
  refuses_row_2(content, {"input_ids: row 2, token 3 is -1"});
  content.rows[2][3] = 0;
  content.labels = {{1, 2, 3}, {4}, {5, kIgnoreIndex, -99, 7}};
  refuses_row_2(content, {"labels: row 2, token 2 is -99"});
  content.labels.clear();
  content.loss_mask = {{1, 1, 1}, {1}, {1, 2, 0, 0}};
  refuses_row_2(content, {"loss_mask: row 2, token 1 is 2"});
}

TEST_F(BadDataset, FirstTargets) {
  test::DatasetContent content = test::formula_dataset({3, 1, 4});
  content.loss_mask = {{0, 1, 1}, {1}, {0, 0, 1, 1}};
  content.first_target = {1, 0, 5};
  test::write_dataset(path_, content);
  expect_refused({"first_target", "row 2 has 5", "4"});
  content.first_target = {-1, 0, 2};
  test::write_dataset(path_, content);
  expect_refused({"first_target", "row 0 has -1"});
}

TEST_F(BadDataset, VerifyFindsWhatOpeningDoesNotRead) {
  const auto refuses = [&](const Change& change, const std::vector<std::string>& says) {
    SetUp();
    spoil(change);
    expect_refused_by([&] { verify_dataset(path_); }, says);
  };
  // Each with a hash of its own that fits, so that another check has to see it.
  refuses([](Hdf5Editor& file) { file.array<int32_t>("input_ids", std::vector<int32_t>(8, 1)); },
          {"content_xxh3"});
  test::DatasetContent content = test::formula_dataset({3, 1, 4});
  content.loss_mask = {{0, 1, 1}, {1}, {0, 0, 1, 1}};
  content.first_target = {2, 0, 2};
  test::write_dataset(path_, content);
  expect_refused_by([&] { verify_dataset(path_); }, {"first_target: row 0 has 2", "give 1"});
  content.first_target = {1, 0, 4};
  test::write_dataset(path_, content);
  expect_refused_by([&] { verify_dataset(path_); }, {"first_target: row 2 has 4", "give 2"});
  content.first_target.clear();
  content.num_target_tokens = 4;
  test::write_dataset(path_, content);
  expect_refused_by([&] { verify_dataset(path_); }, {"num_target_tokens is 4", "give 5"});
}

}  // namespace bad_dataset_test
}  // namespace sft::data
