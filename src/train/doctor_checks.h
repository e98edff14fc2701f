// From the facts of all ranks to what is wrong with the allocation. No I/O here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "doctor_facts.h"

namespace sft::train {

// One line of the table.
struct Finding {
  std::string check;
  std::vector<std::string> texts;  // when ok, what was found; else what to do, each thing by itself
  base::ExitCode code = base::ExitCode::kDone;  // kDone: ok
  bool ok() const { return code == base::ExitCode::kDone; }
};

// `ranks` is in order of rank, with at least one; what differs is said to differ from rank 0's.
using AllFacts = std::vector<RankFacts>;
Finding check_hosts(const AllFacts& ranks);
Finding check_program(const AllFacts& ranks);  // kDiverged
Finding check_inputs(const AllFacts& ranks);   // kInvalidData and what else opening them gives, kDiverged
Finding check_device(const AllFacts& ranks);   // kConfig
Finding check_cores(const AllFacts& ranks);    // kConfig
Finding check_memory(const AllFacts& ranks);   // kOutOfMemory
Finding check_limits(const AllFacts& ranks);   // kConfig
Finding check_links(const AllFacts& ranks);    // kConfig
Finding check_clocks(const AllFacts& ranks);   // kConfig
// free_bytes: in output_dir; num_present: checkpoints that are there already. kStorage.
Finding check_space(const StorageNeed& need, int64_t free_bytes, int64_t num_present);

// What the program ends with: the code of the first that is not ok.
base::ExitCode verdict(const std::vector<Finding>& findings);
std::string table(const std::vector<Finding>& findings);

}  // namespace sft::train
