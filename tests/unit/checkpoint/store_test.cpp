// Saving and loading at any pair of world sizes, replacement, retention, and the folder's guards.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "checkpoint/directory.h"
#include "checkpoint/store.h"
#include "sft/base/error.h"
#include "sft/checkpoint/checkpoint.h"
#include "support/checkpoint_contents.h"
#include "support/temp_dir.h"
#include "support/thread_ranks.h"

namespace sft::checkpoint {
namespace store_test {

namespace fs = std::filesystem;
using test::ContentsMaker;
using test::count_wrong;
using test::Ownership;
using test::run_ranks;

StoreOptions options_for(const fs::path& folder) {
  StoreOptions options;
  options.output_dir = folder;
  return options;
}

void save_steps(const StoreOptions& options, const std::vector<int64_t>& steps, int world_size = 1,
                Ownership ownership = Ownership::kReplicated) {
  run_ranks(world_size, [&](parallel::Communicator& comm) {
    const auto store = Store::open(options, comm);
    for (const int64_t step : steps)
      store->save(ContentsMaker(comm.rank(), comm.size(), ownership).make(step));
  });
}

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename());
  return names;
}

TEST(Store, LoadsAtAnyWorldSizeWhatAnyOwnershipSaved) {
  for (const Ownership ownership :
       {Ownership::kReplicated, Ownership::kShardedState, Ownership::kShardedAll, Ownership::kWholeTensors}) {
    for (const int saved : {1, 2, 3}) {
      const test::TempDir folder;
      StoreOptions options = options_for(folder.path());
      if (saved == 2) options.max_shard_bytes = 150'000;
      save_steps(options, {5}, saved, ownership);
      for (const int loading : {1, 2, 3, 5}) {
        run_ranks(loading, [&](parallel::Communicator& comm) {
          const auto store = Store::open(options, comm);
          const auto reader = store->open_newest();
          if (!reader) throw std::runtime_error("nothing found");
          EXPECT_EQ(reader->step(), 5);
          EXPECT_EQ(count_wrong(*reader, 5, comm.rank(), comm.size()), 0);
          EXPECT_EQ(reader->side_file("config.json"), "{\"model_type\": \"test\"}\n");
          EXPECT_EQ(reader->side_file("state/empty.txt"), "");
          EXPECT_EQ(nlohmann::json::parse(reader->train_state()),
                    nlohmann::json::parse(R"({"step":5,"loss":"0x1.8p+1"})"));
          EXPECT_EQ(reader->environment(), R"({"threads":2})");
          EXPECT_EQ(reader->model().shape("model.empty"), (std::vector<int64_t>{0, 4}));
        });
      }
    }
  }
}

// The written files do not depend on who wrote them.
TEST(Store, FilesAreTheSameAtEveryWorldSize) {
  const test::TempDir one, three;
  save_steps(options_for(one.path()), {5}, 1);
  save_steps(options_for(three.path()), {5}, 3, Ownership::kShardedState);
  for (const char* file :
       {"model.safetensors", "state/optimizer.safetensors", "model.safetensors.index.json", "config.json"}) {
    EXPECT_EQ(test::read_file(one / "checkpoint-5" / file), test::read_file(three / "checkpoint-5" / file))
        << file;
  }
}

TEST(Store, SharesTheWorkAndCountsIt) {
  const test::TempDir folder;
  for (const int world_size : {1, 2, 3}) {
    std::atomic<int64_t> written{0}, read{0}, verified{0};
    const StoreOptions options = options_for(folder.path());
    run_ranks(world_size, [&](parallel::Communicator& comm) {
      const auto store = Store::open(options, comm);
      const SaveReport report =
          store->save(ContentsMaker(comm.rank(), comm.size(), Ownership::kReplicated).make(world_size));
      EXPECT_LE(std::abs(report.bytes_this_rank - report.bytes / world_size), report.bytes / world_size / 10);
      written += report.bytes_this_rank;
      const auto reader = store->open_newest();
      if (!reader) throw std::runtime_error("nothing found");
      verified += reader->bytes_verified();
      const int64_t headers = reader->model().bytes_read() + reader->optimizer().bytes_read();
      EXPECT_LE(headers, 4 * 4096);  // a header and the rest of its chunk, for each file
      // A contiguous range of one tensor: its bytes, and at most a chunk more at each end.
      const int64_t total = 331 * 67, begin = total * comm.rank() / comm.size(),
                    end = total * (comm.rank() + 1) / comm.size();
      EXPECT_EQ(count_wrong(reader->model(), "model.embed.weight", begin, end, world_size), 0);
      const int64_t bytes = reader->model().bytes_read() + reader->optimizer().bytes_read() - headers;
      EXPECT_GE(bytes + 4096, 4 * (end - begin));
      EXPECT_LE(bytes, 4 * (end - begin) + 2 * 4096);
      read += bytes;
      EXPECT_LE(std::abs(reader->bytes_verified() - report.bytes / world_size), 2 * 4096);
      EXPECT_EQ(comm.broadcast_bytes(std::to_string(report.bytes), 0), std::to_string(report.bytes));
    });
    int64_t on_disk = 0;
    for (const auto& entry : fs::recursive_directory_iterator(checkpoint_path(folder.path(), world_size))) {
      if (entry.is_regular_file() && entry.path().filename() != "MANIFEST.json")
        on_disk += static_cast<int64_t>(entry.file_size());
    }
    EXPECT_EQ(written, on_disk);
    EXPECT_EQ(verified, on_disk);
  }
}

TEST(Store, KeepsTheNewestAndDropsAnotherCourse) {
  const test::TempDir folder;
  StoreOptions options = options_for(folder.path());
  options.save_total_limit = 2;
  save_steps(options, {1, 2, 3, 10});
  const std::set<std::string> two = {"checkpoint-10", "checkpoint-3", ".lease"};
  EXPECT_EQ(names_in(folder.path()), two);
  // A run that went back to step 3 and saves 4 has left the course of 10.
  save_steps(options, {4});
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"checkpoint-4", "checkpoint-3", ".lease"}));
}

TEST(Store, SetsAsideWhatIsLater) {
  const test::TempDir folder;
  const StoreOptions options = options_for(folder.path());
  for (int round = 0; round < 2; ++round) {
    save_steps(options, {1, 2, 3});
    run_ranks(2, [&](parallel::Communicator& comm) {
      const auto store = Store::open(options, comm);
      store->set_aside_after(2);
      EXPECT_EQ(store->open_newest()->step(), 2);
    });
    std::set<std::string> names = names_in(folder.path());
    EXPECT_EQ(names.count("checkpoint-3"), 0);
    EXPECT_EQ(names.count("abandoned-checkpoint-3"), 1);
    EXPECT_EQ(names.size(), 4 + static_cast<std::size_t>(round));  // with the lease; an earlier one is kept
  }
}

// As transformers' rotate_checkpoints: the newest and the best stay whatever the limit, then the newer ones.
TEST(Store, SparesTheBestCheckpoint) {
  using Steps = std::vector<int64_t>;
  const struct {
    int64_t limit, best;
    Steps expected;
    std::set<int64_t> damaged = {};
  } cases[] = {{1, 2, {2, 5}},  {2, 2, {2, 5}}, {3, 2, {2, 4, 5}},      {2, 5, {4, 5}},
               {2, -1, {4, 5}}, {2, 9, {4, 5}}, {7, 1, {1, 2, 3, 4, 5}},
               {2, -1, {3, 5}, {4}},
               {3, -1, {1, 2, 5}, {3, 4}}};
  for (const auto& c : cases) {
    const test::TempDir folder;
    for (int64_t step = 1; step <= 5; ++step) fs::create_directory(checkpoint_path(folder.path(), step));
    Trash trash;
    apply_limit(folder.path(), 5, c.best, c.limit, c.damaged, trash);
    Steps left;
    for (const auto& [step, path] : list_checkpoints(folder.path())) left.push_back(step);
    EXPECT_EQ(left, c.expected) << "limit " << c.limit << ", best " << c.best;
  }
}

TEST(Trash, TakesFoldersOutOfSightAtOnce) {
  const test::TempDir folder;
  for (int64_t step = 1; step <= 3; ++step) {
    test::write_file(checkpoint_path(folder.path(), step) / "state" / "file", "x");
  }
  Trash trash;
  for (int64_t step = 1; step <= 2; ++step) {
    trash.discard(checkpoint_path(folder.path(), step));
    EXPECT_FALSE(fs::exists(checkpoint_path(folder.path(), step)));
  }
  EXPECT_THROW(trash.discard(checkpoint_path(folder.path(), 2)), base::Error);
  trash.wait();
  EXPECT_EQ(names_in(folder.path()), std::set<std::string>{"checkpoint-3"});
}

TEST(Store, RetentionFollowsNoSymbolicLinks) {
  const test::TempDir folder, elsewhere;
  test::write_file(elsewhere / "precious" / "file", "x");
  fs::create_directory_symlink(elsewhere / "precious", folder / "checkpoint-1");
  StoreOptions options = options_for(folder.path());
  options.save_total_limit = 1;
  save_steps(options, {2, 3});
  EXPECT_TRUE(fs::exists(elsewhere / "precious" / "file"));
  EXPECT_FALSE(fs::exists(folder / "checkpoint-2"));
  EXPECT_TRUE(fs::exists(folder / "checkpoint-3"));
}

TEST(Store, ReplacesACheckpointOfTheSameStep) {
  const test::TempDir folder;
  const StoreOptions options = options_for(folder.path());
  save_steps(options, {5});
  test::write_file(folder / "checkpoint-5" / "model.safetensors", "rubbish");
  save_steps(options, {5});
  EXPECT_NO_THROW(verify_directory(folder / "checkpoint-5"));
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"checkpoint-5", ".lease"}));
}

TEST(Store, WritesAFinalModelOverAnOlderOne) {
  const test::TempDir folder;
  StoreOptions options = options_for(folder.path());
  options.max_shard_bytes = 150'000;
  const auto save_final = [&] {
    run_ranks(2, [&](parallel::Communicator& comm) {
      const auto store = Store::open(options, comm);
      const SaveReport report =
          store->save_final_model(ContentsMaker(comm.rank(), 2, Ownership::kShardedState).make(9));
      EXPECT_EQ(report.path, folder.path());
    });
  };
  save_final();
  EXPECT_TRUE(fs::exists(folder / "model-00001-of-00003.safetensors"));
  options.max_shard_bytes = 1 << 30;
  save_final();
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{".lease", "config.json", "model.safetensors",
                                                            "model.safetensors.index.json", "run.ini"}));
  EXPECT_EQ(count_wrong(*model::open_model_weights(folder.path()), "model.layers.0.w", 0, 129 * 257, 9), 0);
  EXPECT_NO_THROW(verify_directory(folder.path()));
}

TEST(Store, SaveOnlyModelHasNoOptimizer) {
  const test::TempDir folder;
  run_ranks(1, [&](parallel::Communicator& comm) {
    const auto store = Store::open(options_for(folder.path()), comm);
    EXPECT_FALSE(store->has_results());
    EXPECT_EQ(store->open_newest(), nullptr);
    Contents contents = ContentsMaker(0, 1, Ownership::kReplicated).make(1);
    contents.optimizer.clear();
    store->save(contents);
    const auto reader = store->open_checkpoint(folder / "checkpoint-1");
    EXPECT_FALSE(reader->has_optimizer());
    EXPECT_THROW(reader->optimizer(), base::Error);
  });
}

TEST(Store, KnowsAndDiscardsResults) {
  const test::TempDir folder;
  save_steps(options_for(folder.path()), {1, 2});
  run_ranks(2, [&](parallel::Communicator& comm) {
    const auto store = Store::open(options_for(folder.path()), comm);
    EXPECT_TRUE(store->has_results());
    store->discard_checkpoints();
    EXPECT_FALSE(store->has_results());
  });
  EXPECT_EQ(names_in(folder.path()), std::set<std::string>{".lease"});
}

StoreHooks impatient() {
  StoreHooks hooks;
  hooks.patience = std::chrono::milliseconds(100);
  return hooks;
}

void expect_storage_error(const std::function<void()>& action, const std::string& part) {
  try {
    action();
    ADD_FAILURE() << "no error, although: " << part;
  } catch (const base::Error& error) {
    EXPECT_EQ(error.code(), base::ExitCode::kStorage);
    EXPECT_EQ(error.seen_by(), base::SeenBy::kAllRanks);
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(Store, RefusesASecondLiveRun) {
  const test::TempDir folder;
  run_ranks(1, [&](parallel::Communicator& first) {
    const auto store = Store::open(options_for(folder.path()), first);
    run_ranks(2, [&](parallel::Communicator& second) {
      expect_storage_error(
          [&] { Store::open(options_for(folder.path()), second); },
          fmt::format("in use by another run (process {} on host {})", ::getpid(), host_name()));
    });
  });
  run_ranks(1, [&](parallel::Communicator& comm) {
    EXPECT_NO_THROW(Store::open(options_for(folder.path()), comm));
  });
}

TEST(Store, WaitsForARunThatIsJustEnding) {
  const test::TempDir folder;
  auto ending = std::make_unique<Lease>(folder.path(), std::chrono::milliseconds(0));
  std::jthread end([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    ending.reset();
  });
  run_ranks(1, [&](parallel::Communicator& comm) {
    EXPECT_NO_THROW(Store::open(options_for(folder.path()), comm));
  });
}

TEST(Store, RefusesAnOutputDirThatCannotBeWritten) {
  const test::TempDir folder;
  test::write_file(folder / "file", "x");
  for (const fs::path& path :
       {folder / "file" / "out", folder / "file", fs::path("/proc/sft-out"), fs::path("/sys")}) {
    run_ranks(2, [&](parallel::Communicator& comm) {
      expect_storage_error([&] { Store::open(options_for(path), comm); }, path.string());
    });
  }
}

TEST(Store, RefusesAnOutputDirThatIsNotShared) {
  // Each "host" has a folder of its own under the same name: rank 1 looks elsewhere.
  const test::TempDir here, there;
  run_ranks(2, [&](parallel::Communicator& comm) {
    expect_storage_error(
        [&] { open_store(options_for(comm.rank() == 0 ? here.path() : there.path()), comm, impatient()); },
        "is not shared by all hosts: " + host_name());
  });
  EXPECT_EQ(names_in(here.path()), std::set<std::string>{".lease"});
}

TEST(Store, SweepsWhatDeadRunsLeft) {
  const test::TempDir folder, elsewhere;
  test::write_file(elsewhere / "precious" / "file", "x");
  test::write_file(folder / "checkpoint-3.tmp-00ff" / "model.safetensors", "half");
  test::write_file(folder / ".trash-00ff-checkpoint-1" / "file", "x");
  fs::create_directory_symlink(elsewhere / "precious", folder / ".trash-link");
  test::write_file(folder / "notes.tmp-1", "the user's own");
  save_steps(options_for(folder.path()), {});
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{".lease", "notes.tmp-1"}));
  EXPECT_TRUE(fs::exists(elsewhere / "precious" / "file"));
}

TEST(Store, RefusesALimitBelowOne) {
  const test::TempDir folder;
  StoreOptions options = options_for(folder.path());
  options.save_total_limit = 0;
  EXPECT_THROW(save_steps(options, {}), base::Error);
}

}  // namespace store_test
}  // namespace sft::checkpoint
