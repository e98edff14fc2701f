// LD_PRELOAD library: the rank named by SFT_FAULT_RANK comes to grief at the start, as SFT_FAULT says:
//   kill:SECONDS     SIGKILL so long after it has entered MPI_Init_thread
//   kill:broadcast   SIGKILL in its first broadcast
// Before MPI's start a shell script in place of the program does it.
#include <mpi.h>
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string_view>

namespace {

// What is to happen to this rank; empty: nothing.
std::string_view fault() {
  const char* wanted = std::getenv("SFT_FAULT_RANK");
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  const char* what = std::getenv("SFT_FAULT");
  if (!wanted || !rank || !what || std::strcmp(wanted, rank) != 0) return {};
  return what;
}

void die(int /*signal*/) {
  ::kill(::getpid(), SIGKILL);
}

void die_after(double seconds) {
  ::signal(SIGALRM, die);
  itimerval timer{};
  timer.it_value.tv_sec = static_cast<time_t>(seconds);
  timer.it_value.tv_usec =
      1 + static_cast<suseconds_t>((seconds - static_cast<double>(timer.it_value.tv_sec)) * 1e6);
  ::setitimer(ITIMER_REAL, &timer, nullptr);
}

}  // namespace

extern "C" {

int MPI_Init_thread(int* argc, char*** argv, int required, int* provided) {
  constexpr std::string_view kKill = "kill:";
  const std::string_view what = fault();
  if (what.starts_with(kKill) && what != "kill:broadcast") die_after(std::atof(what.data() + kKill.size()));
  return PMPI_Init_thread(argc, argv, required, provided);
}

int MPI_Ibcast(void* buffer, int count, MPI_Datatype type, int root, MPI_Comm comm, MPI_Request* request) {
  if (fault() == "kill:broadcast") die(0);
  return PMPI_Ibcast(buffer, count, type, root, comm, request);
}

}  // extern "C"
