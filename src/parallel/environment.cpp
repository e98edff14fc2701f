#include "sft/parallel/environment.h"

#include <mpi.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "parallel/backends.h"
#include "parallel/control_plane.h"
#include "parallel/cores.h"
#include "parallel/device_backend.h"
#include "parallel/lifeline.h"
#include "parallel/mpi_handle.h"

namespace sft::parallel {

using base::ExitCode;

namespace {

// Open MPI's start without a launcher takes 0.3 s and a daemon; a world of one needs neither.
bool started_by_launcher() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  // Set in the tasks of srun only: a batch script's own commands see SLURM_NTASKS, but are no ranks.
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  return tasks != nullptr && std::atoi(tasks) > 1;
}

std::string host_name() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) return "localhost";
  return name.data();
}

void start_mpi(int* argc, char*** argv) {
  // A waiting rank lets others run: with one rank per core the communication thread shares it with the
  // computation. Two such ranks, 56 MB summed beside a computation: 88 ms, against 146 ms when MPI spins.
  setenv("OMPI_MCA_mpi_yield_when_idle", "1", /*overwrite=*/0);
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN);
  if (provided < MPI_THREAD_SERIALIZED) {
    base::fail(ExitCode::kConfig,
               "this MPI library does not let a second thread call it (level {} of {}): use one built with "
               "thread support",
               provided, static_cast<int>(MPI_THREAD_MULTIPLE));
  }
}

bool mpi_allows_threads() {
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Query_thread(&provided), "MPI_Query_thread");
  return provided >= MPI_THREAD_MULTIPLE;
}

// Ranks of this host whose cores are also this rank's.
void count_core_sharers(ControlPlane& local, Topology& topology) {
  const CoreSet own = cores_of(0);
  std::string mask;
  for (const int core : own) {
    mask.resize(std::max(mask.size(), static_cast<std::size_t>(core) + 1), '0');
    mask[static_cast<std::size_t>(core)] = '1';
  }
  const std::vector<std::string> masks = local.all_gather_bytes(mask);
  topology.core_sharers = topology.core_place = 0;
  for (int r = 0; r < local.size(); ++r) {
    const std::string& other = masks[static_cast<std::size_t>(r)];
    bool shares = r == local.rank();
    for (const int core : own)
      shares = shares || (static_cast<std::size_t>(core) < other.size() &&
                          other[static_cast<std::size_t>(core)] == '1');
    if (!shares) continue;
    ++topology.core_sharers;
    if (r < local.rank()) ++topology.core_place;
  }
}

Topology find_topology() {
  Topology topology;
  topology.host = host_name();
  ControlPlane world(MPI_COMM_WORLD);
  topology.rank = world.rank();
  topology.world_size = world.size();
  const MpiComm shared = MpiComm::split_shared(MPI_COMM_WORLD);
  ControlPlane local(shared.get());
  topology.local_rank = local.rank();
  topology.local_world_size = local.size();
  int64_t hosts = local.rank() == 0 ? 1 : 0;
  world.all_reduce(std::span(&hosts, 1), ReduceOp::kSum);
  topology.num_hosts = static_cast<int>(hosts);
  count_core_sharers(local, topology);
  return topology;
}

// device = auto may find a GPU on one host and none on another.
void check_same_device(Communicator& comm, const std::string& device_type, const std::string& host) {
  const std::vector<std::string> devices = comm.all_gather_bytes(device_type), hosts = comm.all_gather_bytes(host);
  for (std::size_t rank = 1; rank < devices.size(); ++rank) {
    if (devices[rank] == devices[0]) continue;
    throw base::Error(ExitCode::kConfig,
                      fmt::format("rank 0 ({}) would use {}, rank {} ({}) {}: mend the host without a usable GPU, or "
                                  "set device = cpu",
                                  hosts[0], devices[0], rank, hosts[rank], devices[rank]),
                      base::SeenBy::kAllRanks);
  }
}

}  // namespace

struct MpiEnv::Impl {
  Topology topology;
  bool uses_mpi = false;
  bool may_finalize = false;
  std::unique_ptr<Lifeline> lifeline;
  // MPI_Abort needs memory to end the other ranks; without any it leaves with a code of its own. Untouched, it takes none.
  std::unique_ptr<std::byte[]> reserve = std::make_unique_for_overwrite<std::byte[]>(std::size_t{4} << 20);
};

MpiEnv::MpiEnv(int* argc, char*** argv) : impl_(std::make_unique<Impl>()) {
  impl_->topology.host = host_name();
  if (!started_by_launcher()) return;
  start_mpi(argc, argv);
  impl_->uses_mpi = true;
  impl_->topology = find_topology();
  // Each of them would train alone, and take the others for other runs.
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  const bool alone = impl_->topology.world_size == 1 && std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr;
  if (alone && tasks != nullptr && std::atoi(tasks) > 1) {
    base::fail(ExitCode::kConfig,
               "srun started {} tasks, but MPI knows of one: use an MPI plugin that connects them (srun --mpi=pmix), "
               "or launch/run",
               tasks);
  }
}

MpiEnv::~MpiEnv() {
  if (!impl_->uses_mpi || !impl_->may_finalize) return;
  MPI_Finalize();
  if (impl_->lifeline) impl_->lifeline->farewell();
}

const Topology& MpiEnv::topology() const {
  return impl_->topology;
}

void MpiEnv::on_loss(std::function<void(int rank)> lost) {
  if (impl_->topology.world_size == 1) return;
  ControlPlane world(MPI_COMM_WORLD);
  impl_->lifeline = make_lifeline(world, impl_->topology.host, std::move(lost));
}

void MpiEnv::finish_ok() {
  impl_->may_finalize = true;
}

void MpiEnv::abort(ExitCode code) {
  std::fflush(nullptr);
  impl_->reserve.reset();
  if (impl_->uses_mpi) MPI_Abort(MPI_COMM_WORLD, static_cast<int>(code));
  std::_Exit(static_cast<int>(code));
}

std::unique_ptr<Communicator> MpiEnv::create_communicator(const std::string& backend,
                                                          const std::string& device_type) {
  const bool cuda = device_type == "cuda";
  if (backend == "mpi" && cuda) {
    base::fail(
        ExitCode::kConfig,
        "comm_backend = mpi moves CPU tensors only: use comm_backend = nccl (or auto) with device = cuda");
  }
  if (backend == "nccl" && !cuda) {
    base::fail(ExitCode::kConfig,
               "comm_backend = nccl needs device = cuda; with device = {} use mpi (or auto)", device_type);
  }
  if (impl_->topology.world_size == 1) return make_single_communicator();
  auto over_mpi = make_mpi_communicator(MPI_COMM_WORLD, mpi_allows_threads());
  check_same_device(*over_mpi, device_type, impl_->topology.host);
  if (!cuda) return over_mpi;
  constexpr std::chrono::minutes kDeadline{5};  // large jobs take about one
  return make_nccl_communicator(std::move(over_mpi), load_device_backend(find_device_library()), kDeadline);
}

}  // namespace sft::parallel
