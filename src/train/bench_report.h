// The report of `sft-dist bench`.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "gemm_rate.h"
#include "sft/base/timer.h"
#include "sft/metrics/throughput.h"

namespace sft::train {

// What one rank measured.
struct RankBench {
  std::string host;
  std::map<std::string, std::vector<GemmTime>> products;  // by compute dtype: "fp32", "bf16"
  double seconds = 0;                                     // of the measured steps
  base::PhaseTimers::Seconds phases = {};                 // within them
  int64_t micro_batches = 0;                              // that were not empty
  metrics::StepWork work;                                 // this rank's
  int64_t peak_memory_bytes = 0;                          // of the process, or on its GPU
};

nlohmann::json to_json(const RankBench& rank);

struct BenchRun {
  std::string model, compute;  // compute: the key of `products` that the steps use
  int64_t steps = 0, threads_per_rank = 0;
  metrics::ModelWork work;
};

// ranks: to_json() of every rank. Phases are shares of the ranks' time together; "other" is what is in none.
// The ceiling is what the ranks' products come to together, each shape as often as the steps had it.
nlohmann::json bench_report(const BenchRun& run, const std::vector<nlohmann::json>& ranks);
std::string bench_table(const nlohmann::json& report);

}  // namespace sft::train
