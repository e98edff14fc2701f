// The store with the seams that tests need.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <string_view>

#include "sft/base/file.h"
#include "sft/checkpoint/checkpoint.h"

namespace sft::checkpoint {

struct StoreHooks {
  // Called on every rank when a save reaches: "prepared", "written", and on rank 0: "manifest" (synced),
  // "renamed". In the background, by its thread.
  std::function<void(std::string_view point)> at = [](std::string_view) {};
  std::function<int64_t(const std::filesystem::path&)> free_bytes = base::free_bytes;
  // Called before every attempt at a file (or folder) of a save, by the rank that makes it; what it throws is
  // the attempt's failure.
  std::function<void(const std::filesystem::path& file)> attempt = [](const std::filesystem::path&) {};
  // Between the first attempt and the second; four times as long after each.
  std::chrono::milliseconds first_pause{100};
  // How long to wait for a run that is just ending to give up its lease, and for a network file system to
  // show a new file.
  std::chrono::milliseconds patience{5000};
};

// Collective. Store::open with hooks.
std::unique_ptr<Store> open_store(const StoreOptions& options, parallel::Communicator& comm,
                                  StoreHooks hooks);

}  // namespace sft::checkpoint
