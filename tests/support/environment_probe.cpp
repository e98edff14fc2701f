// Starts and ends as the program does, for tests of how that looks from outside.
//   environment_probe show         what this rank found, one line
//   environment_probe abort CODE   the last rank aborts with CODE while the others wait for it
//   environment_probe mixed        the last rank says that it found a GPU, the others that they found none
//   environment_probe throw        the last rank meets an error while the others are in a collective, and its
//   own is under way
//   environment_probe killed       the last rank is killed; the others print which one they are told of, and wait to be ended
//   environment_probe lost         no rank is killed: who is told of one prints it
#include <ATen/Parallel.h>
#include <ATen/ops/ones.h>
#include <fmt/core.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <string>
#include <string_view>
#include <thread>

#include "parallel/cores.h"
#include "sft/parallel/environment.h"

namespace {

using namespace sft;

void show(const parallel::Topology& t, int threads) {
  std::string cores;
  for (const int core : parallel::cores_of(0)) cores += fmt::format(" {}", core);
  fmt::print("rank {} of {} local {} of {} hosts {} threads {} {} cores{}\n", t.rank, t.world_size,
             t.local_rank, t.local_world_size, t.num_hosts, threads, at::get_num_threads(), cores);
}

void run(parallel::MpiEnv& env, std::string_view command) {
  const int threads = parallel::configure_threads(0, env.topology());
  const bool finds_gpu = command == "mixed" && env.topology().rank + 1 == env.topology().world_size;
  const auto comm = env.create_communicator(
      "auto", finds_gpu ? "cuda" : parallel::select_device("auto", env.topology()));
  if (command == "show") show(env.topology(), threads);
  if (command != "throw") return;
  const at::Tensor tensor = at::ones({1000});
  const parallel::Work work = comm->all_reduce(tensor);
  if (comm->rank() == comm->size() - 1) base::fail(base::ExitCode::kStorage, "the disk is full");
  comm->all_reduce(tensor).wait();
  comm->barrier();
}

void watch_others(parallel::MpiEnv& env, bool kill) {
  const parallel::Topology& topology = env.topology();
  env.on_loss([rank = topology.rank](int lost) {
    fmt::print("rank {} is told of rank {}\n", rank, lost);
    std::fflush(stdout);
  });
  if (!kill) return;
  std::signal(SIGTERM, SIG_IGN);                         // mpirun's first word
  std::this_thread::sleep_for(std::chrono::seconds(3));  // connections are made in the background
  if (topology.rank == topology.world_size - 1) std::raise(SIGKILL);
  std::this_thread::sleep_for(std::chrono::minutes(1));
}

}  // namespace

int main(int argc, char** argv) {
  parallel::MpiEnv env(&argc, &argv);
  const std::string_view command = argc > 1 ? argv[1] : "show";
  try {
    run(env, command);
    if (command == "killed" || command == "lost") watch_others(env, command == "killed");
    if (command == "abort") {
      const auto comm = env.create_communicator("auto", "cpu");
      if (comm->rank() == comm->size() - 1) env.abort(static_cast<base::ExitCode>(std::atoi(argv[2])));
      comm->barrier();
    }
  } catch (const base::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    env.abort(error.code());
  }
  env.finish_ok();
  return 0;
}
