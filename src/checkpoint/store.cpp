// The commit protocol of docs/checkpoint-format.md.
#include "checkpoint/store.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "checkpoint/collective.h"
#include "checkpoint/deal.h"
#include "checkpoint/directory.h"
#include "checkpoint/layout.h"
#include "checkpoint/manifest.h"
#include "checkpoint/reader.h"
#include "checkpoint/writer.h"
#include "sft/base/error.h"
#include "sft/base/hash.h"
#include "sft/base/json.h"
#include "sft/base/log.h"
#include "sft/base/timer.h"

namespace sft::checkpoint {
namespace {

namespace fs = std::filesystem;
using base::ExitCode;
using base::fail;

constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr auto kSharedPatience =
    std::chrono::seconds(5);  // for network file systems that cache a folder's listing

void write_side_file(const fs::path& folder, const SideFile& side_file) {
  const fs::path path = folder / side_file.name;
  fs::create_directories(path.parent_path());
  base::File file(path, base::File::Mode::kCreate);
  file.write_at(0, std::as_bytes(std::span(side_file.bytes)));
  file.sync();
  file.close();
}

FileRecord record_of(const SideFile& file, int64_t chunk_bytes) {
  FileRecord record{file.name, std::ssize(file.bytes), {}};
  if (file.bytes.empty()) return record;
  HashedRange range{record.bytes, {}};
  for (int64_t begin = 0; begin < record.bytes; begin += chunk_bytes) {
    range.digests +=
        base::xxh3_hex(std::string_view(file.bytes)
                           .substr(static_cast<std::size_t>(begin), static_cast<std::size_t>(chunk_bytes)));
  }
  record.ranges.push_back(std::move(range));
  return record;
}

std::string as_json_object(const std::string& text, const char* what) {
  const nlohmann::json parsed = base::parse_json(text, what);
  if (!parsed.is_object()) fail(ExitCode::kInternal, "the checkpoint's {} is not a JSON object", what);
  return parsed.dump();
}

void sync_folders(const fs::path& folder) {
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_directory()) base::sync_directory(entry.path());
  }
  base::sync_directory(folder);
}

// A folder with everything but the manifest, not yet in its place.
struct Draft {
  fs::path folder;
  int64_t chunk_bytes = 0;
  std::vector<FileRecord> files;
  int64_t bytes = 0, bytes_this_rank = 0;
};

class DirectoryStore final : public Store {
 public:
  DirectoryStore(const StoreOptions& options, parallel::Communicator& comm, StoreHooks hooks)
      : options_(options), comm_(comm), hooks_(std::move(hooks)) {
    if (options_.save_total_limit && *options_.save_total_limit < 1) {
      throw base::Error(ExitCode::kConfig, "save_total_limit must be at least 1", base::SeenBy::kAllRanks);
    }
    try {
      claim_output_dir();
      check_shared();
    } catch (...) {
      std::error_code ignored;
      if (is_root()) fs::remove(probe_, ignored);
      throw;
    }
    std::string results;
    run_agreed(comm_, ExitCode::kStorage, "output_dir " + dir().string(), [&] {
      if (!is_root()) return;
      fs::remove(probe_);
      sweep(dir());
      if (holds_results(dir())) results = "yes";
    });
    has_results_ = !comm_.broadcast_bytes(results, 0).empty();
  }

  bool has_results() const override { return has_results_; }
  void discard_checkpoints() override;
  void keep_only(int64_t step) override;
  bool has_checkpoint(int64_t step) override;
  SaveReport save(const Contents& contents) override;
  SaveReport save_final_model(const Contents& contents) override;
  std::unique_ptr<Reader> open_newest() override;
  std::unique_ptr<Reader> open_checkpoint(const fs::path& path) override;

 private:
  bool is_root() const { return comm_.rank() == 0; }
  const fs::path& dir() const { return options_.output_dir; }
  void claim_output_dir();
  void check_shared();
  Draft write_draft(const std::string& name, const Contents& contents);
  void prepare_draft(const Draft& draft, const Layout& layout, const std::vector<SideFile>& side_files) const;
  void remove_draft(const Draft& draft) const;
  void commit(const Draft& draft, const Contents& contents);
  void replace_final_files(const Draft& draft) const;
  // Collective. Null and the reasons in `failures` when it does not verify.
  std::unique_ptr<CheckpointReader> open_verified(const fs::path& path, std::optional<int64_t> step,
                                                  std::string& failures);

  StoreOptions options_;
  parallel::Communicator& comm_;
  StoreHooks hooks_;
  std::unique_ptr<Lease> lease_;  // rank 0
  fs::path probe_;                // the file that all hosts must see
  bool has_results_ = false;
};

void DirectoryStore::claim_output_dir() {
  std::string nonce = make_nonce();
  nonce = comm_.broadcast_bytes(nonce, 0);
  probe_ = temporary_path(dir(), ".shared", nonce);
  const std::string failures = failures_of(comm_, [&] {
    if (!is_root()) return;
    std::error_code error;
    fs::create_directories(dir(), error);
    if (error) fail(ExitCode::kStorage, "cannot create output_dir {}: {}", dir().string(), error.message());
    lease_ = std::make_unique<Lease>(dir(), hooks_.patience);
    write_side_file(dir(), {probe_.filename().string(), nonce});
  });
  if (!failures.empty()) {
    throw base::Error(ExitCode::kStorage, "output_dir " + dir().string() + " cannot be used: " + failures,
                      base::SeenBy::kAllRanks);
  }
}

// Every host finds the file that rank 0 wrote, and may write to it.
void DirectoryStore::check_shared() {
  const auto deadline = std::chrono::steady_clock::now() + hooks_.patience;
  while (!is_root() && !fs::exists(probe_) && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  std::error_code error;
  const bool seen = fs::exists(probe_, error);
  const std::vector<std::string> hosts = comm_.all_gather_bytes(host_name());
  const std::vector<std::string> blind_hosts = comm_.all_gather_bytes(seen ? std::string() : host_name());
  const std::set<std::string> blind(blind_hosts.begin(), blind_hosts.end());
  std::string names;
  for (const std::string& host : blind) {
    if (!host.empty()) names += (names.empty() ? "" : ", ") + host;
  }
  if (!names.empty()) {
    throw base::Error(
        ExitCode::kStorage,
        fmt::format("output_dir {} is not shared by all hosts: {} does not see what {} wrote there; choose a "
                    "folder on a file system that every host mounts",
                    dir().string(), names, hosts[0]),
        base::SeenBy::kAllRanks);
  }
  run_agreed(comm_, ExitCode::kStorage, "output_dir " + dir().string() + " cannot be used",
             [&] { base::File(probe_, base::File::Mode::kReadWrite).close(); });
}

void DirectoryStore::discard_checkpoints() {
  run_agreed(comm_, ExitCode::kStorage, "output_dir " + dir().string(), [&] {
    if (!is_root()) return;
    for (const auto& [step, path] : list_checkpoints(dir())) discard(path);
  });
  has_results_ = false;
}

void DirectoryStore::keep_only(int64_t step) {
  if (is_root()) apply_limit(dir(), step, step, 1);
}

bool DirectoryStore::has_checkpoint(int64_t step) {
  const bool has = is_root() && fs::is_directory(checkpoint_path(dir(), step));
  return !comm_.broadcast_bytes(has ? "yes" : "", 0).empty();
}

SaveReport DirectoryStore::save(const Contents& contents) {
  const double start = base::monotonic_seconds();
  comm_.check_same("the step of a checkpoint", std::to_string(contents.step));
  const fs::path target = checkpoint_path(dir(), contents.step);
  const Draft draft = write_draft(target.filename().string(), contents);
  try {
    run_agreed(comm_, ExitCode::kStorage, target.string() + " could not be saved", [&] {
      if (is_root()) commit(draft, contents);
    });
  } catch (...) {
    remove_draft(draft);
    throw;
  }
  if (is_root() && options_.save_total_limit)
    apply_limit(dir(), contents.step, contents.best_step, *options_.save_total_limit);
  return {target, draft.bytes, draft.bytes_this_rank, base::monotonic_seconds() - start};
}

SaveReport DirectoryStore::save_final_model(const Contents& contents) {
  const double start = base::monotonic_seconds();
  Contents model_only;
  model_only.step = contents.step;
  model_only.model_part = contents.model_part;
  model_only.model = contents.model;
  for (const SideFile& file : contents.files) {
    if (!file.name.starts_with("state/")) model_only.files.push_back(file);
  }
  const Draft draft = write_draft(".final", model_only);
  try {
    run_agreed(comm_, ExitCode::kStorage, "the final model could not be saved in " + dir().string(), [&] {
      if (is_root()) replace_final_files(draft);
    });
  } catch (...) {
    remove_draft(draft);
    throw;
  }
  remove_draft(draft);
  return {dir(), draft.bytes, draft.bytes_this_rank, base::monotonic_seconds() - start};
}

Draft DirectoryStore::write_draft(const std::string& name, const Contents& contents) {
  const Layout layout =
      make_layout(gather_groups(contents, comm_), options_.max_shard_bytes, contents.model_part);
  std::vector<SideFile> side_files = contents.files;
  if (!layout.model_index.empty()) side_files.push_back({kIndexName, layout.model_index});
  std::vector<int64_t> load(static_cast<std::size_t>(comm_.size()), 0);
  int64_t side_bytes = 0;
  for (const SideFile& file : side_files) side_bytes += std::ssize(file.bytes);
  side_bytes = std::stoll(comm_.broadcast_bytes(std::to_string(side_bytes), 0));
  load[0] = side_bytes;
  const Deal deal = deal_ranges(layout, std::move(load));

  Draft draft;
  draft.folder = temporary_path(dir(), name, comm_.broadcast_bytes(make_nonce(), 0));
  draft.bytes = layout.tensor_bytes() + side_bytes;
  draft.chunk_bytes = choose_chunk_bytes(draft.bytes);
  const std::string what = (dir() / name).string() + " could not be saved";
  try {
    std::optional<TensorWriter> writer;
    run_agreed(comm_, ExitCode::kStorage, what, [&] {
      if (is_root()) prepare_draft(draft, layout, side_files);
      writer.emplace(contents, layout, deal, comm_.rank());
      hooks_.at("prepared");
    });
    writer->exchange_fragments(comm_);
    run_agreed(comm_, ExitCode::kStorage, what, [&] {
      writer->write(draft.folder, draft.chunk_bytes);
      hooks_.at("written");
    });
    draft.files = writer->collect_records(comm_, draft.chunk_bytes);
    for (const SideFile& file : side_files) draft.files.push_back(record_of(file, draft.chunk_bytes));
    draft.bytes_this_rank = writer->bytes_this_rank() + (is_root() ? side_bytes : 0);
  } catch (...) {
    remove_draft(draft);
    throw;
  }
  return draft;
}

// Rank 0: the folder, its side files, and the tensor files at their full size for all ranks to write into.
void DirectoryStore::prepare_draft(const Draft& draft, const Layout& layout,
                                   const std::vector<SideFile>& side_files) const {
  const int64_t needed = draft.bytes + draft.bytes / 10;
  const int64_t free = hooks_.free_bytes(dir());
  if (free < needed) {
    fail(ExitCode::kStorage,
         "it needs {} MB and {} MB are free: free space, or set save_total_limit or save_only_model",
         needed / 1'000'000 + 1, free / 1'000'000);
  }
  std::error_code error;
  fs::create_directories(draft.folder / "state", error);
  if (error) fail(ExitCode::kStorage, "cannot create {}: {}", draft.folder.string(), error.message());
  for (const TensorFile& tensor_file : layout.files) {
    base::File file(draft.folder / tensor_file.name, base::File::Mode::kCreate);
    file.resize(tensor_file.size);
    file.close();
  }
  for (const SideFile& file : side_files) {
    if (!is_safe_name(file.name))
      fail(ExitCode::kInternal, "'{}' cannot be the name of a file in a checkpoint", file.name);
    write_side_file(draft.folder, file);
  }
}

void DirectoryStore::remove_draft(const Draft& draft) const {
  if (!is_root()) return;
  std::error_code error;
  fs::remove_all(draft.folder, error);
  if (error) log::warning("cannot delete {}: {}", draft.folder.string(), error.message());
}

void DirectoryStore::commit(const Draft& draft, const Contents& contents) {
  Manifest manifest;
  manifest.step = contents.step;
  manifest.world_size = comm_.size();
  manifest.chunk_bytes = draft.chunk_bytes;
  manifest.train_state = as_json_object(contents.train_state, "train_state");
  manifest.environment = as_json_object(contents.environment, "environment");
  manifest.files = draft.files;
  write_side_file(draft.folder, {kManifestName, manifest_text(manifest)});
  sync_folders(draft.folder);
  hooks_.at("manifest");
  put_in_place(draft.folder, checkpoint_path(dir(), contents.step));
  hooks_.at("renamed");
}

void DirectoryStore::replace_final_files(const Draft& draft) const {
  std::set<std::string> names;
  for (const FileRecord& file : draft.files) names.insert(file.name);
  for (const std::string& name : names) {
    fs::create_directories((dir() / name).parent_path());
    fs::rename(draft.folder / name, dir() / name);
  }
  // A loader would take the weights of an earlier save with another number of shards, or of another kind, for
  // a part of this one.
  std::vector<fs::path> stale;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir())) {
    const std::string name = entry.path().filename().string();
    const bool weights =
        name == "model.safetensors" || (name.starts_with("model-") && name.ends_with(".safetensors")) ||
        name == kIndexName || name == "adapter_model.safetensors" || name == "adapter_config.json";
    if (weights && !names.contains(name)) stale.push_back(entry.path());
  }
  for (const fs::path& path : stale) fs::remove(path);
  base::sync_directory(dir());
}

std::unique_ptr<CheckpointReader> DirectoryStore::open_verified(const fs::path& path,
                                                                std::optional<int64_t> step,
                                                                std::string& failures) {
  std::string text;
  failures = failures_of(comm_, [&] {
    if (is_root()) text = read_manifest_text(path);
  });
  if (!failures.empty()) return nullptr;
  text = comm_.broadcast_bytes(text, 0);
  std::unique_ptr<CheckpointReader> reader;
  failures = failures_of(comm_, [&] {
    reader = std::make_unique<CheckpointReader>(path, parse_manifest(text, (path / kManifestName).string()));
    if (step && reader->step() != *step)
      fail(ExitCode::kInvalidData, "{} holds step {}", path.string(), reader->step());
    reader->verify_part(comm_.rank(), comm_.size());
  });
  return failures.empty() ? std::move(reader) : nullptr;
}

std::unique_ptr<Reader> DirectoryStore::open_newest() {
  std::string list;
  run_agreed(comm_, ExitCode::kStorage, "output_dir " + dir().string(), [&] {
    if (!is_root()) return;
    nlohmann::json steps = nlohmann::json::array();
    for (const auto& [step, path] : list_checkpoints(dir())) steps.push_back(step);
    list = steps.dump();
  });
  std::vector<int64_t> steps =
      nlohmann::json::parse(comm_.broadcast_bytes(list, 0)).get<std::vector<int64_t>>();
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    std::string failures;
    if (auto reader = open_verified(checkpoint_path(dir(), *step), *step, failures)) return reader;
    if (is_root()) log::warning("checkpoint-{} is skipped: {}", *step, failures);
  }
  return nullptr;
}

std::unique_ptr<Reader> DirectoryStore::open_checkpoint(const fs::path& path) {
  std::string failures;
  if (auto reader = open_verified(path, std::nullopt, failures)) return reader;
  throw base::Error(ExitCode::kInvalidData, "the checkpoint cannot be used: " + failures,
                    base::SeenBy::kAllRanks);
}

}  // namespace

std::unique_ptr<Store> open_store(const StoreOptions& options, parallel::Communicator& comm,
                                  StoreHooks hooks) {
  return std::make_unique<DirectoryStore>(options, comm, std::move(hooks));
}

std::unique_ptr<Store> Store::open(const StoreOptions& options, parallel::Communicator& comm) {
  return open_store(options, comm, {});
}

}  // namespace sft::checkpoint
