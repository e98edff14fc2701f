// Checkpoints over MPI: any world size reads what any other wrote, work is shared, one rank's trouble is
// everybody's.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

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

// One rank may write no more than some bytes of a file, as on a full disk.
TEST(CheckpointMpi, OneRanksWriteErrorIsGivenUpByAll) {
  const SharedFolder folder;
  const auto store = Store::open(options_for(folder.path()), world());
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
  std::optional<base::ExitCode> code;
  try {
    store->save(maker.make(2));
  } catch (const base::Error& error) {
    message = error.what();
    code = error.code();
    EXPECT_EQ(error.seen_by(), base::SeenBy::kAllRanks);
  }
  if (limited) {
    EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  }
  EXPECT_EQ(code, base::ExitCode::kStorage);
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
  store->save(maker.make(3));
  const auto newest = store->open_newest();
  EXPECT_TRUE(newest && newest->step() == 3);
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
