// A folder on its way into output_dir: the steps of docs/checkpoint-format.md, "Commit".
//
// What ranks must know of each other is exchanged between the stages, by the thread that calls; what a stage
// does with files is Local, and runs in that thread too or, in the background, in one of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <future>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "checkpoint/deal.h"
#include "checkpoint/directory.h"
#include "checkpoint/layout.h"
#include "checkpoint/manifest.h"
#include "checkpoint/retry.h"
#include "checkpoint/store.h"
#include "checkpoint/writer.h"
#include "sft/checkpoint/checkpoint.h"
#include "sft/parallel/communicator.h"

namespace sft::checkpoint {

// The folder while it is being written, complete but for the manifest at the end of that.
struct Draft {
  std::filesystem::path folder;
  int64_t chunk_bytes = 0;
  std::vector<FileRecord> files;
  int64_t bytes = 0, bytes_this_rank = 0;
};

struct SavePlan {
  std::string name;              // the draft's folder is called after it
  std::filesystem::path target;  // what the report names
  std::string what;              // begins the message when it fails
  const Lease* lease = nullptr;  // rank 0
  Trash* trash = nullptr;
  // Rank 0, Local: puts a draft that all ranks have written in its place.
  std::function<void(const Draft& draft, const Retry& retry)> place;
};

class Saving {
 public:
  // Collective; keeps the references. Without a buffer stages run in the calling thread, which then reads the
  // contents until the end. With one they run in the background, on a copy of this rank's share in the
  // buffer.
  Saving(const Contents& contents, SavePlan plan, const StoreOptions& options, const StoreHooks& hooks,
         parallel::Communicator& comm, std::vector<std::byte>* buffer);
  // Local. Gives up what is not in place; waits for the file operation under way.
  ~Saving();
  Saving(const Saving&) = delete;
  Saving& operator=(const Saving&) = delete;

  // As in Store. After SaveFailed only the destructor may follow.
  bool ready() const;
  std::optional<SaveReport> advance();
  SaveReport finish();

 private:
  enum class Stage { kPreparing, kWriting, kPlacing };
  struct Outcome {
    std::optional<Failure> failure;
    double seconds = 0;
  };

  void begin(Stage stage, std::function<void()> work);
  bool is_root() const { return comm_.rank() == 0; }
  void prepare() const;
  void try_to_prepare() const;
  void remove_draft() const;

  SavePlan plan_;
  const StoreOptions& options_;
  const StoreHooks& hooks_;
  parallel::Communicator& comm_;
  const bool in_background_;
  double started_;  // monotonic seconds
  double file_seconds_ = 0;
  std::vector<SideFile> side_files_;
  Layout layout_;
  Deal deal_;
  Draft draft_;
  std::optional<TensorWriter> writer_;
  std::stop_source stop_;
  Retry retry_;
  Stage stage_ = Stage::kPreparing;
  std::future<Outcome> work_;
};

}  // namespace sft::checkpoint
