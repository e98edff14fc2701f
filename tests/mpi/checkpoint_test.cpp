// Checkpoints over MPI: any world size reads what any other wrote, work is shared, one rank's trouble is
// everybody's.
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "checkpoint/store.h"
#include "sft/base/error.h"
#include "sft/checkpoint/checkpoint.h"
#include "support/checkpoint_contents.h"
#include "support/mpi_test.h"
#include "support/temp_dir.h"

namespace sft::checkpoint {
namespace {

namespace fs = std::filesystem;
using test::ContentsMaker;
using test::count_wrong;
using test::Ownership;
using testing::world;

// One folder for all ranks, removed when the last of them has left.
class SharedFolder {
 public:
  SharedFolder() {
    if (world().rank() == 0) folder_.emplace();
    path_ = world().broadcast_bytes(folder_ ? folder_->path().string() : std::string(), 0);
  }
  ~SharedFolder() { world().barrier(); }
  const fs::path& path() const { return path_; }

 private:
  std::optional<test::TempDir> folder_;
  fs::path path_;
};

StoreOptions options_for(const fs::path& folder) {
  StoreOptions options;
  options.output_dir = folder;
  return options;
}

// The first `size` ranks as a communicator; null on the others.
std::unique_ptr<parallel::Communicator> first_ranks(int size) {
  const bool inside = world().rank() < size;
  auto comm = world().split(inside ? 0 : 1, world().rank());
  return inside ? std::move(comm) : nullptr;
}

TEST(CheckpointMpi, AnyWorldSizeReadsWhatAnyOtherWrote) {
  for (const Ownership ownership :
       {Ownership::kReplicated, Ownership::kShardedState, Ownership::kShardedAll}) {
    for (int saving = 1; saving <= world().size(); ++saving) {
      const SharedFolder folder;
      if (const auto comm = first_ranks(saving)) {
        Store::open(options_for(folder.path()), *comm)
            ->save(ContentsMaker(comm->rank(), comm->size(), ownership).make(4));
      }
      world().barrier();
      for (int loading = 1; loading <= world().size(); ++loading) {
        if (const auto comm = first_ranks(loading)) {
          const auto store = Store::open(options_for(folder.path()), *comm);
          const auto reader = store->open_newest();
          EXPECT_TRUE(reader != nullptr);
          if (reader) {
            EXPECT_EQ(reader->step(), 4);
            EXPECT_EQ(count_wrong(*reader, 4, comm->rank(), comm->size()), 0);
          }
        }
        world().barrier();
      }
    }
  }
}

TEST(CheckpointMpi, RanksShareTheBytes) {
  const SharedFolder folder;
  const auto store = Store::open(options_for(folder.path()), world());
  for (const Ownership ownership : {Ownership::kReplicated, Ownership::kShardedState}) {
    const int64_t step = ownership == Ownership::kReplicated ? 1 : 2;
    const SaveReport report =
        store->save(ContentsMaker(world().rank(), world().size(), ownership).make(step));
    const int64_t share = report.bytes / world().size();
    EXPECT_LE(std::abs(report.bytes_this_rank - share), share / 10);
    EXPECT_EQ(world().sum(report.bytes_this_rank), report.bytes);

    const auto reader = store->open_newest();
    EXPECT_TRUE(reader != nullptr);
    if (!reader) return;  // the same on every rank
    EXPECT_EQ(world().sum(reader->bytes_verified()), report.bytes);
    EXPECT_LE(reader->bytes_verified(), share + 4096);
    const auto bytes_read = [&] { return reader->model().bytes_read() + reader->optimizer().bytes_read(); };
    const int64_t headers = bytes_read();
    EXPECT_LE(headers, 4 * 4096);
    int64_t needed = 0;
    for (const test::Shape& shape : test::model_shapes()) {
      const int64_t total = test::numel(shape.shape);
      const int64_t begin = total * world().rank() / world().size(),
                    end = total * (world().rank() + 1) / world().size();
      EXPECT_EQ(count_wrong(reader->model(), shape.name, begin, end, step), 0);
      needed += 4 * (end - begin);
    }
    const int64_t num_ranges = std::ssize(test::model_shapes());
    EXPECT_LE(bytes_read() - headers, needed + num_ranges * 2 * 4096);
    EXPECT_GE(bytes_read(), needed);
  }
}

// As the training loop does it: collectives of both planes go on while every rank writes, and say when all
// are ready.
TEST(CheckpointMpi, StepsGoOnDuringASave) {
  const SharedFolder folder;
  const auto store = Store::open(options_for(folder.path()), world());
  const ContentsMaker maker(world().rank(), world().size(), Ownership::kShardedState);
  const at::Tensor gradient = at::empty({10'000}, at::kFloat);
  for (const int64_t step : {3, 4, 5}) {
    store->start_save(maker.make(step));
    std::optional<SaveReport> report;
    int64_t wrong = 0, reduced = 0;
    while (!report) {
      gradient.fill_(static_cast<float>(world().rank() + 1));
      parallel::Work work = world().all_reduce(gradient);
      const bool ready = world().all(store->ready());
      if (ready) report = store->advance();
      work.wait();
      const auto expected = static_cast<float>(world().size() * (world().size() + 1)) / 2;
      wrong += gradient.ne(expected).sum().item<int64_t>();
      ++reduced;
    }
    EXPECT_EQ(wrong, 0);
    EXPECT_GE(reduced, 3);  // stages end between steps
    EXPECT_EQ(world().sum(report->bytes_this_rank), report->bytes);
    const auto reader = store->open_newest();
    EXPECT_TRUE(reader && reader->step() == step && count_wrong(*reader, step) == 0);
  }
}

void save(Store& store, const Contents& contents, bool in_background) {
  if (in_background) {
    store.start_save(contents);
    store.finish_save();
  } else {
    store.save(contents);
  }
}

// One rank may write no more than some bytes of a file, as on a full disk.
void expect_one_ranks_error_to_be_given_up_by_all(bool in_background) {
  const SharedFolder folder;
  StoreHooks hooks;
  hooks.first_pause = std::chrono::milliseconds(1);
  const auto store = open_store(options_for(folder.path()), world(), hooks);
  const ContentsMaker maker(world().rank(), world().size(), Ownership::kReplicated);
  store->save(maker.make(1));

  const bool limited = world().rank() == world().size() - 1;
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, SIG_IGN);  // the write then fails with EFBIG
  if (limited) {
    const rlimit small{4096, before.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  }
  std::string message;
  Failure first;
  try {
    save(*store, maker.make(2), in_background);
  } catch (const SaveFailed& error) {
    message = error.what();
    first = error.first();
    EXPECT_EQ(error.code(), base::ExitCode::kStorage);
    EXPECT_EQ(error.seen_by(), base::SeenBy::kAllRanks);
  }
  if (limited) {
    EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  }
  EXPECT_EQ(first.rank, world().size() - 1);
  EXPECT_EQ(first.reason, "File too large");
  EXPECT_NE(first.file.find("checkpoint-2.tmp-"), std::string::npos) << first.file;
  EXPECT_NE(message.find("File too large"), std::string::npos) << message;
  EXPECT_EQ(world().broadcast_bytes(message, 0), message);

  if (world().rank() == 0) {
    for (const auto& entry : fs::directory_iterator(folder.path())) {
      const std::string name = entry.path().filename();
      EXPECT_TRUE(name == "checkpoint-1" || name == ".lease") << name;
    }
  }
  world().barrier();
  // The older one is intact, and the same store can save again.
  const auto reader = store->open_newest();
  EXPECT_TRUE(reader && reader->step() == 1);
  save(*store, maker.make(3), in_background);
  const auto newest = store->open_newest();
  EXPECT_TRUE(newest && newest->step() == 3);
}

TEST(CheckpointMpi, OneRanksWriteErrorIsGivenUpByAll) {
  expect_one_ranks_error_to_be_given_up_by_all(/*in_background=*/false);
}

TEST(CheckpointMpi, OneRanksWriteErrorInTheBackgroundIsGivenUpByAll) {
  expect_one_ranks_error_to_be_given_up_by_all(/*in_background=*/true);
}

TEST(CheckpointMpi, RanksMustAgreeOnTheStep) {
  const SharedFolder folder;
  const auto store = Store::open(options_for(folder.path()), world());
  const ContentsMaker maker(world().rank(), world().size(), Ownership::kReplicated);
  if (world().size() == 1) {
    EXPECT_NO_THROW(store->save(maker.make(1)));
    return;
  }
  try {
    store->save(maker.make(world().rank() == 1 ? 8 : 9));
    ADD_FAILURE() << "saved two steps at once";
  } catch (const base::Error& error) {
    EXPECT_EQ(error.code(), base::ExitCode::kDiverged);
  }
}

}  // namespace
}  // namespace sft::checkpoint
