// What bounds a run on this machine: the speed of its matrix products, and where the time of its steps goes.
#pragma once

#include <cstdint>

#include "sft/config/parse.h"
#include "sft/parallel/environment.h"

namespace sft::train {

struct BenchOptions {
  int64_t steps = 5;  // measured; one more before them is not
  bool json = false;  // print the report as JSON instead of a table
};

// Collective. Measures the model's products and steps of the configured run on its data, and prints the
// report on rank 0. Nothing is saved or logged, output_dir is not touched.
void run_bench(const config::ParsedOptions& parsed, parallel::MpiEnv& env, const BenchOptions& bench);

}  // namespace sft::train
