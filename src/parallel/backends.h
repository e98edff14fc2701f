// How the back ends are made. Only environment.cpp and tests include this.
#pragma once

#include <mpi.h>

#include <memory>

#include "sft/parallel/communicator.h"

namespace sft::parallel {

class DeviceRuntime;
class NcclApi;

std::unique_ptr<Communicator> make_single_communicator();

// Collective over parent, which is only duplicated. threaded: see WorkQueue; needs MPI_THREAD_MULTIPLE.
std::unique_ptr<Communicator> make_mpi_communicator(MPI_Comm parent, bool threaded);

}  // namespace sft::parallel
