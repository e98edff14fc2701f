// Checkpoints that rotted, lost parts or come from elsewhere, in numbers. What each kind of damage looks
// like, one by one: tests/unit/checkpoint/faults_test.cpp.
//
// SFT_BIT_FLIPS sets how many bits are flipped (200; the `full` label: 10000).
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <regex>
#include <string>
#include <vector>

#include "sft/base/error.h"
#include "sft/base/hash.h"
#include "sft/checkpoint/checkpoint.h"
#include "support/checkpoint_contents.h"
#include "support/temp_dir.h"
#include "support/thread_ranks.h"

namespace sft::checkpoint {
namespace {

namespace fs = std::filesystem;
using test::ContentsMaker;
using test::count_wrong;
using test::Ownership;
using test::run_ranks;

void save(const fs::path& folder, int64_t step, int world_size, Ownership ownership) {
  run_ranks(world_size, [&](parallel::Communicator& comm) {
    Store::open(test::store_options(folder), comm)
        ->save(ContentsMaker(comm.rank(), comm.size(), ownership).make(step));
  });
}

// -1: none that verifies. What it holds is right.
int64_t newest_step(const fs::path& folder, int world_size) {
  int64_t step = -1;
  run_ranks(world_size, [&](parallel::Communicator& comm) {
    const auto reader = Store::open(test::store_options(folder), comm)->open_newest();
    if (!reader) return;
    if (comm.rank() == 0) step = reader->step();
    EXPECT_EQ(count_wrong(*reader, reader->step(), comm.rank(), comm.size()), 0);
  });
  return step;
}

std::vector<fs::path> files_of(const fs::path& checkpoint) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(checkpoint)) {
    if (entry.is_regular_file() && entry.file_size() > 0) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string refusal(const fs::path& checkpoint) {
  try {
    verify_directory(checkpoint);
    return "";
  } catch (const base::Error& error) {
    EXPECT_EQ(error.code(), base::ExitCode::kInvalidData);
    return error.what();
  }
}

// "bytes a to b" with a <= offset < b.
bool names_offset(const std::string& message, std::size_t offset) {
  std::smatch match;
  if (!std::regex_search(message, match, std::regex("bytes (\\d+) to (\\d+)"))) return false;
  return std::stoull(match[1]) <= offset && offset < std::stoull(match[2]);
}

TEST(BitRot, AnyFlippedBitIsFoundNamedAndGoneRoundTheCheckpoint) {
  const char* wanted = std::getenv("SFT_BIT_FLIPS");
  const int flips = wanted ? std::atoi(wanted) : 200;
  const test::TempDir folder;
  for (const int64_t step : {1, 2}) save(folder.path(), step, 2, Ownership::kShardedState);
  const fs::path newest = folder / "checkpoint-2";
  const std::vector<fs::path> files = files_of(newest);
  std::mt19937_64 chance(20);
  for (int i = 0; i < flips; ++i) {
    const fs::path& path = files[chance() % files.size()];
    const std::string good = test::read_file(path);
    const std::size_t offset = chance() % good.size();
    std::string bad = good;
    bad[offset] = static_cast<char>(bad[offset] ^ (1 << chance() % 8));
    test::write_file(path, bad);
    const std::string message = refusal(newest);
    const std::string what = path.filename().string() + ", byte " + std::to_string(offset) + ": " + message;
    ASSERT_NE(message.find(path.filename().string()), std::string::npos) << what;
    if (path.filename() != "MANIFEST.json") {
      ASSERT_TRUE(names_offset(message, offset)) << what;
    }
    ASSERT_EQ(newest_step(folder.path(), 2), 1) << what;
    test::write_file(path, good);
  }
  EXPECT_EQ(newest_step(folder.path(), 2), 2);
}

TEST(Damage, AFileCutAtAnyPlaceIsFoundAndNamed) {
  constexpr int kCuts = 60;
  const test::TempDir folder;
  for (const int64_t step : {1, 2}) save(folder.path(), step, 2, Ownership::kShardedState);
  const fs::path newest = folder / "checkpoint-2";
  const std::vector<fs::path> files = files_of(newest);
  std::mt19937_64 chance(21);
  for (int i = 0; i < kCuts; ++i) {
    const fs::path& path = files[static_cast<std::size_t>(i) % files.size()];
    const std::string good = test::read_file(path);
    test::write_file(path, good.substr(0, chance() % good.size()));
    EXPECT_NE(refusal(newest).find(path.filename().string()), std::string::npos) << refusal(newest);
    EXPECT_EQ(newest_step(folder.path(), 3), 1);
    test::write_file(path, good);
  }
}

TEST(Damage, AnyTwoFilesThatChangedPlacesAreFound) {
  const test::TempDir folder;
  for (const int64_t step : {1, 2}) save(folder.path(), step, 2, Ownership::kShardedState);
  const fs::path newest = folder / "checkpoint-2";
  const std::vector<fs::path> files = files_of(newest);
  for (std::size_t a = 0; a < files.size(); ++a) {
    for (std::size_t b = a + 1; b < files.size(); ++b) {
      const std::string first = test::read_file(files[a]), second = test::read_file(files[b]);
      test::write_file(files[a], second);
      test::write_file(files[b], first);
      EXPECT_NE(refusal(newest), "") << files[a] << " and " << files[b];
      EXPECT_EQ(newest_step(folder.path(), 2), 1);
      test::write_file(files[a], first);
      test::write_file(files[b], second);
    }
  }
  EXPECT_EQ(newest_step(folder.path(), 2), 2);
}

// A shard of the same name in the checkpoint before, and one that the manifest does not list.
TEST(Damage, AShardOfAnotherCheckpointIsFoundAndOneTooManyChangesNothing) {
  const test::TempDir folder;
  for (const int64_t step : {1, 2}) save(folder.path(), step, 2, Ownership::kShardedState);
  const fs::path newest = folder / "checkpoint-2", shard = "model-00002-of-00003.safetensors";
  const std::string good = test::read_file(newest / shard);
  test::write_file(newest / "model-00004-of-00003.safetensors", good);
  EXPECT_EQ(newest_step(folder.path(), 2), 2);
  test::write_file(newest / shard, test::read_file(folder / "checkpoint-1" / shard));
  EXPECT_NE(refusal(newest).find(shard.string()), std::string::npos);
  EXPECT_EQ(newest_step(folder.path(), 2), 1);
}

TEST(Versions, ANewerOneIsRefusedAndNotTakenForDamage) {
  const test::TempDir folder;
  save(folder.path(), 1, 1, Ownership::kReplicated);
  const fs::path checkpoint = folder / "checkpoint-1", path = checkpoint / "state" / "MANIFEST.json";
  const std::string good = test::read_file(path), hash_key = ",\n  \"manifest_xxh3\": \"";
  // As docs/checkpoint-format.md has it.
  const auto write = [&](const std::string& text) {
    test::write_file(path, text + hash_key + base::xxh3_hex(text) + "\"\n}\n");
  };
  std::string body = good.substr(0, good.rfind(hash_key));
  write(body);
  ASSERT_EQ(test::read_file(path), good);
  const std::string version = "\"version\": 1";
  ASSERT_NE(body.find(version), std::string::npos);
  write(body.replace(body.find(version), version.size(), "\"version\": 2"));
  EXPECT_NE(refusal(checkpoint).find("version 2"), std::string::npos) << refusal(checkpoint);
}

TEST(WorldSizes, WhatAnyNumberOfRanksWroteAnyOtherReadsExactly) {
  constexpr int kSizes[] = {1, 2, 3, 4, 6};
  for (const Ownership ownership :
       {Ownership::kReplicated, Ownership::kShardedState, Ownership::kShardedAll, Ownership::kWholeTensors}) {
    for (const int saving : kSizes) {
      const test::TempDir folder;
      save(folder.path(), 3, saving, ownership);
      for (const int loading : kSizes)
        EXPECT_EQ(newest_step(folder.path(), loading), 3) << saving << " to " << loading;
    }
  }
}

}  // namespace
}  // namespace sft::checkpoint
