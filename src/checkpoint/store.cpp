// The commit protocol of docs/checkpoint-format.md.
#include "checkpoint/store.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "checkpoint/collective.h"
#include "checkpoint/directory.h"
#include "checkpoint/manifest.h"
#include "checkpoint/reader.h"
#include "checkpoint/saving.h"
#include "checkpoint/side_file.h"
#include "sft/base/error.h"
#include "sft/base/json.h"
#include "sft/base/log.h"

namespace sft::checkpoint {
namespace {

namespace fs = std::filesystem;
using base::ExitCode;
using base::fail;

constexpr auto kSharedPatience =
    std::chrono::seconds(5);  // for network file systems that cache a folder's listing

std::string as_json_object(const std::string& text, const char* what) {
  const nlohmann::json parsed = base::parse_json(text, what);
  if (!parsed.is_object()) fail(ExitCode::kInternal, "the checkpoint's {} is not a JSON object", what);
  return parsed.dump();
}

// A loader would take the weights of an earlier save with another number of shards, or of another kind, for
// a part of the new one, whose files have these names.
void remove_stale_weights(const fs::path& folder, const std::set<std::string>& names) {
  std::vector<fs::path> stale;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    const bool weights = name == "model.safetensors" ||
                         (name.starts_with("model-") && name.ends_with(".safetensors")) ||
                         name == "model.safetensors.index.json" || name == "adapter_model.safetensors" ||
                         name == "adapter_config.json";
    if (weights && !names.contains(name)) stale.push_back(entry.path());
  }
  for (const fs::path& path : stale) fs::remove(path);
}

void sync_folders(const fs::path& folder) {
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_directory()) base::sync_directory(entry.path());
  }
  base::sync_directory(folder);
}

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
  void start_save(const Contents& contents) override;
  bool ready() const override { return !saving_ || saving_->ready(); }
  std::optional<SaveReport> advance() override;
  SaveReport finish_save() override;
  std::unique_ptr<Reader> open_newest() override;
  std::unique_ptr<Reader> open_checkpoint(const fs::path& path) override;
  Place place_of(const Reader& reader) override;
  void set_aside_after(int64_t step) override;

 private:
  bool is_root() const { return comm_.rank() == 0; }
  const fs::path& dir() const { return options_.output_dir; }
  void claim_output_dir();
  void check_shared();
  void check_idle() const {
    if (saving_) fail(ExitCode::kInternal, "a save was begun while another is under way");
  }
  void begin(const Contents& contents, std::vector<std::byte>* buffer);
  void commit(const Draft& draft, const Retry& retry, const Contents& head) const;
  void replace_final_files(const Draft& draft, const Retry& retry) const;
  // Collective. Null and the reasons in `damage` when it does not verify.
  std::unique_ptr<CheckpointReader> open_verified(const fs::path& path, std::optional<int64_t> step,
                                                  std::string& damage);

  StoreOptions options_;
  parallel::Communicator& comm_;
  StoreHooks hooks_;
  std::unique_ptr<Lease> lease_;  // rank 0
  Trash trash_;                   // rank 0
  fs::path probe_;                // the file that all hosts must see
  bool has_results_ = false;
  std::set<int64_t> damaged_;       // checkpoints that this run passed over
  std::vector<std::byte> buffer_;   // the copy that a save in the background writes; kept for the next
  std::unique_ptr<Saving> saving_;  // the save under way
};

// What a manifest needs besides the files.
Contents without_data(const Contents& contents) {
  Contents head;
  head.step = contents.step;
  head.train_state = contents.train_state;
  head.environment = contents.environment;
  head.best_step = contents.best_step;
  return head;
}

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
    for (const auto& [step, path] : list_checkpoints(dir())) trash_.discard(path);
  });
  has_results_ = false;
}

void DirectoryStore::keep_only(int64_t step) {
  if (is_root()) apply_limit(dir(), step, step, 1, damaged_, trash_);
}

bool DirectoryStore::has_checkpoint(int64_t step) {
  const bool has = is_root() && fs::is_directory(checkpoint_path(dir(), step));
  return !comm_.broadcast_bytes(has ? "yes" : "", 0).empty();
}

void DirectoryStore::begin(const Contents& contents, std::vector<std::byte>* buffer) {
  check_idle();
  comm_.check_same("the step of a checkpoint", std::to_string(contents.step));
  damaged_.erase(contents.step);
  const fs::path target = checkpoint_path(dir(), contents.step);
  SavePlan plan{.name = target.filename().string(),
                .target = target,
                .what = target.string() + " could not be saved",
                .lease = lease_.get(),
                .trash = &trash_,
                .place = [this, head = without_data(contents)](const Draft& draft, const Retry& retry) {
                  commit(draft, retry, head);
                  if (options_.save_total_limit)
                    apply_limit(dir(), head.step, head.best_step, *options_.save_total_limit, damaged_, trash_);
                }};
  saving_ = std::make_unique<Saving>(contents, std::move(plan), options_, hooks_, comm_, buffer);
}

SaveReport DirectoryStore::save(const Contents& contents) {
  begin(contents, nullptr);
  return finish_save();
}

void DirectoryStore::start_save(const Contents& contents) {
  begin(contents, &buffer_);
}

std::optional<SaveReport> DirectoryStore::advance() {
  std::unique_ptr<Saving> saving = std::move(saving_);
  std::optional<SaveReport> report = saving->advance();
  if (!report) saving_ = std::move(saving);
  return report;
}

SaveReport DirectoryStore::finish_save() {
  const std::unique_ptr<Saving> saving = std::move(saving_);
  return saving->finish();
}

SaveReport DirectoryStore::save_final_model(const Contents& contents) {
  check_idle();
  Contents model_only;
  model_only.step = contents.step;
  model_only.model_part = contents.model_part;
  model_only.model = contents.model;
  for (const SideFile& file : contents.files) {
    if (!file.name.starts_with("state/")) model_only.files.push_back(file);
  }
  SavePlan plan{
      .name = ".final",
      .target = dir(),
      .what = "the final model could not be saved in " + dir().string(),
      .lease = lease_.get(),
      .trash = &trash_,
      .place = [this](const Draft& draft, const Retry& retry) { replace_final_files(draft, retry); }};
  return Saving(model_only, std::move(plan), options_, hooks_, comm_, nullptr).finish();
}

void DirectoryStore::commit(const Draft& draft, const Retry& retry, const Contents& head) const {
  Manifest manifest;
  manifest.step = head.step;
  manifest.world_size = comm_.size();
  manifest.chunk_bytes = draft.chunk_bytes;
  manifest.train_state = as_json_object(head.train_state, "train_state");
  manifest.environment = as_json_object(head.environment, "environment");
  manifest.files = draft.files;
  const SideFile file{kManifestName, manifest_text(manifest)};
  retry(draft.folder / kManifestName, [&] {
    fs::remove(draft.folder / kManifestName);  // of an attempt that failed
    write_side_file(draft.folder, file);
    sync_folders(draft.folder);
    hooks_.at("manifest");
    put_in_place(draft.folder, checkpoint_path(dir(), head.step));
  });
  hooks_.at("renamed");
}

void DirectoryStore::replace_final_files(const Draft& draft, const Retry& retry) const {
  std::set<std::string> names;
  for (const FileRecord& file : draft.files) names.insert(file.name);
  for (const std::string& name : names) {
    retry(dir() / name, [&] {
      fs::create_directories((dir() / name).parent_path());
      fs::rename(draft.folder / name, dir() / name);
    });
  }
  retry(dir(), [&] {
    remove_stale_weights(dir(), names);
    base::sync_directory(dir());
  });
}

std::unique_ptr<CheckpointReader> DirectoryStore::open_verified(const fs::path& path,
                                                                std::optional<int64_t> step,
                                                                std::string& damage) {
  // Storage that fails for a moment must not have the run go on from an older checkpoint, or from none.
  const auto succeeds = [&](const std::function<void()>& action) {
    const std::vector<Failure> failures = gather_failures(comm_, failure_of(action));
    damage = describe(failures, comm_.size());
    for (const Failure& failure : failures) {
      if (failure.code != ExitCode::kStorage && failure.code != ExitCode::kOutOfMemory) continue;
      throw base::Error(failure.code,
                        fmt::format("{} cannot be read: {}; mend that, or move this checkpoint away to go on "
                                    "from an older one",
                                    path.string(), damage),
                        base::SeenBy::kAllRanks);
    }
    return failures.empty();
  };
  std::string text;
  const bool has_manifest = succeeds([&] {
    if (is_root()) text = read_manifest_text(path);
  });
  if (!has_manifest) return nullptr;
  text = comm_.broadcast_bytes(text, 0);
  std::unique_ptr<CheckpointReader> reader;
  const bool verified = succeeds([&] {
    reader = std::make_unique<CheckpointReader>(path, parse_manifest(text, (path / kManifestName).string()));
    if (step && reader->step() != *step)
      fail(ExitCode::kInvalidData, "{} holds step {}", path.string(), reader->step());
    reader->verify_part(comm_.rank(), comm_.size());
  });
  return verified ? std::move(reader) : nullptr;
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
  std::unique_ptr<Reader> without_optimizer;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    std::string damage;
    auto reader = open_verified(checkpoint_path(dir(), *step), *step, damage);
    if (reader && reader->has_optimizer()) return reader;
    if (is_root())
      log::warning("checkpoint-{} is skipped: {}", *step,
                   reader ? "it holds no optimizer state (save_only_model = true)" : damage);
    if (!reader) damaged_.insert(*step);
    if (!without_optimizer) without_optimizer = std::move(reader);
  }
  if (without_optimizer) return without_optimizer;
  if (!steps.empty()) {
    throw base::Error(ExitCode::kInvalidData,
                      fmt::format("{} holds checkpoints ({}), and none of them can be used (see above); to "
                                  "start afresh, move them away",
                                  dir().string(), steps.size()),
                      base::SeenBy::kAllRanks);
  }
  return nullptr;
}

std::unique_ptr<Reader> DirectoryStore::open_checkpoint(const fs::path& path) {
  std::string damage;
  if (auto reader = open_verified(path, std::nullopt, damage)) return reader;
  throw base::Error(ExitCode::kInvalidData, "the checkpoint cannot be used: " + damage,
                    base::SeenBy::kAllRanks);
}

Place DirectoryStore::place_of(const Reader& reader) {
  Place place = Place::kElsewhere;
  run_agreed(comm_, ExitCode::kStorage, "output_dir " + dir().string(), [&] {
    if (!is_root()) return;
    const fs::path own = checkpoint_path(dir(), reader.step());
    if (fs::exists(own) && fs::equivalent(reader.path(), own)) {
      place = Place::kOwnName;
    } else if (fs::canonical(reader.path()).parent_path() == fs::canonical(dir())) {
      place = Place::kOutputDir;
    }
  });
  return static_cast<Place>(std::stoi(comm_.broadcast_bytes(std::to_string(static_cast<int>(place)), 0)));
}

void DirectoryStore::set_aside_after(int64_t step) {
  run_agreed(comm_, ExitCode::kStorage, "output_dir " + dir().string(), [&] {
    if (!is_root()) return;
    for (const auto& [other, path] : list_checkpoints(dir())) {
      if (other <= step) continue;
      const fs::path aside = set_aside(path);
      log::warning(
          "checkpoint-{} is {}: renamed to {}", other,
          step < 0 ? "not of this run" : fmt::format("later than step {}, from which the run goes on", step),
          aside.filename().string());
    }
  });
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
