#include "parallel/mpi_handle.h"

#include <sched.h>

#include <chrono>
#include <exception>
#include <string>
#include <thread>

#include "sft/base/error.h"

namespace sft::parallel {

void check_mpi(int code, std::string_view operation) {
  if (code == MPI_SUCCESS) return;
  std::string text(MPI_MAX_ERROR_STRING, '\0');
  int length = 0;
  if (MPI_Error_string(code, text.data(), &length) != MPI_SUCCESS) length = 0;
  text.resize(static_cast<std::size_t>(length));
  base::fail(base::ExitCode::kInternal, "{} failed: {}", operation,
             text.empty() ? "unknown MPI error" : text);
}

void wait_politely(MPI_Request* request, std::string_view operation) {
  constexpr int kYields = 50;  // a rank that is about to arrive is met without a sleep
  constexpr std::chrono::microseconds kSleep{20};
  for (int looks = 0;; ++looks) {
    int done = 0;
    check_mpi(MPI_Test(request, &done, MPI_STATUS_IGNORE), operation);
    if (done != 0) return;
    if (looks < kYields) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(kSleep);
    }
  }
}

MpiComm::MpiComm(MPI_Comm comm) : comm_(comm) {
  check_mpi(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
}

MpiComm MpiComm::duplicate(MPI_Comm parent) {
  MPI_Comm comm = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(parent, &comm), "MPI_Comm_dup");
  return MpiComm(comm);
}

MpiComm MpiComm::split(MPI_Comm parent, int color, int key) {
  MPI_Comm comm = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split(parent, color, key, &comm), "MPI_Comm_split");
  return MpiComm(comm);
}

MpiComm MpiComm::split_shared(MPI_Comm parent) {
  MPI_Comm comm = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(parent, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &comm),
            "MPI_Comm_split_type");
  return MpiComm(comm);
}

MpiComm::~MpiComm() {
  // An exception on one rank: the others may be inside a collective on this communicator, and freeing it may
  // wait for them.
  if (comm_ == MPI_COMM_NULL || std::uncaught_exceptions() > 0) return;
  int finalized = 0;
  if (MPI_Finalized(&finalized) == MPI_SUCCESS && finalized == 0) MPI_Comm_free(&comm_);
}

int MpiComm::rank() const {
  int rank = 0;
  check_mpi(MPI_Comm_rank(comm_, &rank), "MPI_Comm_rank");
  return rank;
}

int MpiComm::size() const {
  int size = 0;
  check_mpi(MPI_Comm_size(comm_, &size), "MPI_Comm_size");
  return size;
}

}  // namespace sft::parallel
