// MPI start and end, topology, device and communicator selection. MPI is met in src/parallel only.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sft/base/error.h"
#include "sft/parallel/communicator.h"

namespace sft::parallel {

struct Topology {
  int rank = 0, world_size = 1;
  int local_rank = 0, local_world_size = 1;  // among ranks that share memory (MPI_COMM_TYPE_SHARED)
  std::string host;
  int num_hosts = 1;
  // Ranks that may run on the same cores as this one (itself included), at the start; and this rank's place among them.
  int core_sharers = 1, core_place = 0;
};

// Owns MPI_Init_thread .. MPI_Finalize. A program started without a launcher is a world of one and does not need a working MPI network.
// Destructor: finalizes after finish_ok(); otherwise (an error on this rank) it does nothing: call abort().
class MpiEnv {
 public:
  MpiEnv(int* argc, char*** argv);  // Collective
  ~MpiEnv();
  MpiEnv(const MpiEnv&) = delete;
  MpiEnv& operator=(const MpiEnv&) = delete;

  const Topology& topology() const;
  // Collective. backend: "auto" | "mpi" | "nccl"; device_type: "cpu" | "cuda". World of one on the CPU: the `single` back end.
  std::unique_ptr<Communicator> create_communicator(const std::string& backend, const std::string& device_type);
  // Collective, once. From here on `lost` is called, on a thread of its own, with each rank whose process ends before finish_ok() and the
  // destructor, as soon as its kernel closes the connection it had to rank 0. Of a rank that cannot reach rank 0 over TCP nothing is heard.
  void on_loss(std::function<void(int rank)> lost);
  void finish_ok();                          // Local: the destructor may finalize (Collective there)
  [[noreturn]] void abort(base::ExitCode code);  // Local: ends the whole job with this code

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Local. "auto" | "cpu" | "cuda" -> "cpu" | "cuda"; loads the CUDA half only when a GPU is asked for or (auto) visible.
// Error(kConfig): cuda asked for and not there, or more local ranks than GPUs.
std::string select_device(const std::string& requested, const Topology& topology);

// Local. Widens the binding mpirun gave when the user did not choose one, sets LibTorch's and OpenMP's thread counts; returns the count.
// requested 0: OMP_NUM_THREADS when the user set it, else this rank's share of the cores it may use.
int configure_threads(int64_t requested, const Topology& topology);

// Local. Cores the calling thread may run on now, rising; after configure_threads() those of the run.
std::vector<int> cores_in_use();

}  // namespace sft::parallel
