// Writes a small run's logs into the folder given, in two parts, as a run that is stopped and resumed does.
#include <cmath>
#include <cstdio>
#include <fstream>
#include <string>

#include "sft/metrics/log.h"

namespace {

using sft::metrics::TrainLog;

void steps(TrainLog& log, int64_t first, int64_t last) {
  for (int64_t step = first; step <= last; ++step) {
    const auto t = static_cast<double>(step);
    log.entry("train", step, t / 4,
              {{"loss", 4.0 / t},
               {"grad_norm", step == 3 ? std::nan("") : t * 0.1},
               {"learning_rate", 2e-5 / t},
               {"num_tokens", 1000 * t}});
    if (step % 2 == 0)
      log.entry("eval", step, t / 4, {{"eval_loss", 3.0 / t}, {"eval_perplexity", std::exp(3.0 / t)}});
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  sft::metrics::LogOptions options;
  options.output_dir = argv[1];
  options.tensorboard = true;
  options.max_steps = 6;
  options.train_batch_size = 4;
  options.logging_steps = 1;
  options.eval_steps = 2;
  options.save_steps = 3;
  options.num_train_epochs = 2;
  std::string saved;
  {
    const auto log = TrainLog::open(options);
    steps(*log, 1, 3);
    log->event("checkpoint", 3, R"({"path": "checkpoint-3"})");
    saved = log->trainer_state({3, 0.75, 1e15, 3000});
  }
  options.run_name = "resumed run/2";
  const auto log = TrainLog::open(options);
  log->restore(saved);
  steps(*log, 4, 6);
  log->flush();
  std::ofstream(std::string(argv[1]) + "/trainer_state.json") << log->trainer_state({6, 1.5, 2e15, 6000});
  return 0;
}
