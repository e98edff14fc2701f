// Training steps of llm.c's CPU program on given ids, timed; compiled by tests/bench/vs_llmc, which supplies train_gpt2.c.
//
//     llmc_steps MODEL IDS BATCH LENGTH STEPS LEARNING_RATE      IDS: int32 [steps x batch][length + 1]
//
// Prints one line per step: loss, seconds.
#define TESTING
#include "train_gpt2.c"

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

int main(int argc, char** argv) {
  if (argc != 7) return 2;
  const int batch = atoi(argv[3]), length = atoi(argv[4]), steps = atoi(argv[5]);
  const float learning_rate = strtof(argv[6], NULL);
  GPT2 model;
  gpt2_build_from_checkpoint(&model, argv[1]);
  FILE* ids = fopenCheck(argv[2], "rb");
  int* inputs = mallocCheck((size_t)(batch * length) * sizeof(int));
  int* targets = mallocCheck((size_t)(batch * length) * sizeof(int));
  int* row = mallocCheck((size_t)(length + 1) * sizeof(int));
  for (int step = 1; step <= steps; ++step) {
    for (int b = 0; b < batch; ++b) {
      freadCheck(row, sizeof(int), (size_t)(length + 1), ids);
      memcpy(inputs + b * length, row, (size_t)length * sizeof(int));
      memcpy(targets + b * length, row + 1, (size_t)length * sizeof(int));
    }
    const double started = now();
    gpt2_forward(&model, inputs, targets, (size_t)batch, (size_t)length);
    gpt2_zero_grad(&model);
    gpt2_backward(&model);
    gpt2_update(&model, learning_rate, 0.9f, 0.999f, 1e-8f, 0.0f, step);
    printf("step %.7f %.6f\n", model.mean_loss, now() - started);
  }
  return 0;
}
