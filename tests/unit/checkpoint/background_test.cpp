// Saves in the background: what is written, who agrees when, and what happens when storage refuses.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <set>
#include <string>

#include "checkpoint/directory.h"
#include "checkpoint/retry.h"
#include "checkpoint/store.h"
#include "sft/base/file.h"
#include "sft/checkpoint/checkpoint.h"
#include "support/checkpoint_contents.h"
#include "support/temp_dir.h"
#include "support/thread_ranks.h"

namespace sft::checkpoint {
namespace background_test {

namespace fs = std::filesystem;
using test::ContentsMaker;
using test::count_wrong;
using test::Ownership;
using test::run_ranks;

StoreHooks quick() {
  StoreHooks hooks;
  hooks.first_pause = std::chrono::milliseconds(1);
  return hooks;
}

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename());
  return names;
}

// Every rank's answer at a step's end, as the training loop asks for it.
bool all_ready(parallel::Communicator& comm, const Store& store) {
  for (const std::string& answer : comm.all_gather_bytes(store.ready() ? "ready" : "busy")) {
    if (answer != "ready") return false;
  }
  return true;
}

// Steps until the save under way is committed.
SaveReport step_on(parallel::Communicator& comm, Store& store) {
  for (;;) {
    if (!all_ready(comm, store)) continue;
    if (const std::optional<SaveReport> report = store.advance()) return *report;
  }
}

void overwrite(const Contents& contents) {
  for (const auto* slices : {&contents.model, &contents.optimizer}) {
    for (const TensorSlice& slice : *slices) slice.data.fill_(-77);
  }
}

// The gate that holds a rank's writing until it is opened.
class Gate {
 public:
  void open() {
    const std::lock_guard lock(mutex_);
    is_open_ = true;
    opened_.notify_all();
  }
  void pass() {
    std::unique_lock lock(mutex_);
    opened_.wait(lock, [this] { return is_open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool is_open_ = false;
};

// Byte for byte what a save in the foreground writes, the manifest too, though training changes everything
// meanwhile.
TEST(BackgroundSave, WritesWhatWasThereWhenItBegan) {
  for (const Ownership ownership :
       {Ownership::kReplicated, Ownership::kShardedState, Ownership::kShardedAll, Ownership::kWholeTensors}) {
    for (const int world_size : {1, 2, 3}) {
      const test::TempDir foreground, background;
      run_ranks(world_size, [&](parallel::Communicator& comm) {
        const ContentsMaker maker(comm.rank(), comm.size(), ownership);
        const auto expected = Store::open(test::store_options(foreground.path()), comm);
        const auto store = Store::open(test::store_options(background.path()), comm);
        for (const int64_t step : {4, 5}) {  // the second into the buffer of the first
          expected->save(maker.make(step));
          {
            const Contents contents = maker.make(step);
            store->start_save(contents);
            overwrite(contents);
          }
          const SaveReport report = step_on(comm, *store);
          EXPECT_EQ(report.path, background / ("checkpoint-" + std::to_string(step)));
          EXPECT_LE(report.file_seconds, report.seconds);
        }
        const auto reader = store->open_newest();
        if (!reader) throw std::runtime_error("nothing found");
        EXPECT_EQ(count_wrong(*reader, 5), 0);
      });
      for (const auto& entry : fs::recursive_directory_iterator(foreground.path())) {
        if (!entry.is_regular_file() || entry.path().filename() == ".lease") continue;
        const fs::path name = entry.path().lexically_relative(foreground.path());
        EXPECT_EQ(test::read_file(entry.path()), test::read_file(background.path() / name)) << name;
      }
    }
  }
}

TEST(BackgroundSave, StepsGoOnWhileOneRankWrites) {
  const test::TempDir folder;
  Gate gate;
  run_ranks(3, [&](parallel::Communicator& comm) {
    StoreHooks hooks = quick();
    if (comm.rank() == 1) hooks.attempt = [&](const fs::path&) { gate.pass(); };
    const auto store = open_store(test::store_options(folder.path()), comm, hooks);
    store->start_save(ContentsMaker(comm.rank(), 3, Ownership::kReplicated).make(2));
    // The first stage is rank 0's alone; the second cannot end before the gate is open.
    while (!all_ready(comm, *store)) comm.barrier();
    EXPECT_FALSE(store->advance().has_value());
    for (int step = 0; step < 20; ++step) {
      EXPECT_FALSE(all_ready(comm, *store));
      EXPECT_TRUE(comm.rank() != 1 || !store->ready());
      EXPECT_FALSE(fs::exists(folder / "checkpoint-2"));
    }
    comm.barrier();
    if (comm.rank() == 0) gate.open();
    step_on(comm, *store);
    EXPECT_TRUE(store->ready());
    const auto reader = store->open_newest();
    EXPECT_TRUE(reader && reader->step() == 2 && count_wrong(*reader, 2) == 0);
  });
}

TEST(BackgroundSave, IsOneAtATime) {
  const test::TempDir folder;
  run_ranks(2, [&](parallel::Communicator& comm) {
    const auto store = Store::open(test::store_options(folder.path()), comm);
    const Contents contents = ContentsMaker(comm.rank(), 2, Ownership::kReplicated).make(1);
    store->start_save(contents);
    EXPECT_THROW(store->start_save(contents), base::Error);
    EXPECT_THROW(store->save(contents), base::Error);
    EXPECT_THROW(store->save_final_model(contents), base::Error);
    EXPECT_EQ(store->finish_save().path, folder / "checkpoint-1");
    EXPECT_NO_THROW(store->save_final_model(contents));
  });
}

TEST(BackgroundSave, KeepsToTheLimit) {
  const test::TempDir folder;
  StoreOptions options = test::store_options(folder.path());
  options.save_total_limit = 2;
  run_ranks(2, [&](parallel::Communicator& comm) {
    const auto store = Store::open(options, comm);
    for (int64_t step = 1; step <= 5; ++step) {
      Contents contents = ContentsMaker(comm.rank(), 2, Ownership::kReplicated).make(step);
      contents.best_step = 2;
      store->start_save(contents);
      store->finish_save();
    }
  });
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"checkpoint-2", "checkpoint-5", ".lease"}));
}

// A run that ends by an error of its own leaves nothing half written.
TEST(BackgroundSave, IsAbandonedWithTheStore) {
  const test::TempDir folder;
  run_ranks(2, [&](parallel::Communicator& comm) {
    const auto store = Store::open(test::store_options(folder.path()), comm);
    const ContentsMaker maker(comm.rank(), 2, Ownership::kReplicated);
    store->save(maker.make(1));
    store->start_save(maker.make(2));
    while (!all_ready(comm, *store)) comm.barrier();
    store->advance();
  });
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"checkpoint-1", ".lease"}));
}

// What an earlier save could not delete must not stay for the rest of the run.
TEST(BackgroundSave, ClearsWhatAnEarlierOneLeft) {
  const test::TempDir folder;
  run_ranks(1, [&](parallel::Communicator& comm) {
    const auto store = Store::open(test::store_options(folder.path()), comm);
    test::write_file(folder / "checkpoint-1.tmp-00ff" / "model.safetensors", "half");
    store->save(ContentsMaker(0, 1, Ownership::kReplicated).make(2));
  });
  EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"checkpoint-2", ".lease"}));
}

// Where storage may refuse, and which rank meets it there.
struct Refusal {
  std::string file;  // part of the name
  int rank;
};

const Refusal kRefusals[] = {{".tmp-", 0}, {".safetensors", 0}, {".safetensors", 2}, {"MANIFEST.json", 0}};

bool is_at(const Refusal& refusal, const fs::path& file) {
  return file.filename().string().find(refusal.file) != std::string::npos;
}

class Refusing : public ::testing::TestWithParam<bool> {  // whether in the background
 protected:
  // Throws as long as there are refusals left.
  StoreHooks refusing_hooks(const Refusal& refusal, int rank) {
    StoreHooks hooks = quick();
    hooks.attempt = [this, refusal, rank](const fs::path& file) {
      if (rank != refusal.rank || !is_at(refusal, file)) return;
      ++attempts_;
      if (refusals_left_-- > 0) base::fail_file(base::ExitCode::kStorage, "write", file, "Stale file handle");
    };
    return hooks;
  }

  static void save(Store& store, const Contents& contents) {
    if (GetParam()) {
      store.start_save(contents);
      store.finish_save();
    } else {
      store.save(contents);
    }
  }

  std::atomic<int> attempts_{0}, refusals_left_{0};
};

TEST_P(Refusing, AFewTimesIsOvercome) {
  for (const Refusal& refusal : kRefusals) {
    const test::TempDir folder;
    attempts_ = 0;
    refusals_left_ = kRetries;
    run_ranks(3, [&](parallel::Communicator& comm) {
      const auto store = open_store(test::store_options(folder.path()), comm, refusing_hooks(refusal, comm.rank()));
      save(*store, ContentsMaker(comm.rank(), 3, Ownership::kReplicated).make(7));
      const auto reader = store->open_newest();
      EXPECT_TRUE(reader && count_wrong(*reader, 7) == 0) << refusal.file;
    });
    EXPECT_GE(attempts_, kRetries + 1) << refusal.file;
    EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"checkpoint-7", ".lease"}));
  }
}

TEST_P(Refusing, ForGoodIsGivenUpByAllRanks) {
  for (const Refusal& refusal : kRefusals) {
    const test::TempDir folder;
    run_ranks(3, [&](parallel::Communicator& comm) {
      const auto store = open_store(test::store_options(folder.path()), comm, refusing_hooks(refusal, comm.rank()));
      const ContentsMaker maker(comm.rank(), 3, Ownership::kReplicated);
      save(*store, maker.make(1));
      comm.barrier();
      if (comm.rank() == 0) {
        attempts_ = 0;
        refusals_left_ = 1000;
      }
      comm.barrier();
      try {
        save(*store, maker.make(2));
        ADD_FAILURE() << "saved, although " << refusal.file << " could not be written";
      } catch (const SaveFailed& error) {
        EXPECT_EQ(error.seen_by(), base::SeenBy::kAllRanks);
        EXPECT_EQ(error.code(), base::ExitCode::kStorage);
        EXPECT_EQ(error.first().rank, refusal.rank);
        EXPECT_EQ(error.first().host, host_name());
        EXPECT_TRUE(is_at(refusal, error.first().file)) << error.first().file;
        EXPECT_EQ(error.first().reason, "Stale file handle");
        const std::string message = error.what(), rank = fmt::format("[rank {} ", refusal.rank);
        EXPECT_TRUE(message.find("checkpoint-2 could not be saved: " + rank) != std::string::npos) << message;
      }
      comm.barrier();
      if (comm.rank() == 0) {
        EXPECT_EQ(attempts_, kRetries + 1) << refusal.file;
        EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"checkpoint-1", ".lease"}));
        refusals_left_ = 0;
      }
      comm.barrier();
      const auto older = store->open_newest();
      EXPECT_TRUE(older && older->step() == 1 && count_wrong(*older, 1) == 0);
      save(*store, maker.make(3));
      const auto newer = store->open_newest();
      EXPECT_TRUE(newer && newer->step() == 3 && count_wrong(*newer, 3) == 0);
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Saves, Refusing, ::testing::Bool(), [](const auto& way) {
  return std::string(way.param ? "InBackground" : "InForeground");
});

// The final model too, whose files replace older ones one by one.
TEST(FinalModel, IsRetriedFileByFile) {
  const test::TempDir folder;
  run_ranks(2, [&](parallel::Communicator& comm) {
    StoreHooks hooks = quick();
    std::set<std::string> met;
    hooks.attempt = [&](const fs::path& file) {
      if (met.insert(file.string()).second)
        base::fail_file(base::ExitCode::kStorage, "write", file, "Input/output error");
    };
    const auto store = open_store(test::store_options(folder.path()), comm, hooks);
    store->save_final_model(ContentsMaker(comm.rank(), 2, Ownership::kShardedState).make(9));
    EXPECT_GE(std::ssize(met), comm.rank() == 0 ? 9 : 1);
  });
  EXPECT_EQ(count_wrong(*model::open_model_weights(folder.path()), "model.layers.0.w", 0, 129 * 257, 9), 0);
  EXPECT_EQ(names_in(folder.path()),
            (std::set<std::string>{".lease", "config.json", "run.ini", "model.safetensors.index.json",
                                   "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                                   "model-00003-of-00003.safetensors"}));
}

}  // namespace background_test
}  // namespace sft::checkpoint
