// What sft-inspect answers, which is not trusted.
#include "data/file_layout.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "sft/base/error.h"

namespace sft::data {
namespace {

// 10 int32 in three chunks of 4, and 3 int64.
FileLayout good_layout() {
  FileLayout layout{.file_bytes = 1000};
  layout.info = {.num_rows = 0,
                 .num_tokens = 10,
                 .num_target_tokens = 10,
                 .vocab_size = 5,
                 .bos_token_id = {},
                 .eos_token_id = 2,
                 .pad_token_id = {},
                 .tokenizer_sha256 = "t",
                 .content_xxh3 = "c",
                 .prepare_config = "{\"a\": 1}"};
  layout.prepare_config_xxh3 = "p";
  layout.arrays["input_ids"] = {.element_bytes = 4,
                                .size = 10,
                                .xxh3 = "i",
                                .offset = 0,
                                .chunk_elements = 4,
                                .filters = {Filter::kShuffle, Filter::kDeflate},
                                .chunks = {{100, 16, 0}, {116, 9, 0}, {984, 16, 2}}};
  layout.arrays["offsets"] = {.element_bytes = 8,
                              .size = 3,
                              .xxh3 = "o",
                              .offset = 976,
                              .chunk_elements = 0,
                              .filters = {},
                              .chunks = {}};
  return layout;
}

TEST(FileLayout, IsTheSameAfterBeingWrittenAndRead) {
  const std::string text = to_json(good_layout());
  const FileLayout read = layout_from_json(text, "train.h5");
  EXPECT_EQ(to_json(read), text);
  const ArrayLayout& ids = read.arrays.at("input_ids");
  EXPECT_EQ(ids.chunks.at(2).offset, 984);
  EXPECT_EQ(ids.chunks.at(2).skipped, 2U);
  EXPECT_EQ(ids.filters.at(1), Filter::kDeflate);
  EXPECT_EQ(read.info.eos_token_id, 2);
  EXPECT_FALSE(read.info.pad_token_id);
}

TEST(FileLayout, BytesThatAreNotUtf8AreReplaced) {
  FileLayout layout = good_layout();
  layout.info.content_xxh3 = "\xff";
  EXPECT_EQ(layout_from_json(to_json(layout), "train.h5").info.content_xxh3, "\xEF\xBF\xBD");
}

void expect_refused(const FileLayout& layout, const std::string& says) {
  try {
    layout_from_json(to_json(layout), "train.h5");
    ADD_FAILURE() << "accepted: " << says;
  } catch (const base::Error& error) {
    EXPECT_EQ(error.code(), base::ExitCode::kInvalidData);
    EXPECT_NE(std::string(error.what()).find("train.h5"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
  }
}

TEST(FileLayout, LiesAreRefused) {
  constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();
  using Change = std::function<void(ArrayLayout & ids, ArrayLayout & offsets)>;
  const std::vector<std::pair<Change, std::string>> lies = {
      {[](auto&, auto& offsets) { offsets.offset = 977; }, "does not lie inside the file"},
      {[](auto&, auto& offsets) { offsets.offset = -1; }, "does not lie inside the file"},
      {[](auto&, auto& offsets) { offsets.offset = kLargest; }, "does not lie inside the file"},
      {[](auto&, auto& offsets) { offsets.size = kLargest / 8; }, "does not lie inside the file"},
      {[](auto&, auto& offsets) { offsets.size = kLargest; }, "declares"},
      {[](auto&, auto& offsets) { offsets.size = -3; }, "declares -3"},
      {[](auto&, auto& offsets) { offsets.element_bytes = 3; }, "elements of 3 bytes"},
      {[](auto&, auto& offsets) { offsets.element_bytes = 0; }, "elements of 0 bytes"},
      {[](auto& ids, auto&) { ids.chunk_elements = -4; }, "chunks of -4 elements"},
      {[](auto& ids, auto&) { ids.chunk_elements = kLargest; }, "64 MiB"},
      {[](auto& ids, auto&) { ids.chunks.pop_back(); }, "has 2 chunks"},
      {[](auto& ids, auto&) { ids.size = 13; }, "has 3 chunks"},
      {[](auto& ids, auto&) { ids.chunks[1].offset = 992; }, "does not lie inside the file"},
      {[](auto& ids, auto&) { ids.chunks[1].bytes = -1; }, "does not lie inside the file"},
      {[](auto& ids, auto&) { ids.chunks[1].bytes = 100; }, "stores 100 bytes in a chunk of 16"},
      {[](auto& ids, auto&) { ids.filters.resize(4); }, "4 filters"},
      {[](auto& ids, auto&) {
         ids = {.element_bytes = 4,
                .size = 4096,
                .xxh3 = "",
                .offset = 0,
                .chunk_elements = 4096,
                .filters = {},
                .chunks = {{0, 13, 0}}};
       },
       "no data set is compressed that well"},
      {[](auto& ids, auto&) {
         ids = {.element_bytes = 4,
                .size = 600,
                .xxh3 = "",
                .offset = 0,
                .chunk_elements = 200,
                .filters = {},
                .chunks = {}};
         ids.chunks.assign(3, {0, 400, 0});
       },
       "stores 1200 bytes in chunks; the file has 1000"},
  };
  for (const auto& [change, says] : lies) {
    FileLayout layout = good_layout();
    change(layout.arrays["input_ids"], layout.arrays["offsets"]);
    expect_refused(layout, says);
  }
  FileLayout layout = good_layout();
  layout.info.vocab_size = 0;
  expect_refused(layout, "vocab_size is 0");
}

}  // namespace
}  // namespace sft::data
