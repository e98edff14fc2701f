#include "metrics/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <climits>
#include <ctime>

#include "sft/base/error.h"

namespace sft::metrics {
namespace {

template <typename Unsigned>
std::string little_endian(Unsigned value) {
  std::string bytes;
  for (std::size_t i = 0; i < sizeof(Unsigned); ++i) bytes += static_cast<char>(value >> (8 * i) & 0xff);
  return bytes;
}

// Wire types of protobuf.
constexpr uint32_t kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>((value & 0x7f) | 0x80);
  return bytes + static_cast<char>(value);
}
std::string key(uint32_t field, uint32_t wire_type) {
  return varint(field << 3 | wire_type);
}
std::string integer_field(uint32_t field, int64_t value) {
  return key(field, kVarint) + varint(static_cast<uint64_t>(value));
}
std::string double_field(uint32_t field, double value) {
  return key(field, kFixed64) + little_endian(std::bit_cast<uint64_t>(value));
}
std::string float_field(uint32_t field, float value) {
  return key(field, kFixed32) + little_endian(std::bit_cast<uint32_t>(value));
}
std::string bytes_field(uint32_t field, std::string_view value) {
  return key(field, kBytes) + varint(value.size()) + std::string(value);
}

uint32_t masked_crc(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xa282ead8U;
}

std::string host_name() {
  std::array<char, HOST_NAME_MAX + 1> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "localhost";
}

// What may stand in a file name on every system.
std::string as_file_name(std::string text) {
  for (char& c : text) {
    if (std::string_view(" /\\:*?\"<>|").find(c) != std::string_view::npos ||
        static_cast<unsigned char>(c) < 0x20)
      c = '_';
  }
  return text;
}

std::filesystem::path new_event_file(const std::filesystem::path& output_dir, const std::string& label) {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  ::localtime_r(&now, &local);
  std::array<char, 32> time{};
  (void)std::strftime(time.data(), time.size(), "%b%d_%H-%M-%S", &local);
  const std::string host = as_file_name(host_name());
  const auto folder =
      output_dir / "runs" / fmt::format("{}_{}", time.data(), label.empty() ? host : as_file_name(label));
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) base::fail(base::ExitCode::kStorage, "cannot create {}: {}", folder.string(), error.message());
  return folder / fmt::format("events.out.tfevents.{}.{}.{}.0", now, host, ::getpid());
}

}  // namespace

TensorBoardFile::TensorBoardFile(const std::filesystem::path& output_dir, const std::string& label)
    : file_(new_event_file(output_dir, label), AppendFile::Kind::kRecords) {
  file_.append(tensorboard_record(double_field(1, static_cast<double>(std::time(nullptr))) +
                                  bytes_field(3, "brain.Event:2")));
}

void TensorBoardFile::scalars(int64_t step, double wall_time,
                              const std::vector<std::pair<std::string, double>>& tags) {
  std::string summary;
  for (const auto& [tag, value] : tags) {
    summary += bytes_field(1, bytes_field(1, tag) + float_field(2, static_cast<float>(value)));
  }
  file_.append(
      tensorboard_record(double_field(1, wall_time) + integer_field(2, step) + bytes_field(5, summary)));
}

std::string tensorboard_tag(const std::string& key) {
  return key.starts_with("eval_") ? "eval/" + key.substr(5) : "train/" + key;
}

uint32_t crc32c(std::string_view bytes) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> made{};
    for (uint32_t i = 0; i < made.size(); ++i) {
      uint32_t crc = i;
      for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78U : 0U);
      made[i] = crc;
    }
    return made;
  }();
  uint32_t crc = ~0U;
  for (const char c : bytes) crc = table[(crc ^ static_cast<unsigned char>(c)) & 0xff] ^ (crc >> 8);
  return ~crc;
}

std::string tensorboard_record(std::string_view message) {
  const std::string length = little_endian(static_cast<uint64_t>(message.size()));
  return length + little_endian(masked_crc(length)) + std::string(message) +
         little_endian(masked_crc(message));
}

}  // namespace sft::metrics
