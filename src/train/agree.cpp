#include "sft/train/agree.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <filesystem>
#include <new>
#include <string_view>
#include <system_error>
#include <vector>

namespace sft::train {

base::ExitCode code_of(const std::exception& error) {
  // LibTorch's errors: of the host's allocator a plain one, of a device's one with that name. A thread is
  // refused for want of memory for its stack.
  const std::string_view text = error.what();
  const auto* const system = dynamic_cast<const std::system_error*>(&error);
  const bool memory = dynamic_cast<const std::bad_alloc*>(&error) != nullptr ||
                      (system && system->code() == std::errc::resource_unavailable_try_again) ||
                      text.find("can't allocate memory") != text.npos ||
                      text.find("out of memory") != text.npos;
  if (memory) return base::ExitCode::kOutOfMemory;
  // A GPU that fell off the bus or whose memory failed: another start may do, without it.
  if (dynamic_cast<const c10::AcceleratorError*>(&error) != nullptr) return base::ExitCode::kHang;
  const bool storage = dynamic_cast<const std::filesystem::filesystem_error*>(&error) != nullptr;
  return storage ? base::ExitCode::kStorage : base::ExitCode::kInternal;
}

void agree_on_errors(parallel::Communicator& comm, int code, const std::string& message) {
  if (comm.all(code == 0)) return;
  const std::vector<std::string> codes = comm.all_gather_bytes(std::to_string(code));
  const std::vector<std::string> messages = comm.all_gather_bytes(message);
  const auto first = static_cast<std::size_t>(
      std::find_if(codes.begin(), codes.end(), [](const std::string& text) { return text != "0"; }) -
      codes.begin());
  const bool everywhere =
      std::all_of(codes.begin(), codes.end(), [](const std::string& text) { return text != "0"; });
  const std::string where = everywhere || first == 0 ? "" : fmt::format("rank {}: ", first);
  throw base::Error(static_cast<base::ExitCode>(std::stoi(codes[first])), where + messages[first],
                    base::SeenBy::kAllRanks);
}

}  // namespace sft::train
