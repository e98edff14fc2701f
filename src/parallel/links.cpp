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
// At least so many, and at least so long: on busy cores most answers wait for their turn.
constexpr int kPings = 40;
constexpr int kTransfers = 8;
constexpr double kSeconds = 0.1;
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
    while (asked_again()) {
      const double time = clock_now();
      send(&time, sizeof time);
    }
    while (asked_again()) {
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
    repeat(kPings, [&] {
      const double clock = clock_now(), start = base::monotonic_seconds();
      double others_clock = 0;
      ask_again(true);
      receive(&others_clock, sizeof others_clock);
      const double seconds = base::monotonic_seconds() - start;
      if (seconds >= best) return;
      best = seconds;
      link.clock_seconds = others_clock - (clock + seconds / 2);
    });
    link.latency_seconds = best / 2;
  }

  void measure_bandwidth(Link& link) {
    repeat(kTransfers, [&] {
      ask_again(true);
      const double start = base::monotonic_seconds();
      send(buffer_.data(), buffer_.size());
      receive(buffer_.data(), buffer_.size());
      const double rate = 2.0 * static_cast<double>(kTransferBytes) / (base::monotonic_seconds() - start);
      link.bytes_per_second = std::max(link.bytes_per_second, rate);
    });
  }

  template <typename Action>
  void repeat(int least, Action&& action) {
    const double start = base::monotonic_seconds();
    for (int i = 0; i < least || base::monotonic_seconds() - start < kSeconds; ++i) action();
    ask_again(false);
  }

  void ask_again(bool again) {
    const char flag = again ? 1 : 0;
    send(&flag, 1);
  }
  bool asked_again() {
    char flag = 0;
    receive(&flag, 1);
    return flag != 0;
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
