// What `sft-dist doctor` finds out about one rank. Gathering never fails: what does not work is a fact too.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "memory_need.h"
#include "sft/base/error.h"
#include "sft/config/options.h"
#include "sft/parallel/environment.h"
#include "sft/parallel/links.h"

namespace sft::train {

// A file or library -> its size and hash, or why it cannot be read.
using Fingerprints = std::map<std::string, std::string>;

// code: kDone where nothing failed.
struct Attempt {
  base::ExitCode code = base::ExitCode::kDone;
  std::string message;
};

struct Limits {
  int64_t open_files = 0;
  bool has_infiniband = false;
  bool may_lock_all_memory = false;
  int64_t shared_memory_bytes = 0;  // free in /dev/shm
};

// What the run will write: upper bounds.
struct StorageNeed {
  int64_t checkpoint_bytes = 0;
  int64_t num_checkpoints = 0;  // at the same time
  int64_t final_model_bytes = 0;
};

struct RankFacts {
  int rank = 0;
  std::string host;
  int ranks_on_host = 1;
  Fingerprints program;  // sft-dist and the libraries it computes and communicates with
  Fingerprints inputs;   // files of model and data sets
  Attempt open_inputs;   // as the run does it
  StorageNeed storage;
  std::string device;  // "cpu" | "cuda"; empty where select_device() failed
  Attempt select_device;
  int threads = 1;
  std::vector<int> cores;
  Limits limits;
  Attempt reserve_memory;             // as the run does it
  RankMemory memory;                  // on a CPU; without limits where it is not known
  std::vector<parallel::Link> links;  // [world_size], by measure_links()
};

// Local. All but the links. Sets this rank's threads and cores as the run would.
RankFacts gather_facts(const config::Options& options, const parallel::Topology& topology,
                       parallel::Communicator& comm);

// Size and hash: of the whole file up to 16 MiB, of 64 stretches of 64 KiB, evenly spread, of a larger one. A
// difference that misses all of them is not seen.
std::string fingerprint(const std::string& path);

std::string to_json(const RankFacts& facts);
RankFacts facts_from_json(const std::string& text);

}  // namespace sft::train
