// What the kernel says in files.
#pragma once

#include <filesystem>
#include <string>

namespace sft::base {

// Of a file of /proc or /sys, which have no size; empty where it cannot be read.
std::string read_system_file(const std::filesystem::path& path);

}  // namespace sft::base
