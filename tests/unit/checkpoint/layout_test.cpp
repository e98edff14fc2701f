// How a checkpoint is cut into files, and its bytes dealt to ranks.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "checkpoint/deal.h"
#include "checkpoint/layout.h"
#include "checkpoint/manifest.h"
#include "sft/base/error.h"
#include "support/checkpoint_contents.h"
#include "support/thread_ranks.h"

namespace sft::checkpoint {
namespace layout_test {

using test::ContentsMaker;
using test::Ownership;

constexpr Ownership kAll[] = {Ownership::kReplicated, Ownership::kShardedState, Ownership::kShardedAll,
                              Ownership::kWholeTensors};

Layout layout_of(int world_size, Ownership ownership, int64_t max_shard_bytes = int64_t{1} << 40) {
  Layout result;
  test::run_ranks(world_size, [&](parallel::Communicator& comm) {
    const Contents contents = ContentsMaker(comm.rank(), comm.size(), ownership).make(1);
    const Layout layout = make_layout(gather_groups(contents, comm), max_shard_bytes);
    if (comm.rank() == comm.size() - 1) result = layout;
  });
  return result;
}

std::vector<int64_t> bytes_by_rank(const Deal& deal, int world_size) {
  std::vector<int64_t> bytes(static_cast<std::size_t>(world_size), 0);
  for (const WriteRange& range : deal.ranges)
    bytes[static_cast<std::size_t>(range.rank)] += range.end - range.begin;
  return bytes;
}

TEST(Deal, CoversEveryByteOnceOnPageBoundaries) {
  for (const Ownership ownership : kAll) {
    for (const int world_size : {1, 2, 3, 5}) {
      const Layout layout = layout_of(world_size, ownership, 200'000);
      const Deal deal = deal_ranges(layout, std::vector<int64_t>(static_cast<std::size_t>(world_size), 0));
      std::size_t i = 0;
      for (std::size_t file = 0; file < layout.files.size(); ++file) {
        int64_t position = 0;
        for (; i < deal.ranges.size() && deal.ranges[i].file == file; ++i) {
          EXPECT_EQ(deal.ranges[i].begin, position);
          EXPECT_EQ(position % 4096, 0);
          position = deal.ranges[i].end;
        }
        EXPECT_EQ(position, layout.files[file].size);
      }
      EXPECT_EQ(i, deal.ranges.size());
    }
  }
}

TEST(Deal, FragmentsAreWhatAWriterDoesNotHold) {
  for (const Ownership ownership : kAll) {
    const Layout layout = layout_of(3, ownership);
    const Deal deal = deal_ranges(layout, {0, 0, 0});
    EXPECT_EQ(deal.fragments.empty(), ownership == Ownership::kReplicated);
    // Every byte of every range: its writer is among the holders, or a fragment brings it.
    for (const WriteRange& range : deal.ranges) {
      int64_t not_held = 0, brought = 0;
      for (const Segment& segment : layout.files[range.file].segments) {
        const int64_t overlap = std::min(range.end, segment.end) - std::max(range.begin, segment.begin);
        const std::vector<int>& holders = layout.holder_sets[segment.holders];
        if (overlap > 0 && std::ranges::find(holders, range.rank) == holders.end()) not_held += overlap;
      }
      for (const Fragment& fragment : deal.fragments) {
        if (fragment.file == range.file && fragment.begin >= range.begin && fragment.end <= range.end) {
          EXPECT_EQ(fragment.receiver, range.rank);
          EXPECT_NE(fragment.sender, range.rank);
          brought += fragment.end - fragment.begin;
        }
      }
      EXPECT_EQ(not_held, brought);
    }
  }
}

TEST(Deal, SharesAreEqual) {
  // What is held by all evens out; slices of equal size are equal already, up to a page for each cut.
  for (const Ownership ownership : {Ownership::kReplicated, Ownership::kShardedState}) {
    for (const int world_size : {2, 3, 5}) {
      const Layout layout = layout_of(world_size, ownership);
      const int64_t share = layout.tensor_bytes() / world_size;
      const Deal deal = deal_ranges(layout, std::vector<int64_t>(static_cast<std::size_t>(world_size), 0));
      for (const int64_t bytes : bytes_by_rank(deal, world_size))
        EXPECT_LE(std::abs(bytes - share), share / 10);
    }
  }
}

TEST(Deal, CountsWhatARankWritesBesides) {
  const Layout layout = layout_of(2, Ownership::kReplicated);
  const std::vector<int64_t> bytes = bytes_by_rank(deal_ranges(layout, {200'000, 0}), 2);
  EXPECT_LE(std::abs(bytes[0] + 200'000 - bytes[1]), 3 * 4096);
  EXPECT_EQ(bytes_by_rank(deal_ranges(layout, {1 << 30, 0}), 2)[0], 0);
}

TEST(Layout, CutsShardsAsHuggingfaceHubDoes) {
  // The rule: in order; a tensor above the limit alone, in place; the others packed greedily around it.
  Contents contents;
  for (const auto& [name, elements] : std::vector<std::pair<std::string, int64_t>>{
           {"a", 60}, {"b", 60}, {"c", 20}, {"huge", 150}, {"d", 20}, {"e", 10}}) {
    contents.model.push_back({name, {elements}, 0, elements, at::empty({elements}, at::kFloat)});
  }
  Layout layout;
  test::run_ranks(
      1, [&](parallel::Communicator& comm) { layout = make_layout(gather_groups(contents, comm), 400); });
  std::vector<std::vector<std::string>> shards;
  for (const TensorFile& file : layout.files) {
    shards.emplace_back();
    for (const auto& entry : file.entries) shards.back().push_back(entry.name);
  }
  // Generated with split_torch_state_dict_into_shards(max_shard_size=400) of huggingface_hub 2.4.0 on the
  // same fp32 tensors.
  EXPECT_EQ(shards, (std::vector<std::vector<std::string>>{{"a"}, {"huge"}, {"b", "c", "d"}, {"e"}}));
  EXPECT_EQ(layout.files[1].name, "model-00002-of-00004.safetensors");
  EXPECT_NE(layout.model_index.find("\"total_size\": 1280"), std::string::npos);
}

TEST(Layout, RefusesWhatNobodyHoldsOrRanksDisagreeOn) {
  const auto expect_refused = [](const std::function<void(Contents&, int)>& change, const std::string& part) {
    try {
      test::run_ranks(2, [&](parallel::Communicator& comm) {
        Contents contents = ContentsMaker(comm.rank(), 2, Ownership::kShardedAll).make(1);
        change(contents, comm.rank());
        make_layout(gather_groups(contents, comm), 1 << 30);
      });
      FAIL() << part;
    } catch (const base::Error& error) {
      EXPECT_EQ(error.code(), base::ExitCode::kInternal);
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  expect_refused(
      [](Contents& c, int rank) {
        if (rank == 1) c.model.erase(c.model.begin());
      },
      "no rank holds elements");
  expect_refused(
      [](Contents& c, int rank) {
        if (rank == 1) c.model[0].shape = {1};
      },
      "another shape");
  expect_refused([](Contents& c, int) { c.model[0].end = 1 << 30; }, "which has");
  expect_refused([](Contents& c, int) { c.model.push_back(c.model[0]); }, "twice");
}

TEST(Manifest, RoundTripsAndRefusesEveryFlippedBit) {
  Manifest manifest{7, 2, 4096, R"({"cursor":3})", "{}", {}};
  manifest.files.push_back({"a.json", 5000, {{4096, std::string(32, 'a')}, {904, std::string(32, '0')}}});
  manifest.files.push_back({"state/empty", 0, {}});
  const std::string text = manifest_text(manifest);
  const Manifest read = parse_manifest(text, "M");
  EXPECT_EQ(read.step, 7);
  EXPECT_EQ(read.train_state, R"({"cursor":3})");
  ASSERT_EQ(read.files.size(), 2u);
  EXPECT_EQ(read.files[0].ranges[1].digests, std::string(32, '0'));
  for (std::size_t byte = 0; byte < text.size(); ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = text;
      bad[byte] = static_cast<char>(bad[byte] ^ (1 << bit));
      EXPECT_THROW(parse_manifest(bad, "M"), base::Error) << byte << " " << bit;
    }
  }
  for (std::size_t size = 0; size < text.size(); ++size) {
    EXPECT_THROW(parse_manifest(std::string_view(text).substr(0, size), "M"), base::Error);
  }
}

TEST(Manifest, RefusesWrongStructureUnderARightHash) {
  const auto with_file = [](const std::string& name, FileRecord record) {
    Manifest manifest{7, 2, 4096, "{}", "{}", {}};
    record.name = name;
    manifest.files.push_back(std::move(record));
    return manifest_text(manifest);
  };
  const std::string digest(32, 'a');
  EXPECT_NO_THROW(parse_manifest(with_file("ok", {"", 10, {{10, digest}}}), "M"));
  EXPECT_THROW(parse_manifest(with_file("../up", {"", 10, {{10, digest}}}), "M"), base::Error);
  EXPECT_THROW(parse_manifest(with_file("/abs", {"", 10, {{10, digest}}}), "M"), base::Error);
  EXPECT_THROW(parse_manifest(with_file("a/b/c", {"", 10, {{10, digest}}}), "M"), base::Error);
  EXPECT_THROW(parse_manifest(with_file(".hidden", {"", 10, {{10, digest}}}), "M"), base::Error);
  EXPECT_THROW(parse_manifest(with_file("long", {"", 10, {{11, digest}}}), "M"), base::Error);
  EXPECT_THROW(parse_manifest(with_file("short", {"", 10, {{9, digest}}}), "M"), base::Error);
  EXPECT_THROW(parse_manifest(with_file("negative", {"", -1, {}}), "M"), base::Error);
  EXPECT_THROW(parse_manifest(with_file("few", {"", 5000, {{5000, digest}}}), "M"), base::Error);
  EXPECT_THROW(parse_manifest(with_file("letters", {"", 10, {{10, std::string(32, 'G')}}}), "M"),
               base::Error);
}

TEST(SideFile, NamesOfTheCheckpointsOwnFilesAndUnusualOnesCannotBeUsed) {
  for (const char* name : {"tokenizer.json", "chat_template.jinja", "vocab_2-a.txt", "README"}) EXPECT_TRUE(can_be_side_file(name)) << name;
  for (const char* name : {"", ".DS_Store", "a b", "a/b", "tokenizer (copy).json", "trainer_state.json", "model.safetensors",
                           "model.safetensors.index.json"})
    EXPECT_FALSE(can_be_side_file(name)) << name;
}

TEST(ChunkBytes, GrowWithTheCheckpoint) {
  EXPECT_EQ(choose_chunk_bytes(0), 4096);
  EXPECT_EQ(choose_chunk_bytes(1'600'000'000), 65536);
  EXPECT_EQ(choose_chunk_bytes(int64_t{1} << 50), 4 << 20);
}

TEST(ParseSize, KnowsUnits) {
  EXPECT_EQ(parse_size("5GB"), 5'000'000'000);
  EXPECT_EQ(parse_size("500MB"), 500'000'000);
  EXPECT_EQ(parse_size("1.5TB"), 1'500'000'000'000);
  EXPECT_EQ(parse_size("2GiB"), int64_t{2} << 30);
  EXPECT_EQ(parse_size("10 kb"), 10'000);
  EXPECT_EQ(parse_size("4096"), 4096);
  for (const char* bad :
       {"", "GB", "5GX", "-5GB", "0", "nan", "inf", "1e30TB", "9999999999TB", "5 G B x", "0.0001KB"}) {
    try {
      parse_size(bad);
      ADD_FAILURE() << bad;
    } catch (const base::Error& error) {
      EXPECT_EQ(error.code(), base::ExitCode::kConfig);
    }
  }
}

}  // namespace layout_test
}  // namespace sft::checkpoint
