// A log file that must never stop a training run.
#pragma once

#include <filesystem>
#include <string_view>

namespace sft::metrics {

// Opening fails with Error(kStorage); after that a failed write (disk full, say) is warned about once, and
// later ones are tried again.
class AppendFile {
 public:
  enum class Kind { kLines, kRecords };
  // kLines: a last line that a crash cut short is removed first.
  AppendFile(const std::filesystem::path& path, Kind kind);
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;
  ~AppendFile();

  // One write at the end of the file: whole, or not at all.
  void append(std::string_view bytes);
  void sync();

 private:
  void remove_unfinished_line();
  void warn_once(int error_number);

  std::filesystem::path path_;
  int descriptor_ = -1;
  bool warned_ = false;
};

}  // namespace sft::metrics
