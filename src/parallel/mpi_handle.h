// MPI for C++: return codes become exceptions, communicators and operations have owners, waiting lets others
// use the core.
#pragma once

#include <mpi.h>

#include <string_view>
#include <utility>

namespace sft::parallel {

// Throws Error(kInternal) naming the operation and MPI's text unless code is MPI_SUCCESS.
void check_mpi(int code, std::string_view operation);

// Completes the request. Sleeps between looks: Open MPI's own wait keeps a core busy for as long as the
// slowest rank takes to arrive.
void wait_politely(MPI_Request* request, std::string_view operation);

// Owner of a communicator; errors on it come back as codes. Making one is Collective over the parent.
class MpiComm {
 public:
  MpiComm() = default;
  static MpiComm duplicate(MPI_Comm parent);
  static MpiComm split(MPI_Comm parent, int color, int key);
  static MpiComm split_shared(MPI_Comm parent);  // ranks that share memory
  MpiComm(MpiComm&& other) noexcept : comm_(std::exchange(other.comm_, MPI_COMM_NULL)) {}
  MpiComm& operator=(MpiComm&& other) noexcept {
    std::swap(comm_, other.comm_);
    return *this;
  }
  ~MpiComm();

  MPI_Comm get() const { return comm_; }
  int rank() const;
  int size() const;

 private:
  explicit MpiComm(MPI_Comm comm);
  MPI_Comm comm_ = MPI_COMM_NULL;
};

}  // namespace sft::parallel
