// Whether communication hides behind computation: the same step with collectives that each take `delay`
// longer.
//   mpirun -np 2 overlap [delay in ms, default 2]
// Prints the time of a step without delay, the sum of the delays, and the time with them. Overlapped, the
// last is less than the sum of the first two.

#include <fmt/core.h>

#include <chrono>
#include <cstdlib>

#include "sft/base/timer.h"
#include "sft/parallel/environment.h"
#include "support/delaying_communicator.h"
#include "support/tiny_engine.h"

namespace {

using sft::testing::TinyEngine;

sft::model::DecoderSpec bench_model() {
  sft::model::DecoderSpec spec = sft::testing::tiny_llama();
  spec.num_hidden_layers = 8;
  spec.hidden_size = spec.embedding_size = 256;
  spec.num_attention_heads = 8;
  spec.num_key_value_heads = 4;
  spec.head_dim = 32;
  spec.intermediate_size = 1024;
  return spec;
}

// Seconds of one window whose last micro-batch is long enough to hide something behind; the best of several.
double step_seconds(sft::parallel::Communicator& comm) {
  TinyEngine<sft::parallel::Communicator&> tiny({}, bench_model(), comm);
  std::vector<sft::data::TokenRow> rows;
  for (int copy = 0; copy < 6; ++copy) rows.insert(rows.end(), tiny.rows.begin(), tiny.rows.end());
  double best = 1e9;
  for (int repeat = 0; repeat < 4; ++repeat) {
    comm.barrier();
    const double start = sft::base::monotonic_seconds();
    tiny.gradients({rows});
    best = std::min(best, sft::base::monotonic_seconds() - start);
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  const double delay_ms = argc > 1 ? std::atof(argv[1]) : 2.0;
  sft::parallel::MpiEnv env(&argc, &argv);
  sft::parallel::configure_threads(0, env.topology());
  const auto comm = env.create_communicator("auto", "cpu");
  sft::testing::DelayingCommunicator late(*comm,
                                          std::chrono::microseconds(static_cast<int64_t>(delay_ms * 1000)));
  const double prompt = step_seconds(*comm), delayed = step_seconds(late);
  const double delays = delay_ms / 1000 * static_cast<double>(bench_model().num_hidden_layers + 2);
  if (comm->rank() == 0) {
    fmt::print(
        "step {:.1f} ms, delays {:.1f} ms, step with delays {:.1f} ms: {:.0f} % of the delays hidden\n",
        1e3 * prompt, 1e3 * delays, 1e3 * delayed, 100 * (1 - (delayed - prompt) / delays));
  }
  env.finish_ok();
}
