#include "sft/parallel/links.h"

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <limits>

#include "parallel/mpi_handle.h"
#include "parallel/tournament.h"
#include "sft/base/activity.h"
#include "sft/base/timer.h"

namespace sft::parallel {
namespace {

constexpr int kTag = 1;
constexpr int kPings = 40;
constexpr int kTransfers = 8;
constexpr std::size_t kTransferBytes = std::size_t{4} << 20;

double clock_now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// The two ends of one pair. The lower rank asks and takes the times; the other answers.
class Pair {
 public:
  Pair(MPI_Comm comm, int other) : comm_(comm), other_(other), buffer_(kTransferBytes) {}

  Link ask() {
    Link link;
    measure_latency(link);
    measure_bandwidth(link);
    send(&link, sizeof link);
    return link;
  }

  Link answer() {
    for (int i = 0; i < kPings; ++i) {
      receive(buffer_.data(), 1);
      const double time = clock_now();
      send(&time, sizeof time);
    }
    for (int i = 0; i < kTransfers; ++i) {
      receive(buffer_.data(), buffer_.size());
      send(buffer_.data(), buffer_.size());
    }
    Link link;
    receive(&link, sizeof link);
    link.clock_seconds = -link.clock_seconds;
    return link;
  }

 private:
  // The quickest answer tells most of the other's clock: it was read half way, to within half the time.
  void measure_latency(Link& link) {
    double best = std::numeric_limits<double>::infinity();
    for (int i = 0; i < kPings; ++i) {
      const double clock = clock_now(), start = base::monotonic_seconds();
      double others_clock = 0;
      send(buffer_.data(), 1);
      receive(&others_clock, sizeof others_clock);
      const double seconds = base::monotonic_seconds() - start;
      if (seconds >= best) continue;
      best = seconds;
      link.clock_seconds = others_clock - (clock + seconds / 2);
    }
    link.latency_seconds = best / 2;
  }

  void measure_bandwidth(Link& link) {
    for (int i = 0; i < kTransfers; ++i) {
      const double start = base::monotonic_seconds();
      send(buffer_.data(), buffer_.size());
      receive(buffer_.data(), buffer_.size());
      const double rate = 2.0 * static_cast<double>(kTransferBytes) / (base::monotonic_seconds() - start);
      link.bytes_per_second = std::max(link.bytes_per_second, rate);
    }
  }

  void send(const void* data, std::size_t bytes) {
    check_mpi(MPI_Send(data, static_cast<int>(bytes), MPI_BYTE, other_, kTag, comm_),
              "measure_links (MPI_Send)");
  }
  void receive(void* data, std::size_t bytes) {
    check_mpi(MPI_Recv(data, static_cast<int>(bytes), MPI_BYTE, other_, kTag, comm_, MPI_STATUS_IGNORE),
              "measure_links (MPI_Recv)");
  }

  MPI_Comm comm_;
  int other_;
  std::vector<std::byte> buffer_;
};

}  // namespace

std::vector<Link> measure_links(const Topology& topology) {
  std::vector<Link> links(static_cast<std::size_t>(topology.world_size));
  if (topology.world_size == 1) return links;  // possibly without MPI
  const activity::Collective inside(activity::Plane::kControl, "measure_links");
  const MpiComm comm = MpiComm::duplicate(MPI_COMM_WORLD);
  for (int round = 0; round < num_rounds(topology.world_size); ++round) {
    const int other = opponent(topology.world_size, round, topology.rank);
    if (other < 0) continue;
    Pair pair(comm.get(), other);
    links[static_cast<std::size_t>(other)] = topology.rank < other ? pair.ask() : pair.answer();
  }
  return links;
}

}  // namespace sft::parallel
