#include "checkpoint/saving.h"

#include <chrono>
#include <utility>

#include "checkpoint/collective.h"
#include "checkpoint/side_file.h"
#include "sft/base/file.h"
#include "sft/base/log.h"
#include "sft/base/timer.h"

namespace sft::checkpoint {
namespace {

namespace fs = std::filesystem;
using base::ExitCode;
using base::fail;

constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr double kMega = 1e6;

}  // namespace

Saving::Saving(const Contents& contents, SavePlan plan, const StoreOptions& options, const StoreHooks& hooks,
               parallel::Communicator& comm, std::vector<std::byte>* buffer)
    : plan_(std::move(plan)),
      options_(options),
      hooks_(hooks),
      comm_(comm),
      in_background_(buffer != nullptr),
      started_(base::monotonic_seconds()),
      side_files_(contents.files),
      layout_(make_layout(gather_groups(contents, comm), options.max_shard_bytes, contents.model_part,
                          contents.with_optimizer)),
      retry_(hooks, stop_.get_token()) {
  if (!layout_.model_index.empty()) side_files_.push_back({kIndexName, layout_.model_index});
  int64_t side_bytes = 0;
  for (const SideFile& file : side_files_) side_bytes += std::ssize(file.bytes);
  side_bytes = std::stoll(comm.broadcast_bytes(std::to_string(side_bytes), 0));
  std::vector<int64_t> load(static_cast<std::size_t>(comm.size()), 0);
  load[0] = side_bytes;
  deal_ = deal_ranges(layout_, std::move(load));

  draft_.folder = temporary_path(options.output_dir, plan_.name, comm.broadcast_bytes(make_nonce(), 0));
  draft_.bytes = layout_.tensor_bytes() + side_bytes;
  draft_.chunk_bytes = choose_chunk_bytes(draft_.bytes);
  run_agreed(comm, ExitCode::kInternal, plan_.what,
             [&] { writer_.emplace(contents, layout_, deal_, comm.rank()); });
  draft_.bytes_this_rank = writer_->bytes_this_rank() + (is_root() ? side_bytes : 0);
  writer_->exchange_fragments(comm);
  if (buffer) {
    const std::string what = fmt::format(
        "no memory for a copy of the state to save ({:.0f} MB); without async_save none is needed",
        static_cast<double>(writer_->bytes_this_rank()) / kMega);
    run_agreed(comm, ExitCode::kOutOfMemory, what, [&] { writer_->capture(*buffer); });
  }
  begin(Stage::kPreparing, [this] { prepare(); });
}

Saving::~Saving() {
  stop_.request_stop();
  if (in_background_ && work_.valid()) work_.wait();
  remove_draft();
}

void Saving::begin(Stage stage, std::function<void()> work) {
  stage_ = stage;
  const auto policy = in_background_ ? std::launch::async : std::launch::deferred;
  work_ = std::async(policy, [work = std::move(work)]() -> Outcome {
    const double started = base::monotonic_seconds();
    std::optional<Failure> failure = failure_of(work);
    return {std::move(failure), base::monotonic_seconds() - started};
  });
}

bool Saving::ready() const {
  return work_.wait_for(std::chrono::seconds(0)) != std::future_status::timeout;
}

std::optional<SaveReport> Saving::advance() {
  const Outcome mine = work_.get();
  file_seconds_ += mine.seconds;
  const std::vector<Failure> failures = gather_failures(comm_, mine.failure);
  if (!failures.empty())
    throw SaveFailed(plan_.what + ": " + describe(failures, comm_.size()), failures.front());
  switch (stage_) {
    case Stage::kPreparing:
      begin(Stage::kWriting, [this] {
        writer_->write(draft_.folder, draft_.chunk_bytes, retry_);
        hooks_.at("written");
      });
      return std::nullopt;
    case Stage::kWriting:
      draft_.files = writer_->collect_records(comm_, draft_.chunk_bytes);
      for (const SideFile& file : side_files_) draft_.files.push_back(record_of(file, draft_.chunk_bytes));
      begin(Stage::kPlacing, [this] {
        if (is_root()) plan_.place(draft_, retry_);
      });
      return std::nullopt;
    case Stage::kPlacing:
      break;
  }
  return SaveReport{plan_.target, draft_.bytes, draft_.bytes_this_rank, base::monotonic_seconds() - started_,
                    file_seconds_};
}

SaveReport Saving::finish() {
  for (;;) {
    if (const std::optional<SaveReport> report = advance()) return *report;
  }
}

void Saving::prepare() const {
  if (is_root()) retry_(draft_.folder, [this] { try_to_prepare(); });
  hooks_.at("prepared");
}

// Rank 0: the folder, its side files, and the tensor files at their full size for all ranks to write into.
void Saving::try_to_prepare() const {
  plan_.lease->check_folder();
  plan_.trash->wait();
  sweep(options_.output_dir);
  const int64_t needed = draft_.bytes + draft_.bytes / 10;
  const int64_t free = hooks_.free_bytes(options_.output_dir);
  if (free < needed) {
    throw base::FileError(
        ExitCode::kStorage,
        fmt::format(
            "it needs {} MB and {} MB are free: free space, or set save_total_limit or save_only_model",
            needed / 1'000'000 + 1, free / 1'000'000),
        options_.output_dir, "too little space is free");
  }
  std::error_code error;
  fs::create_directories(draft_.folder / "state", error);
  if (error) base::fail_file(ExitCode::kStorage, "create", draft_.folder, error.message());
  for (const TensorFile& tensor_file : layout_.files) {
    base::File file(draft_.folder / tensor_file.name, base::File::Mode::kCreate);
    file.resize(tensor_file.size);
    file.close();
  }
  for (const SideFile& file : side_files_) {
    if (!is_safe_name(file.name))
      fail(ExitCode::kInternal, "'{}' cannot be the name of a file in a checkpoint", file.name);
    write_side_file(draft_.folder, file);
  }
}

// Nothing to do for what is in place.
void Saving::remove_draft() const {
  if (!is_root()) return;
  std::error_code error;
  fs::remove_all(draft_.folder, error);
  if (error) log::warning("cannot delete {}: {}", draft_.folder.string(), error.message());
}

}  // namespace sft::checkpoint
