#include <cctype>
#include <charconv>
#include <cmath>
#include <string_view>

#include "sft/base/error.h"
#include "sft/checkpoint/checkpoint.h"

namespace sft::checkpoint {
namespace {

struct Unit {
  std::string_view name;
  double bytes;
};

constexpr Unit kUnits[] = {{"KIB", 0x1p10}, {"MIB", 0x1p20}, {"GIB", 0x1p30}, {"TIB", 0x1p40}, {"KB", 1e3},
                           {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12},    {"", 1}};

}  // namespace

int64_t parse_size(const std::string& text) {
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  std::string unit;
  for (const char* c = rest; c != end; ++c) {
    if (*c != ' ') unit += static_cast<char>(std::toupper(static_cast<unsigned char>(*c)));
  }
  for (const Unit& known : kUnits) {
    const double bytes = std::floor(number * known.bytes);
    if (error == std::errc() && unit == known.name && bytes >= 1 && bytes < 0x1p62)
      return static_cast<int64_t>(bytes);
  }
  base::fail(base::ExitCode::kConfig,
             "'{}' is not a size: give a number of bytes with KB, MB, GB or TB (powers of 1000) or KiB, MiB, "
             "GiB or TiB, "
             "for example 5GB",
             text);
}

}  // namespace sft::checkpoint
