// main() for compilers without libFuzzer: runs the target once on every file of the folders and files given.
#include <cstdio>
#include <filesystem>
#include <string>

#include "fuzz.h"

namespace fs = std::filesystem;

namespace {

void replay(const fs::path& file) {
  sft::fuzz::one_input(sft::base::read_text(file));
}

}  // namespace

int main(int argc, char** argv) {
  int files = 0;
  for (int i = 1; i < argc; ++i) {
    if (!fs::is_directory(argv[i])) {
      replay(argv[i]);
      ++files;
      continue;
    }
    for (const fs::directory_entry& entry : fs::directory_iterator(argv[i])) {
      replay(entry.path());
      ++files;
    }
  }
  std::printf("%d inputs\n", files);
  return files > 0 ? 0 : 1;
}
