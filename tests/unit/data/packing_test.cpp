#include "data/packing.h"

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "sft/base/error.h"
#include "sft/base/file.h"
#include "sft/data/sampler.h"
#include "support/dataset_writer.h"
#include "support/temp_dir.h"

namespace sft::data {
namespace packing_test {

using nlohmann::json;
using Lengths = std::vector<int32_t>;

PackedRows pack_lengths(const Lengths& lengths, int64_t max_length, const Packing& packing) {
  return pack_documents(
      static_cast<int64_t>(lengths.size()),
      [&](int64_t i) -> Piece {
        return {i, 0, lengths[static_cast<std::size_t>(i)]};
      },
      max_length, packing);
}

PackingStrategy strategy_of(const std::string& name) {
  return name == "wrapped"     ? PackingStrategy::kWrapped
         : name == "bfd_split" ? PackingStrategy::kBfdSplit
                               : PackingStrategy::kBfd;
}

// What TRL's pack_dataset made of the documents.
PackedRows expected_rows(const json& expected, const Lengths& lengths) {
  PackedRows rows;
  for (const int64_t count : expected["counts"]) rows.first_piece.push_back(rows.first_piece.back() + count);
  const json& documents = expected["documents"];
  for (std::size_t i = 0; i < documents.size(); ++i) {
    const int64_t document = documents[i];
    const int32_t whole = lengths[static_cast<std::size_t>(document)], limit = expected["max_length"];
    const bool cut_only = !expected.contains("begins");
    rows.pieces.push_back({document, cut_only ? 0 : expected["begins"][i].get<int32_t>(),
                           cut_only ? std::min(whole, limit) : expected["lengths"][i].get<int32_t>()});
  }
  return rows;
}

TEST(Packing, MakesTheRowsOfTrl) {
  const json golden = json::parse(base::read_text(SFT_SOURCE_DIR "/tests/golden/packing.json"));
  int num_cases = 0;
  for (const json& group : golden["groups"]) {
    const auto lengths = group["lengths"].get<Lengths>();
    for (const json& expected : group["cases"]) {
      const std::string strategy = expected["strategy"];
      const int64_t max_length = expected["max_length"], scope = expected["scope"];
      SCOPED_TRACE(strategy + " " + std::to_string(max_length) + " " + std::to_string(lengths.size()));
      const PackedRows rows = pack_lengths(lengths, max_length, {strategy_of(strategy), scope});
      const PackedRows wanted = expected_rows(expected, lengths);
      EXPECT_EQ(rows.first_piece, wanted.first_piece);
      EXPECT_EQ(rows.pieces, wanted.pieces);
      ++num_cases;
    }
  }
  EXPECT_GE(num_cases, 40);
}

struct RandomDocuments {
  explicit RandomDocuments(uint32_t seed) : random(seed) {
    max_length = draw(1, 60);
    scope = draw(0, 3) * draw(1, 90);
    lengths.resize(static_cast<std::size_t>(draw(1, 200)));
    for (int32_t& length : lengths) length = static_cast<int32_t>(draw(1, 100));
  }
  int64_t draw(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  }

  std::mt19937 random;
  int64_t max_length, scope;
  Lengths lengths;
};

TEST(PackingProperty, EveryTokenIsInOneRowOnce) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    const RandomDocuments documents(seed);
    for (const PackingStrategy strategy :
         {PackingStrategy::kBfd, PackingStrategy::kBfdSplit, PackingStrategy::kWrapped}) {
      const PackedRows rows =
          pack_lengths(documents.lengths, documents.max_length, {strategy, documents.scope});
      std::map<int64_t, std::vector<int>> seen;
      for (int64_t index = 0; index < rows.size(); ++index) {
        int64_t tokens = 0;
        for (const Piece& piece : rows.row(index)) {
          auto& counts = seen[piece.row];
          counts.resize(static_cast<std::size_t>(documents.lengths[static_cast<std::size_t>(piece.row)]));
          for (int32_t t = piece.begin; t < piece.begin + piece.length; ++t)
            ++counts.at(static_cast<std::size_t>(t));
          tokens += piece.length;
          EXPECT_GT(piece.length, 0);
        }
        EXPECT_GT(tokens, 0);
        EXPECT_LE(tokens, documents.max_length);
      }
      ASSERT_EQ(seen.size(), documents.lengths.size());
      for (const auto& [document, counts] : seen) {
        for (std::size_t t = 0; t < counts.size(); ++t) {
          const bool cut_off =
              strategy == PackingStrategy::kBfd && static_cast<int64_t>(t) >= documents.max_length;
          EXPECT_EQ(counts[t], cut_off ? 0 : 1) << "document " << document << ", token " << t;
        }
      }
    }
  }
}

TEST(Packing, OverAllDocumentsFillsRowsAtLeastAsWellHere) {
  const json golden = json::parse(base::read_text(SFT_SOURCE_DIR "/tests/golden/packing.json"));
  const auto lengths = golden["groups"].back()["lengths"].get<Lengths>();
  const auto batches = pack_lengths(lengths, 100, {PackingStrategy::kBfd, 1000});
  const auto all = pack_lengths(lengths, 100, {PackingStrategy::kBfd, 0});
  EXPECT_LT(all.size(), batches.size());
}

class PackedDataset : public testing::Test {
 protected:
  std::unique_ptr<TokenDataset> open(const RowOptions& options) {
    test::write_dataset(path_, content_);
    return TokenDataset::open(path_, options);
  }
  test::TempDir folder_;
  const std::filesystem::path path_ = folder_ / "train.h5";
  test::DatasetContent content_ = test::formula_dataset({5, 2, 3, 6});
};

using Ids = std::vector<int32_t>;

Ids part(const Ids& ids, int64_t begin, int64_t length) {
  return Ids(ids.begin() + begin, ids.begin() + begin + length);
}

Ids joined(std::vector<Ids> parts) {
  Ids result;
  for (const Ids& ids : parts) result.insert(result.end(), ids.begin(), ids.end());
  return result;
}

TEST_F(PackedDataset, BestFitRowsAreDocumentsWithTheirFirstLabelMasked) {
  content_.loss_mask = {{1, 0, 1, 1, 1}, {1, 1}, {0, 0, 1}, {1, 1, 1, 1, 1, 1}};
  const auto dataset = open({.max_length = 5, .packing = Packing{}});
  // By hand: 5 (document 0), 6 cut to 5 (document 3), then 3 and 2 together.
  ASSERT_EQ(dataset->size(), 3);
  EXPECT_EQ(dataset->row_numbers(2), (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(dataset->length(2), 5);
  const TokenRow row = dataset->read(2);
  EXPECT_EQ(row.input_ids, joined({content_.rows[2], content_.rows[1]}));
  EXPECT_EQ(row.segment_lengths, (std::vector<int64_t>{3, 2}));
  EXPECT_EQ(row.labels,
            (Ids{kIgnoreIndex, kIgnoreIndex, content_.rows[2][2], kIgnoreIndex, content_.rows[1][1]}));
  EXPECT_EQ(dataset->read(0).labels[0], kIgnoreIndex) << "also where a document is alone";
  EXPECT_EQ(dataset->read(1).input_ids, part(content_.rows[3], 0, 5));
  EXPECT_EQ(dataset->num_rows_truncated(), 1);
  EXPECT_EQ(dataset->num_tokens_lost(), 1);
  EXPECT_EQ(dataset->num_rows_dropped(), 0);
}

TEST_F(PackedDataset, SplitDocumentsLoseNothing) {
  const auto dataset = open({.max_length = 4, .packing = Packing{PackingStrategy::kBfdSplit}});
  // Pieces 4 1 | 2 | 3 | 4 2, by length: 4 (0), 4 (3), 3 (2), 2 (1), 2 (3'), 1 (0').
  ASSERT_EQ(dataset->size(), 4);
  EXPECT_EQ(dataset->read(2).input_ids, joined({content_.rows[2], part(content_.rows[0], 4, 1)}));
  EXPECT_EQ(dataset->read(3).input_ids, joined({content_.rows[1], part(content_.rows[3], 4, 2)}));
  EXPECT_EQ(dataset->read(3).segment_lengths, (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(dataset->num_rows_truncated(), 2);
  EXPECT_EQ(dataset->num_tokens_lost(), 0);
}

TEST_F(PackedDataset, WrappedRowsAreOneSegmentEach) {
  content_.loss_mask = {{1, 0, 1, 1, 1}, {1, 1}, {0, 0, 1}, {1, 1, 1, 1, 1, 1}};
  const auto dataset = open({.max_length = 6, .packing = Packing{PackingStrategy::kWrapped}});
  ASSERT_EQ(dataset->size(), 3);
  const TokenRow row = dataset->read(0);
  EXPECT_EQ(row.input_ids, joined({content_.rows[0], part(content_.rows[1], 0, 1)}));
  EXPECT_TRUE(row.segment_lengths.empty());
  EXPECT_EQ(row.labels[0], row.input_ids[0]) << "as a row that is not packed";
  EXPECT_EQ(row.labels[1], kIgnoreIndex);
  EXPECT_EQ(row.labels[5], row.input_ids[5]) << "the next document's first token is learnt";
  EXPECT_EQ(dataset->read(1).input_ids,
            joined({part(content_.rows[1], 1, 1), content_.rows[2], part(content_.rows[3], 0, 2)}));
  EXPECT_EQ(dataset->length(2), 4);
  EXPECT_EQ(dataset->num_tokens_lost(), 0);
  EXPECT_EQ(dataset->num_rows_truncated(), 2) << "documents 1 and 3 lie in two rows";
}

// TRL shuffles the documents, packs them, and shuffles the rows with the same seed.
TEST_F(PackedDataset, ShufflesBeforeAndAfterPacking) {
  content_ = test::formula_dataset({5, 2, 3, 6, 1, 1, 4, 2, 7, 3});
  const uint64_t seed = 5;
  const auto dataset =
      open({.max_length = 8, .shuffle_seed = seed, .packing = Packing{PackingStrategy::kBfd, 4}});
  const std::vector<int64_t> order = numpy_permutation(10, seed);
  const auto document = [&](int64_t i) -> Piece {
    const int64_t row = order[static_cast<std::size_t>(i)];
    return {row, 0, static_cast<int32_t>(content_.rows[static_cast<std::size_t>(row)].size())};
  };
  const PackedRows rows = pack_documents(10, document, 8, {PackingStrategy::kBfd, 4});
  const std::vector<int64_t> rows_order = numpy_permutation(rows.size(), seed);
  ASSERT_EQ(dataset->size(), rows.size());
  for (int64_t index = 0; index < rows.size(); ++index) {
    std::vector<int64_t> numbers;
    for (const Piece& piece : rows.row(rows_order[static_cast<std::size_t>(index)]))
      numbers.push_back(piece.row);
    EXPECT_EQ(dataset->row_numbers(index), numbers);
  }
}

TEST_F(PackedDataset, NeedsAMaximumLength) {
  try {
    open({.packing = Packing{}});
    FAIL() << "accepted";
  } catch (const base::Error& error) {
    EXPECT_EQ(error.code(), base::ExitCode::kConfig);
  }
}

}  // namespace packing_test
}  // namespace sft::data
