// How fast the MPI data plane moves gradients, by piece size, and what it costs a computation that runs at
// the same time.
//   mpirun -np 2 --bind-to none build/release/tests/bench/allreduce [elements, default 14 Mi]
// GB/s counts the buffer once. "with compute": each rank computes on its main thread while its communication
// thread reduces; `hidden` is the part of the collective's own time that the computation covered.
#include <fmt/core.h>
#include <mpi.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

#include "parallel/mpi_data_plane.h"
#include "sft/base/timer.h"
#include "sft/parallel/environment.h"

namespace {

using namespace sft;
using base::monotonic_seconds;

constexpr int kRepeats = 7;

// Best of a few: the machine may be busy with other things. Collective.
double best_seconds(const std::function<void()>& run) {
  double best = 1e9;
  for (int i = 0; i < kRepeats; ++i) {
    MPI_Barrier(MPI_COMM_WORLD);
    const double start = monotonic_seconds();
    run();
    MPI_Barrier(MPI_COMM_WORLD);
    best = std::min(best, monotonic_seconds() - start);
  }
  return best;
}

// Arithmetic that stays in the cache.
void compute(int rounds) {
  static std::vector<float> values(4096, 1.0F);
  for (int round = 0; round < rounds; ++round) {
    for (float& value : values) value = value * 0.999F + 0.001F;
  }
}

void show(const char* name, int64_t piece, double bytes, double compute_seconds, int rounds,
          const std::function<void()>& collective) {
  const double alone = best_seconds(collective);
  const double together = best_seconds([&] {
    std::thread communication(collective);
    compute(rounds);
    communication.join();
  });
  const double hidden = (alone + compute_seconds - together) / std::min(alone, compute_seconds);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (rank != 0) return;
  fmt::print(
      "{:<15} {:>6} Ki  {:6.2f} GB/s  {:6.1f} ms; with {:.1f} ms of compute {:6.1f} ms, hidden {:3.0f} %\n",
      name, piece / 1024, bytes / alone * 1e-9, alone * 1e3, compute_seconds * 1e3, together * 1e3,
      hidden * 100);
}

void measure(int64_t count, int size) {
  std::vector<float> values(static_cast<std::size_t>(count * size), 1.0F);
  std::vector<float> part(static_cast<std::size_t>(count));
  auto* const data = reinterpret_cast<std::byte*>(values.data());
  auto* const own = reinterpret_cast<std::byte*>(part.data());
  const parallel::ElementType type{MPI_FLOAT, 4, false};
  const int64_t n = count / size;
  constexpr int kRounds = 60000;
  const double compute_seconds = best_seconds([] { compute(kRounds); });
  for (const int64_t piece : {int64_t{64}, int64_t{256}, int64_t{512}, int64_t{1024}, int64_t{4096}}) {
    parallel::MpiDataPlane plane(MPI_COMM_WORLD, piece * 1024);
    const auto bytes = static_cast<double>(count * 4);
    const auto line = [&](const char* name, const std::function<void()>& collective) {
      show(name, piece * 1024, bytes, compute_seconds, kRounds, collective);
    };
    line("all_reduce", [&] { plane.all_reduce(data, count, type, parallel::ReduceOp::kSum); });
    line("reduce_scatter", [&] { plane.reduce_scatter(own, data, n, type); });
    line("all_gather", [&] { plane.all_gather(data, own, n, type); });
  }
}

}  // namespace

int main(int argc, char** argv) {
  parallel::MpiEnv env(&argc, &argv);
  if (env.topology().world_size < 2) {
    fmt::print(stderr, "start me with mpirun on two ranks or more\n");
    return 2;
  }
  measure(argc > 1 ? std::atoll(argv[1]) : 14 << 20, env.topology().world_size);
  env.finish_ok();
  return 0;
}
