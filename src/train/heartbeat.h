// A file that changes as long as the process lives, for a supervisor on the outside (launch/sft-run). Whether the process comes on
// is the watchdog's business (base/watchdog.h).
#pragma once

#include <filesystem>
#include <memory>

namespace sft::train {

class Heartbeat {
 public:
  // Local. Replaces the file's content every two seconds, from a thread of its own: storage that does not
  // answer stops the heartbeat and nothing else. Errors are ignored. A JSON object: process_started (Unix
  // seconds) tells whose it is, `seconds` how long that process had lived, `time` the time of day (Unix
  // seconds); beat, step and phase.
  explicit Heartbeat(std::filesystem::path path);
  ~Heartbeat();
  Heartbeat(const Heartbeat&) = delete;
  Heartbeat& operator=(const Heartbeat&) = delete;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sft::train
