// How the back ends are made. Only environment.cpp and tests include this.
#pragma once

#include <mpi.h>

#include <chrono>
#include <memory>

#include "sft/parallel/communicator.h"

namespace sft::parallel {

struct DeviceBackend;

std::unique_ptr<Communicator> make_single_communicator();

// Collective over parent, which is only duplicated. threaded: see WorkQueue; needs MPI_THREAD_MULTIPLE.
std::unique_ptr<Communicator> make_mpi_communicator(MPI_Comm parent, bool threaded);

// Collective over control, which serves the control plane. The calling thread's device must be set. deadline:
// for all ranks to arrive.
std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> control,
                                                     const DeviceBackend& backend,
                                                     std::chrono::milliseconds deadline);

}  // namespace sft::parallel
