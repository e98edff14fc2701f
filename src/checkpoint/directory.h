// What lies in an output folder: checkpoints, leftovers of runs that died, and the lease of a live run.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <future>
#include <map>
#include <set>
#include <string>

namespace sft::checkpoint {

std::string host_name();
std::string make_nonce();  // 16 hex digits, different in every call on every host

std::filesystem::path checkpoint_path(const std::filesystem::path& output_dir, int64_t step);
std::filesystem::path temporary_path(const std::filesystem::path& output_dir, const std::string& name,
                                     const std::string& nonce);

// Local. Step -> folder, for every folder named checkpoint-<step>.
std::map<int64_t, std::filesystem::path> list_checkpoints(const std::filesystem::path& output_dir);
// Local. A checkpoint or a model in output_dir itself.
bool holds_results(const std::filesystem::path& output_dir);

// Folders that go: out of sight in one rename, then deleted in the background, for that takes as long as the
// folder is large. Symbolic links are never followed. What a run that dies leaves of it, sweep() finds.
class Trash {
 public:
  Trash() = default;
  Trash(const Trash&) = delete;
  Trash& operator=(const Trash&) = delete;
  ~Trash() { wait(); }

  // Local. Error(kStorage) when it cannot be renamed; failures to delete are warnings.
  void discard(const std::filesystem::path& path);
  // Local. Until all is deleted.
  void wait();

 private:
  std::future<void> deleting_;
};

// Local. Renames a checkpoint so that it is none any more, and returns its new path. Error(kStorage).
std::filesystem::path set_aside(const std::filesystem::path& path);
// Local. What runs that died, or a save that was given up, left behind. Only with the lease held, no save
// under way and the trash empty. Failures to delete are warnings.
void sweep(const std::filesystem::path& output_dir);
// Local. Moves temporary to target and makes that durable; what was there before is then deleted. After an
// Error both are where they were.
void put_in_place(const std::filesystem::path& temporary, const std::filesystem::path& target);
// Local. Keeps `limit` checkpoints: `saved_step` and `best_step` (-1: none) in any case, then the newest.
// Those with a higher step than saved_step, and the `damaged` ones, were passed over when the run was
// resumed: they go. Failures are warnings.
void apply_limit(const std::filesystem::path& output_dir, int64_t saved_step, int64_t best_step,
                 int64_t limit, const std::set<int64_t>& damaged, Trash& trash);

// Held by rank 0 of a live run: a lock on output_dir/.lease, which the kernel gives up when the process ends
// in any way.
class Lease {
 public:
  // Waits up to `patience` for a run that is just ending. Error(kStorage) naming process and host of the
  // holder.
  Lease(const std::filesystem::path& output_dir, std::chrono::milliseconds patience);
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease();

  // FileError(kStorage) when another folder, or none, has that name by now: what is written there would not
  // be with the rest of the run, and on a file system that nobody chose when this one is no longer mounted.
  void check_folder() const;

 private:
  std::filesystem::path output_dir_;
  int descriptor_ = -1;
  int folder_ = -1;  // open, so that no later folder can be taken for it
};

}  // namespace sft::checkpoint
