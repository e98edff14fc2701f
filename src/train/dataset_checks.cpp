#include "dataset_checks.h"

#include "sft/base/error.h"
#include "sft/base/file.h"
#include "sft/base/hash.h"
#include "sft/base/log.h"
#include "tokenizer_files.h"

namespace sft::train {
namespace {

using base::ExitCode;
using base::fail;
namespace fs = std::filesystem;

// docs/data-format.md, "The tokenizer". Empty: the folder holds no tokenizer.
std::string tokenizer_sha256(const fs::path& folder) {
  if (fs::exists(folder / "tokenizer.json"))
    return base::sha256_hex(base::read_text(folder / "tokenizer.json", kMaxTokenizerBytes));
  std::string bytes;
  for (const char* name : {"vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model"}) {
    if (fs::exists(folder / name)) bytes += base::read_text(folder / name, kMaxTokenizerBytes);
  }
  return bytes.empty() ? "" : base::sha256_hex(bytes);
}

void check_tokenizer(const std::string& path, const fs::path& folder, const data::DatasetInfo& info) {
  const std::string wanted = tokenizer_sha256(folder);
  if (wanted.empty()) {
    log::warning("{} holds no tokenizer: it cannot be checked that {} was prepared with the right one",
                 folder.string(), path);
  } else if (wanted != info.tokenizer_sha256) {
    fail(ExitCode::kInvalidData,
         "{} was prepared with another tokenizer than that of {}; run sft-prepare again with this run.ini",
         path, folder.string());
  }
}

// Of documents that packing keeps apart each counts for itself.
void check_lengths(const std::string& path, const data::TokenDataset& dataset, const data::RowOptions& rows,
                   const model::DecoderSpec& spec) {
  const bool apart = rows.packing && rows.packing->strategy != data::PackingStrategy::kWrapped;
  if (!apart && rows.max_length && spec.longest_row && *rows.max_length > *spec.longest_row) {
    fail(ExitCode::kConfig,
         "max_length = {} is beyond the {} positions of the model; set max_length = {} or less", *rows.max_length,
         *spec.longest_row, *spec.longest_row);
  }
  const int64_t limit = spec.longest_row.value_or(spec.max_position_embeddings), longest = dataset.longest_sequence();
  if (longest <= limit) return;
  if (spec.longest_row) {
    fail(ExitCode::kInvalidData,
         "{} has a row of {} tokens, more than the {} positions of the model; set max_length = {}", path, longest,
         limit, limit);
  }
  log::warning(
      "{} has rows longer than the model's max_position_embeddings = {}; positions beyond were never "
      "trained",
      path, limit);
}

}  // namespace

data::RowOptions row_options(const config::Options& options, bool training) {
  data::RowOptions rows{.max_length = options.data.max_length};
  if (options.data.shuffle_dataset) rows.shuffle_seed = static_cast<uint64_t>(options.data.seed);
  if (!training && !options.eval.eval_packing.value_or(options.data.packing)) return rows;
  if (training && !options.data.packing) return rows;
  const std::string& strategy = options.data.packing_strategy;
  rows.packing = {.strategy = strategy == "wrapped"     ? data::PackingStrategy::kWrapped
                              : strategy == "bfd_split" ? data::PackingStrategy::kBfdSplit
                                                        : data::PackingStrategy::kBfd,
                  .scope = options.data.packing_scope == "dataset" ? 0 : 1000};
  return rows;
}

std::unique_ptr<data::TokenDataset> open_checked_dataset(const DatasetRole& role, const std::string& path,
                                                         const config::Options& options,
                                                         const model::DecoderSpec& spec,
                                                         const fs::path& model_dir) {
  if (!fs::exists(path)) {
    fail(ExitCode::kInvalidData, "{} = {} does not exist; make it with: sft-prepare --args run.ini",
         role.option(), path);
  }
  const data::RowOptions rows = row_options(options, !role.is_evaluation);
  auto dataset = data::TokenDataset::open(path, rows);
  const data::DatasetInfo& info = dataset->info();
  if (info.vocab_size > spec.vocab_size) {
    fail(ExitCode::kInvalidData,
         "{} has token ids up to {}, the model's vocabulary has {}: it was prepared with a tokenizer of "
         "another model",
         path, info.vocab_size - 1, spec.vocab_size);
  }
  const std::string& name = options.prepare.tokenizer_name_or_path;
  const fs::path tokenizer_folder = name.empty() ? model_dir : model::resolve_tokenizer_dir(name);
  check_tokenizer(path, tokenizer_folder, info);
  check_preparation(role, path, options, info, tokenizer_folder);
  check_lengths(path, *dataset, rows, spec);
  return dataset;
}

}  // namespace sft::train
