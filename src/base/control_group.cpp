#include "sft/base/control_group.h"

#include <optional>
#include <sstream>

#include "sft/base/system_file.h"

namespace sft::base {
namespace {

namespace fs = std::filesystem;

bool is_listed(std::string_view name, const std::string& names) {
  std::istringstream in(names);
  for (std::string item; std::getline(in, item, ',');) {
    if (item == name) return true;
  }
  return false;
}

struct Group {
  bool version_2 = false;
  fs::path path;
};

// Lines "id:controllers:path"; version 2 has one line, of id 0 and without controllers, and where both are in
// use it governs those controllers that version 1 does not.
std::optional<Group> group_of(std::string_view controller, const std::string& groups) {
  std::optional<Group> found;
  std::istringstream in(groups);
  for (std::string line; std::getline(in, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == line.npos || second == line.npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (is_listed(controller, controllers)) return Group{false, line.substr(second + 1)};
    if (controllers.empty()) found = Group{true, line.substr(second + 1)};
  }
  return found;
}

struct Mount {
  fs::path root, point;  // which folder of the hierarchy is seen where
};

// Lines "id parent device root point options [tag]... - type source options".
std::optional<Mount> mount_of(const Group& group, std::string_view controller, const std::string& mounts) {
  std::optional<Mount> found;  // the last: it may lie on top of others
  std::istringstream in(mounts);
  for (std::string line; std::getline(in, line);) {
    std::istringstream fields(line);
    std::string skipped, root, point, type, options;
    fields >> skipped >> skipped >> skipped >> root >> point;
    while (fields >> skipped && skipped != "-") {
    }
    fields >> type >> skipped >> options;
    const bool fits =
        group.version_2 ? type == "cgroup2" : type == "cgroup" && is_listed(controller, options);
    if (fits) found = Mount{root, point};
  }
  return found;
}

}  // namespace

std::vector<fs::path> control_groups(std::string_view controller, const std::string& groups,
                                     const std::string& mounts) {
  const std::optional<Group> group = group_of(controller, groups);
  if (!group) return {};
  const std::optional<Mount> mount = mount_of(*group, controller, mounts);
  if (!mount) return {};
  // A container may see no more of the hierarchy than its own group, and that as the root.
  const fs::path inner = group->path.lexically_relative(mount->root);
  std::vector<fs::path> folders;
  fs::path folder = mount->point;
  folders.push_back(folder);
  if (!inner.empty() && *inner.begin() != ".." && inner != ".") {
    for (const fs::path& part : inner) folders.push_back(folder /= part);
  }
  return {folders.rbegin(), folders.rend()};
}

std::vector<fs::path> control_groups(std::string_view controller) {
  return control_groups(controller, read_system_file("/proc/self/cgroup"), read_system_file("/proc/self/mountinfo"));
}

}  // namespace sft::base
