// Checkpoints: written by all ranks, committed whole or not at all, verified on load, readable at any world size.
// Format and commit protocol: docs/checkpoint-format.md.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sft/base/error.h"
#include "sft/model/weights.h"
#include "sft/parallel/communicator.h"

namespace sft::checkpoint {

// Elements [begin, end) of the flattened tensor `name`, held by this rank. Several ranks may hold the same elements:
// then the writing is dealt among them so that every rank writes an equal share of the bytes.
struct TensorSlice {
  std::string name;
  std::vector<int64_t> shape;  // of the whole tensor
  int64_t begin = 0, end = 0;
  at::Tensor data;             // 1-D contiguous fp32, end - begin elements, CPU or CUDA
};

struct SideFile {
  std::string name;  // relative to the checkpoint; "state/..." allowed
  std::string bytes;
};

// Local. Whether a file of the user's can go into a checkpoint under this name: letters, digits, '.', '_' and '-' alone, not
// first a '.', and none of the names that a checkpoint gives itself.
bool can_be_side_file(std::string_view name);

// A whole Hugging Face model (model.safetensors, or shards, and an index), or a PEFT adapter (adapter_model.safetensors).
enum class ModelPart { kWhole, kAdapter };

struct Contents {
  int64_t step = 0;
  ModelPart model_part = ModelPart::kWhole;
  std::vector<TensorSlice> model;      // names as in the HF model, or as in a PEFT adapter
  std::vector<TensorSlice> optimizer;  // "<state>.<tensor name>"
  bool with_optimizer = false;         // its state belongs to it, although it may have no tensors (SGD without momentum)
  std::string train_state;             // JSON object, kept in the manifest as it is
  std::string environment;             // JSON object: what the bits depend on
  int64_t best_step = -1;              // a checkpoint that save_total_limit spares as it spares this one; -1: none
  std::vector<SideFile> files;         // config.json, tokenizer files, trainer_state.json, run.ini ... ; used from rank 0
};

struct SaveReport {
  std::filesystem::path path;
  int64_t bytes = 0, bytes_this_rank = 0;
  double seconds = 0;       // from the start to the commit
  double file_seconds = 0;  // of these, what this rank spent on its files
};

// What went wrong on a rank.
struct Failure {
  int rank = 0;
  std::string host, message;
  std::string file, reason;  // the file to blame and the operating system's words; without one: empty, and the message
  base::ExitCode code = base::ExitCode::kInternal;
};

// A save that was given up on all ranks: nothing of it is left, older checkpoints are intact.
class SaveFailed : public base::Error {
 public:
  SaveFailed(const std::string& message, Failure first)
      : Error(base::ExitCode::kStorage, message, base::SeenBy::kAllRanks), first_(std::move(first)) {}
  const Failure& first() const { return first_; }  // of the lowest rank that failed

 private:
  Failure first_;
};

// A verified checkpoint, open for reading.
class Reader {
 public:
  virtual ~Reader() = default;
  virtual const std::filesystem::path& path() const = 0;
  virtual int64_t step() const = 0;
  virtual const std::string& train_state() const = 0;
  virtual const std::string& environment() const = 0;
  virtual bool has_optimizer() const = 0;
  virtual std::string side_file(const std::string& name) const = 0;  // verified bytes
  // Local reads of any range; every chunk touched is checked against its hash before its bytes are used.
  virtual const model::TensorSource& model() const = 0;
  virtual const model::TensorSource& optimizer() const = 0;  // Error(kInvalidData) when it has none
  // Bytes this rank read to verify its part of the checkpoint when it was opened. What is read later: TensorSource::bytes_read().
  virtual int64_t bytes_verified() const = 0;
};

struct StoreOptions {
  std::filesystem::path output_dir;
  std::optional<int64_t> save_total_limit;
  int64_t max_shard_bytes = 5'000'000'000;
};

enum class Place { kElsewhere, kOutputDir, kOwnName };  // kOwnName: it is output_dir's checkpoint-<step>; kOutputDir: another folder there

class Store {
 public:
  virtual ~Store() = default;
  // Collective: checks that output_dir is writable and shared by all hosts (nonce), takes the lease against a second live run.
  // Error(kStorage) naming the hosts, or the other run.
  static std::unique_ptr<Store> open(const StoreOptions& options, parallel::Communicator& comm);

  // Local, the same answer on every rank: output_dir held a checkpoint or a final model when the store was opened.
  virtual bool has_results() const = 0;
  // Collective. Removes every checkpoint in output_dir: for a run that starts afresh over the results of another.
  virtual void discard_checkpoints() = 0;
  // Collective. Removes every checkpoint but that of `step`, which exists. Failures are warnings.
  virtual void keep_only(int64_t step) = 0;
  // Collective. Whether output_dir has a checkpoint of that step.
  virtual bool has_checkpoint(int64_t step) = 0;

  // Collective. Returns after the commit; applies save_total_limit. What storage refuses is tried again a few times, then SaveFailed.
  virtual SaveReport save(const Contents& contents) = 0;
  // Collective. The model part (an adapter's too) and side files into output_dir itself (each file replaced atomically), as `trainer.save_model()` does.
  virtual SaveReport save_final_model(const Contents& contents) = 0;

  // A save in the background, one at a time; no other save meanwhile.
  // Collective. Copies what this rank writes of `contents` into a buffer that is kept for the next time (bytes_this_rank of it; Error(kOutOfMemory))
  // and returns; files are written by a thread of its own, which takes part in no collective.
  virtual void start_save(const Contents& contents) = 0;
  // Local. Whether that thread of this rank has nothing to do; true without a save.
  virtual bool ready() const = 0;
  // Collective, with a save under way; best when all ranks are ready(), else it waits. Takes the save one stage further: writing, commit, and
  // the report once it is committed. SaveFailed as for save().
  virtual std::optional<SaveReport> advance() = 0;
  // Collective. Waits for the save under way.
  virtual SaveReport finish_save() = 0;

  // Collective: the newest checkpoint that verifies and holds the optimizer's state, or, where none does, the newest that verifies; says
  // (log) which were skipped and why. Null when output_dir has none;
  // Error(kInvalidData) when it has some and all are damaged; Error(kStorage, kOutOfMemory) when one cannot be read, which says
  // nothing about what is in it.
  virtual std::unique_ptr<Reader> open_newest() = 0;
  // Collective. The same errors.
  virtual std::unique_ptr<Reader> open_checkpoint(const std::filesystem::path& path) = 0;
  // Collective. By whatever path it was opened.
  virtual Place place_of(const Reader& reader) = 0;
  // Collective. Renames the checkpoints of steps after `step` to abandoned-checkpoint-<step>: they are of a course that the run
  // leaves, and would be taken for its newest. -1: all of them, of another run. Says (log) so.
  virtual void set_aside_after(int64_t step) = 0;
};

// Local. Every byte of a checkpoint (or the headers, shapes and finiteness of a plain HF model folder). Throws Error(kInvalidData) naming file and range.
void verify_directory(const std::filesystem::path& path);

// "5GB", "500MB", "1.5TB" in powers of 1000, "2GiB" in powers of 1024 -> bytes. Error(kConfig).
int64_t parse_size(const std::string& text);

}  // namespace sft::checkpoint
