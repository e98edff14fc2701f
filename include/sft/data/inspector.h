// The process that reads HDF5 for this one.
//
// libhdf5 can crash, hang or allocate without end on a damaged or malicious file. It is therefore not part of
// the training program: a helper, `sft-inspect`, forks a disposable process for every file, which may open no
// file, has limits of memory and time, and answers where the arrays lie. What happens to it becomes an Error
// kInvalidData.
#pragma once

namespace sft::data {

// Local. To be called before MPI_Init, after which a process should start no other; opening a data set starts
// the helper where this was not called. Never fails: what went wrong is thrown when the first data set is
// opened.
void start_inspector();

// Local. Ends the helper; when all data sets are open.
void stop_inspector();

}  // namespace sft::data
