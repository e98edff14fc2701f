// Damage and interruption: nothing wrong is ever loaded, nothing good is ever lost.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <limits>

#include "checkpoint/directory.h"
#include "checkpoint/manifest.h"
#include "checkpoint/store.h"
#include "sft/base/error.h"
#include "sft/checkpoint/checkpoint.h"
#include "support/checkpoint_contents.h"
#include "support/temp_dir.h"
#include "support/thread_ranks.h"

namespace sft::checkpoint {
namespace faults_test {

namespace fs = std::filesystem;
using base::Error;
using base::ExitCode;
using test::ContentsMaker;
using test::count_wrong;
using test::Ownership;
using test::run_ranks;

StoreOptions options_for(const fs::path& folder) {
  StoreOptions options;
  options.output_dir = folder;
  options.max_shard_bytes = 150'000;
  return options;
}

void save(const fs::path& folder, const std::vector<int64_t>& steps, int world_size = 1,
          const StoreHooks& hooks = {}) {
  run_ranks(world_size, [&](parallel::Communicator& comm) {
    const auto store = open_store(options_for(folder), comm, hooks);
    for (const int64_t step : steps) {
      store->save(ContentsMaker(comm.rank(), comm.size(), Ownership::kShardedState).make(step));
    }
  });
}

int64_t newest_step(const fs::path& folder, int world_size) {
  int64_t step = -1;
  run_ranks(world_size, [&](parallel::Communicator& comm) {
    const auto store = Store::open(options_for(folder), comm);
    const auto reader = store->open_newest();
    if (comm.rank() == 0 && reader) step = reader->step();
    if (reader) {
      EXPECT_EQ(count_wrong(*reader, reader->step()), 0);
    }
  });
  return step;
}

std::vector<fs::path> files_of(const fs::path& checkpoint) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(checkpoint)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  return files;
}

// Not loadable by any way in; the message names the file; the one before it is taken instead.
void expect_refused(const fs::path& folder, const std::string& name, const std::string& part) {
  EXPECT_EQ(newest_step(folder, 1), 1);
  EXPECT_EQ(newest_step(folder, 3), 1);
  EXPECT_THROW(verify_directory(folder / "checkpoint-2"), Error) << name;
  run_ranks(2, [&](parallel::Communicator& comm) {
    const auto store = Store::open(options_for(folder), comm);
    try {
      store->open_checkpoint(folder / "checkpoint-2");
      ADD_FAILURE() << name << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kInvalidData);
      EXPECT_EQ(error.seen_by(), base::SeenBy::kAllRanks);
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  });
}

class DamageTest : public ::testing::Test {
 protected:
  void SetUp() override { save(folder_.path(), {1, 2}, 2); }
  fs::path newest() const { return folder_ / "checkpoint-2"; }
  test::TempDir folder_;
};

TEST_F(DamageTest, AFlippedBitInAnyFileIsFound) {
  ASSERT_EQ(newest_step(folder_.path(), 2), 2);
  for (const fs::path& path : files_of(newest())) {
    const std::string good = test::read_file(path);
    if (good.empty()) continue;
    for (const std::size_t position : {std::size_t{0}, good.size() / 3, good.size() - 1}) {
      std::string bad = good;
      bad[position] = static_cast<char>(bad[position] ^ 4);
      test::write_file(path, bad);
      expect_refused(folder_.path(), path.filename(),
                     path.filename() == "MANIFEST.json" ? "" : "do not match");
    }
    test::write_file(path, good);
  }
  EXPECT_EQ(newest_step(folder_.path(), 2), 2);
}

TEST_F(DamageTest, AMissingShortOrLongFileIsFound) {
  for (const fs::path& path : files_of(newest())) {
    const std::string good = test::read_file(path);
    fs::remove(path);
    expect_refused(folder_.path(), path.filename(), "");
    test::write_file(path, good + "x");
    expect_refused(folder_.path(), path.filename(), "");
    if (!good.empty()) {
      test::write_file(path, good.substr(0, good.size() - 1));
      expect_refused(folder_.path(), path.filename(), "");
    }
    test::write_file(path, good);
  }
  EXPECT_EQ(newest_step(folder_.path(), 2), 2);
}

TEST_F(DamageTest, SwappedShardsAreFound) {
  const fs::path first = newest() / "model-00001-of-00003.safetensors",
                 second = newest() / "model-00003-of-00003.safetensors";
  fs::rename(first, newest() / "x");
  fs::rename(second, first);
  fs::rename(newest() / "x", second);
  expect_refused(folder_.path(), "model-0000", "");
}

TEST_F(DamageTest, AManifestThatListsTooLittleIsRefused) {
  const std::string text = test::read_file(newest() / kManifestName);
  Manifest manifest = parse_manifest(text, "M");
  const std::vector<FileRecord> all = manifest.files;
  for (const char* missing :
       {"model-00002-of-00003.safetensors", "state/optimizer-00001-of-00006.safetensors"}) {
    ASSERT_NE(parse_manifest(text, "M").find(missing), nullptr) << missing;
    manifest.files = all;
    std::erase_if(manifest.files, [&](const FileRecord& file) { return file.name == missing; });
    test::write_file(newest() / kManifestName, manifest_text(manifest));
    expect_refused(folder_.path(), "MANIFEST.json", "is missing");
  }
  manifest.files.clear();
  test::write_file(newest() / kManifestName, manifest_text(manifest));
  expect_refused(folder_.path(), "checkpoint-2", "no model weights");
}

TEST_F(DamageTest, AFolderThatHoldsAnotherStepIsSkipped) {
  fs::rename(newest(), folder_ / "checkpoint-7");
  EXPECT_EQ(newest_step(folder_.path(), 2), 1);
}

// What is read later is checked again: damage after the check at opening is found too.
TEST_F(DamageTest, DamageAfterOpeningIsFound) {
  run_ranks(1, [&](parallel::Communicator& comm) {
    const auto store = Store::open(options_for(folder_.path()), comm);
    const auto reader = store->open_newest();
    ASSERT_NE(reader, nullptr);
    const fs::path path = newest() / "model-00001-of-00003.safetensors";
    std::string bytes = test::read_file(path);
    bytes[bytes.size() - 5] = static_cast<char>(bytes[bytes.size() - 5] ^ 1);
    test::write_file(path, bytes);
    EXPECT_THROW(count_wrong(*reader, 2), Error);
  });
}

TEST_F(DamageTest, AStepWithoutManifestIsNoCheckpoint) {
  fs::create_directory(folder_ / "checkpoint-9");
  EXPECT_EQ(newest_step(folder_.path(), 2), 2);
}

void expect_no_newest(const fs::path& folder, ExitCode code, const std::string& part) {
  run_ranks(2, [&](parallel::Communicator& comm) {
    const auto store = Store::open(options_for(folder), comm);
    try {
      store->open_newest();
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code);
      EXPECT_EQ(error.seen_by(), base::SeenBy::kAllRanks);
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  });
}

// Perhaps the manifest version is that of another program: what is there is not to be trained over.
TEST_F(DamageTest, NothingThatVerifiesIsNotTakenForNothing) {
  for (const char* step : {"checkpoint-1", "checkpoint-2"}) test::write_file(folder_ / step / kManifestName, "{}");
  expect_no_newest(folder_.path(), ExitCode::kInvalidData, "none of them can be used");
}

// A link to itself: the system refuses to open it, which says nothing about the bytes.
TEST_F(DamageTest, WhatCannotBeReadIsNotSkipped) {
  const fs::path shard = newest() / "model-00001-of-00003.safetensors";
  fs::remove(shard);
  fs::create_symlink(shard, shard);
  expect_no_newest(folder_.path(), ExitCode::kStorage, shard);
}

class Interruption : public ::testing::TestWithParam<bool> {};  // whether in the background

void save_once(Store& store, const Contents& contents, bool in_background) {
  if (!in_background) {
    store.save(contents);
    return;
  }
  store.start_save(contents);
  store.finish_save();
}

TEST_P(Interruption, DeathAtAnyPointLeavesAValidCheckpoint) {
  for (const std::string point : {"prepared", "written", "manifest", "renamed"}) {
    const test::TempDir folder;
    save(folder.path(), {1});
    const pid_t child = ::fork();
    if (child == 0) {
      StoreHooks hooks;
      hooks.at = [&](std::string_view reached) {
        if (reached == point) ::_exit(42);
      };
      run_ranks(1, [&](parallel::Communicator& comm) {
        const auto store = open_store(options_for(folder.path()), comm, hooks);
        save_once(*store, ContentsMaker(0, 1, Ownership::kReplicated).make(2), GetParam());
      });
      ::_exit(1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 42) << point;
    EXPECT_EQ(newest_step(folder.path(), 2), point == "renamed" ? 2 : 1) << point;
    // The next run has cleared away what the dead one left.
    for (const auto& entry : fs::directory_iterator(folder.path())) {
      EXPECT_EQ(entry.path().filename().string().find(".tmp-"), std::string::npos) << entry.path();
    }
  }
}

void expect_given_up(const fs::path& folder, int world_size, StoreHooks hooks, const std::string& part,
                     bool in_background) {
  hooks.first_pause = std::chrono::milliseconds(1);
  run_ranks(world_size, [&](parallel::Communicator& comm) {
    const auto store = open_store(options_for(folder), comm, hooks);
    const Contents contents = ContentsMaker(comm.rank(), comm.size(), Ownership::kShardedState).make(2);
    for (int attempt = 0; attempt < 2; ++attempt) {
      try {
        save_once(*store, contents, in_background);
        ADD_FAILURE() << "saved, although: " << part;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::kStorage);
        EXPECT_EQ(error.seen_by(), base::SeenBy::kAllRanks);
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
      }
    }
    comm.barrier();
    if (comm.rank() == 0) {
      for (const auto& entry : fs::directory_iterator(folder)) {
        const std::string name = entry.path().filename();
        EXPECT_TRUE(name == "checkpoint-1" || name == ".lease") << name;
      }
    }
    comm.barrier();
  });
  EXPECT_EQ(newest_step(folder, 2), 1);
}

TEST_P(Interruption, AFailureOnOneRankIsGivenUpByAll) {
  const test::TempDir folder;
  save(folder.path(), {1});
  for (const char* point : {"prepared", "written", "manifest"}) {
    StoreHooks hooks;
    std::atomic<int> calls{0};
    hooks.at = [&](std::string_view reached) {
      // One of the ranks, whichever comes first; twice, because the save is tried twice.
      if (reached == point && calls++ % (std::string_view(point) == "manifest" ? 1 : 3) == 0) {
        base::fail(ExitCode::kStorage, "the disk is full");
      }
    };
    expect_given_up(folder.path(), 3, hooks, "the disk is full", GetParam());
  }
}

TEST_P(Interruption, TooLittleSpaceIsSeenBeforeWriting) {
  const test::TempDir folder;
  save(folder.path(), {1});
  StoreHooks hooks;
  hooks.free_bytes = [](const fs::path&) { return int64_t{5'000}; };
  // Only rank 0 looks and stops; the others must not be let further than that point.
  hooks.at = [](std::string_view reached) { EXPECT_EQ(reached, "prepared"); };
  expect_given_up(folder.path(), 2, hooks, "0 MB are free", GetParam());
}

INSTANTIATE_TEST_SUITE_P(Saves, Interruption, ::testing::Bool(), [](const auto& way) {
  return std::string(way.param ? "InBackground" : "InForeground");
});

TEST(VerifyDirectory, LooksAtPlainModelFolders) {
  const test::TempDir folder;
  std::vector<model::SafetensorsEntry> entries = {{"w", "F32", {3}, 0, 0}, {"ids", "I64", {1}, 0, 0}};
  const std::string header = model::make_safetensors_header(entries, {});
  const auto write = [&](float value) {
    const float values[3] = {1, 2, value};
    std::string bytes(20, '\0');
    std::memcpy(bytes.data(), values, 12);
    test::write_file(folder / "model.safetensors", header + bytes);
  };
  write(3);
  EXPECT_NO_THROW(verify_directory(folder.path()));
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    write(value);
    try {
      verify_directory(folder.path());
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("tensor 'w' has a value that is not finite"),
                std::string::npos)
          << error.what();
    }
  }
  EXPECT_THROW(verify_directory(folder / "nowhere"), Error);
}

}  // namespace faults_test
}  // namespace sft::checkpoint
