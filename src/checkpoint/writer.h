// Tensor files written by all ranks at once, each its own ranges.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/deal.h"
#include "checkpoint/layout.h"
#include "checkpoint/manifest.h"
#include "checkpoint/retry.h"
#include "sft/parallel/communicator.h"

namespace sft::checkpoint {

class TensorWriter {
 public:
  // Local. Keeps references to all arguments. Error(kInternal) when a slice's data is not what it says.
  TensorWriter(const Contents& contents, const Layout& layout, const Deal& deal, int rank);

  // Collective. Hands over the bytes at the edges of ranges; nothing to do where all cuts fall between two
  // owners' pages.
  void exchange_fragments(parallel::Communicator& comm);
  // Local. Copies this rank's bytes into `buffer`, which must outlive the writer. From then on the contents
  // are not needed any more.
  void capture(std::vector<std::byte>& buffer);
  // Local. This rank's ranges of the files in folder, which exist with their full size; synced. Each file is
  // retried by itself. Error(kStorage).
  void write(const std::filesystem::path& folder, int64_t chunk_bytes, const Retry& retry);
  // Collective. After write() on every rank: what the manifest says of the files.
  std::vector<FileRecord> collect_records(parallel::Communicator& comm, int64_t chunk_bytes) const;

  int64_t bytes_this_rank() const;

 private:
  // Bytes [begin, end) of a file, from the header, a tensor, or another rank's fragment.
  struct Piece {
    int64_t begin = 0, end = 0;
    std::string_view text = {};          // header or fragment
    const TensorSlice* slice = nullptr;  // or the data of this
  };

  void add_slices(std::size_t file, const std::vector<TensorSlice>& slices);
  void copy(std::size_t file, int64_t begin, std::span<std::byte> out) const;
  // The digests of its chunks. captured: the range's bytes, or empty where they are still to be copied.
  std::string write_range(const WriteRange& range, std::span<const std::byte> captured,
                          const std::filesystem::path& path, int64_t chunk_bytes, const Retry& retry) const;

  const Layout& layout_;
  const Deal& deal_;
  int rank_;
  std::vector<std::map<int64_t, Piece>> pieces_;  // by file, keyed by end
  std::vector<std::string> fragments_;            // what other ranks sent
  std::span<const std::byte> captured_;           // this rank's ranges, in order; empty: not captured
  std::string digests_;                           // of the chunks of this rank's ranges, in order
};

}  // namespace sft::checkpoint
