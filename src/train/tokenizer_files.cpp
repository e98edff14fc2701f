#include "tokenizer_files.h"

#include "sft/base/error.h"
#include "sft/base/file.h"
#include "sft/base/log.h"
#include "sft/model/spec.h"

namespace sft::train {
namespace {

using base::ExitCode;
using base::fail;
namespace fs = std::filesystem;

// Of a file manager or a network file system.
bool is_hidden(const fs::directory_entry& entry) {
  return entry.path().filename().string().starts_with('.');
}

bool is_file(const fs::directory_entry& entry) {
  return entry.is_regular_file() && !is_hidden(entry);
}

checkpoint::SideFile side_file(const fs::directory_entry& entry, const std::string& folder = "") {
  const std::string name = entry.path().filename().string();
  if (!checkpoint::can_be_side_file(name)) {
    fail(ExitCode::kInvalidData,
         "{} cannot go into checkpoints under this name, as all files in this folder do: only letters, digits, "
         "'.', '_' and '-' are allowed, and none of the names of weights and of trainer_state.json; remove the "
         "file",
         entry.path().string());
  }
  return {folder + name, base::read_text(entry.path(), kMaxTokenizerBytes)};
}

// A link's target would become part of the model.
void refuse_links(const fs::path& folder) {
  if (!fs::is_directory(folder)) return;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (!entry.is_symlink() || is_hidden(entry)) continue;
    fail(ExitCode::kInvalidData,
         "{} is a link; the files in this folder go into checkpoints, so put the file itself there",
         entry.path().string());
  }
}

}  // namespace

std::vector<checkpoint::SideFile> tokenizer_files(const std::string& dataset_path) {
  const fs::path folder = fs::path(dataset_path).replace_extension(".tokenizer");
  if (!fs::is_directory(folder)) {
    log::warning("{} is missing: checkpoints will hold no tokenizer", folder.string());
    return {};
  }
  for (const fs::path& part : {folder, folder / model::kNamedTemplatesFolder}) refuse_links(part);
  std::vector<checkpoint::SideFile> files = named_chat_templates(folder);
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (is_file(entry)) files.push_back(side_file(entry));
  }
  return files;
}

std::vector<checkpoint::SideFile> named_chat_templates(const fs::path& folder) {
  std::vector<checkpoint::SideFile> files;
  const std::string name = model::kNamedTemplatesFolder;
  if (!fs::is_directory(folder / name)) return files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder / name)) {
    if (is_file(entry) && entry.path().extension() == ".jinja") files.push_back(side_file(entry, name + "/"));
  }
  return files;
}

}  // namespace sft::train
