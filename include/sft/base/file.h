// Files that are complete or absent, and positioned reads and writes that check every return code.
//
// Failures throw FileError or Error: kStorage for writes and for I/O errors, kInvalidData for a missing or short file that is read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "sft/base/error.h"

namespace sft::base {

// Which file is to blame, and the operating system's words for why.
class FileError : public Error {
 public:
  FileError(ExitCode code, const std::string& message, const std::filesystem::path& path, const std::string& reason)
      : Error(code, message), path_(path), reason_(reason) {}
  const std::filesystem::path& path() const { return path_; }
  const std::string& reason() const { return reason_; }

 private:
  std::filesystem::path path_;
  std::string reason_;
};

// Throws FileError(code): "cannot <action> <path>: <reason>".
[[noreturn]] void fail_file(ExitCode code, const char* action, const std::filesystem::path& path,
                            const std::string& reason);

// An open file descriptor; move-only, closed by the destructor (quietly: call close() where the result matters).
class File {
 public:
  enum class Mode {
    kRead,        // existing regular file, symbolic links followed (model caches consist of them)
    kCreate,      // new file; fails when it exists
    kReadWrite,   // existing file, for writers that share it
  };
  File() = default;
  File(const std::filesystem::path& path, Mode mode);
  // Takes over a descriptor that another process opened for reading; `path` is what messages call it.
  File(const std::filesystem::path& path, int descriptor);
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File();

  int64_t size() const;  // bytes
  void read_at(int64_t offset, std::span<std::byte> out) const;  // all of it, or Error
  void write_at(int64_t offset, std::span<const std::byte> bytes);
  void resize(int64_t size);
  // A hint: the system may begin to write out what was put there while the caller goes on. Errors show in sync().
  void begin_write_out(int64_t offset, int64_t size);
  void sync();   // fsync
  void close();  // reports what a late write error left
  const std::filesystem::path& path() const { return path_; }
  int descriptor() const { return descriptor_; }  // to hand on to another process; stays owned

 private:
  void require_regular_file();

  std::filesystem::path path_;
  int descriptor_ = -1;
};

// Whole small file, at most `limit` bytes.
std::string read_text(const std::filesystem::path& path, int64_t limit = int64_t{64} << 20);

// Temporary file beside it, fsync, rename, fsync of the folder: readers see the old content or the new, never a mixture.
void write_text_atomically(const std::filesystem::path& path, std::string_view text);

void sync_directory(const std::filesystem::path& path);

// Bytes free for an ordinary user on the file system that holds path.
int64_t free_bytes(const std::filesystem::path& path);

}  // namespace sft::base
